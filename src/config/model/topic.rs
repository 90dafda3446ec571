//! The section `topics`: which handler runs the tasks of a queue, and within which limits.

use std::time::Duration;

/// One entry of `topics:`
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// The handler that runs the topic's tasks.
    pub handler: HandlerConfig,
    /// The longest time that one attempt may take.
    pub timeout: Duration,
    /// The number of attempts after the first.
    pub retries: u32,
    /// The delay before the first retry; later delays grow from it.
    pub retry_delay: Duration,
    /// How many of its tasks one worker runs at a time.
    pub concurrency: usize,
    /// How many tasks one consumer of another program runs at a time.
    pub external_slots: u32,
    /// The agent in the name of the consumer group on Redis, `group:<topic>:<agent>`.
    pub agent: String,
    /// How the field `content` of an entry is written on Redis.
    pub content_form: ContentForm,
    /// The number of waiting tasks above which new ones are refused.
    pub max_backlog: u64,
    /// The `reclaim_idle_ms` of Python agents in the same group. An entry that such an agent has
    /// held for less time is not taken from it.
    pub reclaim_idle: Duration,
    /// Where in the stream the consumer group begins on Redis.
    pub group_start: GroupStartPosition,
}

/// `handler:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerConfig {
    /// Replays the captured request to the legacy upstream.
    Upstream,
    /// POSTs the payload to a URL.
    Http(String),
    /// Runs a program with the task on stdin and the result on stdout; the list has the program
    /// and its arguments, and is never empty.
    Command(Vec<String>),
    /// Other programs consume the topic; no worker of omnidaemon runs its tasks.
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
    /// The payload as a JSON value.
    Object,
}

/// `start:`: where a new consumer group begins in a stream that has entries already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupStartPosition {
    /// At the first entry: the group gets all entries.
    FirstEntry,
    /// After the entries that exist when the group is created, which other groups have processed.
    NewEntries,
}
