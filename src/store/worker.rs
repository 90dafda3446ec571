//! The worker processes that are alive, as other processes see them.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use super::queue::TopicQueue;
use super::timing::heartbeat_ttl;
use crate::task::{Topic, UnixMs};

/// The longest age of a heartbeat at which its process counts as able to run new tasks. Heartbeats
/// are sent every [`heartbeat_interval`].
const FRESH_HEARTBEAT_AGE: Duration = Duration::from_secs(3);

/// The name and load of a worker process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerHeartbeat {
    /// `<host>.<pid>.<boot>`: unique to the process.
    pub process: String,
    /// Live workers.
    pub active_workers: u32,
    /// How many workers the running tasks keep busy.
    pub busy_workers: u32,
    /// When the process started.
    pub started_at: UnixMs,
    /// The slots of each topic that the process runs tasks of; none from a release that does not
    /// report them, whose every worker runs one task of any topic.
    pub topics: Option<Vec<TopicLoad>>,
    /// How old the heartbeat is; zero in a heartbeat that is recorded.
    pub age: Duration,
}

/// The slots of one topic in one process: tasks that it can run at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLoad {
    /// The topic.
    pub topic: Topic,
    /// All slots, occupied ones included; 0 while the process drains.
    pub slots: u32,
    /// Occupied slots.
    pub running: u32,
    /// Attempts that ended in the last ten minutes.
    pub recent_runs: u32,
    /// The sum of their durations.
    pub recent_run_time: Duration,
}

impl WorkerHeartbeat {
    /// Whether the process was alive so recently that new tasks may count on it.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.age <= FRESH_HEARTBEAT_AGE.min(heartbeat_ttl())
    }
}

/// The interval between two heartbeats of a process.
#[must_use]
pub fn heartbeat_interval() -> Duration {
    Duration::from_secs(1).min(heartbeat_ttl() / 3)
}

/// How often a consumer of another program reads its stream at least: the Python `OmniDaemon`
/// blocks for five seconds at a time.
const EXTERNAL_READ_INTERVAL: Duration = Duration::from_secs(5);

/// A consumer of another program in the consumer group of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalConsumer {
    /// Its name in the group.
    pub name: String,
    /// How long ago it last read or claimed.
    pub idle: Duration,
    /// How many entries it holds.
    pub held_entries: u64,
}

/// Who reads a queue, beside the workers of this program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueConsumers {
    /// The consumer groups of the stream.
    pub groups: Vec<String>,
    /// The consumers of other programs in the queue's own group.
    pub external: Vec<ExternalConsumer>,
}

impl ExternalConsumer {
    /// Whether the consumer is live: it has read lately, or it runs a task that it took within the
    /// task's `timeout`. A consumer does not read while it runs a task, so that `idle` is the time
    /// since it took its last one.
    #[must_use]
    pub fn is_live(&self, timeout: Duration) -> bool {
        self.idle <= EXTERNAL_READ_INTERVAL * 3 || (self.held_entries > 0 && self.idle <= timeout)
    }
}

/// Records which worker processes are alive.
#[async_trait]
pub trait WorkerRegistry: Send + Sync + 'static {
    /// Records that a worker process is alive; the record lasts
    /// [`heartbeat_ttl`](super::heartbeat_ttl) unless repeated.
    async fn record_heartbeat(&self, heartbeat: &WorkerHeartbeat) -> Result<(), StoreError>;

    /// Deletes the heartbeat of a worker process that has ended.
    async fn remove_heartbeat(&self, process_name: &str) -> Result<(), StoreError>;

    /// The live worker processes, each with the age of its heartbeat.
    async fn list_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError>;

    /// Who reads `queues` beside the workers of this program, in their order. Each process that
    /// admits calls reads it about every second.
    async fn load_queue_consumers(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueConsumers>, StoreError>;
}
