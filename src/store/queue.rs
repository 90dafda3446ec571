//! The queue of a topic: putting tasks in, cancelling them, and counting them.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::config::{self, ContentForm, GroupStartPosition};
use crate::task::{Task, TaskId, TaskStatus, Topic};

/// A topic with the settings by which its tasks are queued. Callers build it from the current
/// configuration for each call, so that a reloaded setting applies at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicQueue {
    /// The topic.
    pub topic: Topic,
    /// The agent of the Redis consumer group.
    pub agent: String,
    /// How `content` is written on Redis.
    pub content_form: ContentForm,
    /// The number of waiting tasks at which `enqueue` refuses.
    pub max_backlog: u64,
    /// The number of open tasks (waiting to run or running, those that are delayed left out) at
    /// which `enqueue` refuses a task that is due at once; none: `max_backlog` is the only limit.
    pub max_open_tasks: Option<u64>,
    /// How long a consumer of another program keeps a task without a sign of life.
    pub reclaim_idle: Duration,
    /// For a topic whose tasks another program runs: the longest time from when a task may begin
    /// to its end.
    pub external_timeout: Option<Duration>,
    /// `retries` of tasks whose publisher, another program, sets none.
    pub retries: u32,
    /// Where the consumer group begins on Redis.
    pub group_start: GroupStartPosition,
}

impl TopicQueue {
    /// The queue of a configured topic.
    #[must_use]
    pub fn new(topic: &Topic, config: &config::TopicConfig) -> Self {
        Self {
            topic: topic.clone(),
            agent: config.agent.clone(),
            content_form: config.content_form,
            max_backlog: config.max_backlog,
            max_open_tasks: None,
            reclaim_idle: config.reclaim_idle,
            external_timeout: matches!(config.handler, config::HandlerConfig::External)
                .then_some(config.timeout),
            retries: config.retries,
            group_start: config.group_start,
        }
    }

    /// The queue of a topic with the default of every setting but the agent.
    #[must_use]
    pub fn with_default_settings(topic: Topic, agent: &str) -> Self {
        Self {
            topic,
            agent: agent.to_owned(),
            content_form: ContentForm::String,
            max_backlog: 100_000,
            max_open_tasks: None,
            reclaim_idle: Duration::from_mins(3),
            external_timeout: None,
            retries: 3,
            group_start: GroupStartPosition::FirstEntry,
        }
    }
}

/// How many tasks of a topic are in which state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Waiting tasks, retries included.
    pub queued: u64,
    /// Tasks under a lease.
    pub processing: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Age of the oldest waiting task; zero when no task waits.
    pub oldest_age: Duration,
}

/// The state in which a cancellation found its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelResult {
    /// The task was queued and never runs, or it already was cancelled.
    Cancelled,
    /// The task was running: it ends as cancelled, and its attempt is fenced.
    WasRunning,
    /// The task had ended with this other status, which stays.
    AlreadyEnded(TaskStatus),
    /// No such task.
    NoSuchTask,
}

/// Puts tasks into queues and takes them out unrun.
#[async_trait]
pub trait TaskQueue: Send + Sync + 'static {
    /// Makes a task durable, or refuses it. A task id that is already stored counts as success, so
    /// the call may be repeated. A task with a `due` time in the future counts as queued, and no
    /// worker can lease it before that time.
    async fn enqueue(&self, task: &Task, queue: &TopicQueue) -> Result<(), StoreError>;

    /// Cancels a task; its record stays readable for `ttl`. An earlier enqueue of the same id whose
    /// caller gave up waiting never makes the task afterwards: SQLite applies calls in the order of
    /// their arrival, and Redis refuses the id for a minute.
    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<CancelResult, StoreError>;

    /// Moves delayed tasks of `queues` that have become due into their queue, whether this process
    /// runs the topic or not. Each process calls it every second or two.
    async fn enqueue_due_tasks(&self, queues: &[TopicQueue]) -> Result<(), StoreError>;
}
