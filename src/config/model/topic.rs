//! The section `topics`: which handler runs the tasks of a queue, and within which limits.

use std::time::Duration;

/// One entry of `topics:`
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// What runs its tasks.
    pub handler: HandlerConfig,
    /// The longest one attempt may take.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// The base of the backoff.
    pub retry_delay: Duration,
    /// How many of its tasks one worker runs at a time.
    pub concurrency: usize,
    /// How many tasks one consumer of another program runs at a time.
    pub external_slots: u32,
    /// The consumer group's name on Redis.
    pub agent: String,
    /// How `content` is written on Redis.
    pub content_form: ContentForm,
    /// Waiting tasks over which new ones are refused.
    pub max_backlog: u64,
    /// The `reclaim_idle_ms` of Python agents in the same group: before it, a task that one of
    /// them runs is its own.
    pub reclaim_idle: Duration,
    /// Where the consumer group begins on Redis.
    pub group_start: GroupStartPosition,
}

/// `handler:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerConfig {
    /// Replays the captured request to the legacy upstream.
    Upstream,
    /// POSTs the payload to a URL.
    Http(String),
    /// Runs a program: task on stdin, result on stdout. Never empty.
    Command(Vec<String>),
    /// Left to other consumers.
    External,
}

impl HandlerConfig {
    /// The default of `concurrency`. `upstream` and `http` wait for another server, and many waits
    /// fit into one worker; a program computes in a process of its own.
    #[must_use]
    pub fn default_concurrency(&self) -> usize {
        match self {
            Self::Upstream | Self::Http(_) => 32,
            Self::Command(_) | Self::External => 1,
        }
    }
}

/// `content:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentForm {
    /// The payload as a JSON string, which the Genesis bridge expects.
    String,
    /// The payload as it is.
    Object,
}

/// `start:`: where a consumer group begins in a stream that others have read before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupStartPosition {
    /// At the first entry: nothing is skipped.
    FirstEntry,
    /// After what was there when the group was first made: others have done that.
    NewEntries,
}
