//! Leases: the right to run one attempt of a task, and how it ends.
//!
//! A task has at most one live lease. (task id, attempt, store handle) is the fencing token: a
//! settlement, renewal or progress report under an older lease changes nothing.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::error::StoreError;
use super::queue::TopicQueue;
use crate::task::{Task, TaskAnswer, TaskFailure, TaskId, TaskProgress, Topic, UnixMs};

/// The right to run one attempt of a task, until the lease is settled or no longer renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The task to run.
    pub task: Task,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The queue that the task came from.
    pub queue: TopicQueue,
    /// Text by which the store finds the lease again: the lease number on SQLite, the stream entry
    /// and the lease number on Redis.
    pub store_handle: String,
}

/// The part of a lease that fences it: whoever has it may report for the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseHolder {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// [`Lease::store_handle`].
    pub store_handle: String,
}

impl LeaseHolder {
    /// The holder of `lease`.
    #[must_use]
    pub fn from_lease(lease: &Lease) -> Self {
        Self { attempt: lease.attempt, store_handle: lease.store_handle.clone() }
    }
}

/// How a worker wants a lease to end. Applied atomically and fenced; repeating an applied
/// settlement returns [`SettleResult::Applied`] again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The task is completed.
    Complete {
        /// The result.
        answer: TaskAnswer,
        /// How long the result can be read.
        ttl: Duration,
    },
    /// The attempt failed, and another one follows.
    Retry {
        /// Why the attempt failed.
        failure: TaskFailure,
        /// The earliest time of the next attempt.
        retry_at: UnixMs,
    },
    /// The task failed for good and becomes a dead letter.
    Bury {
        /// Why the last attempt failed.
        failure: TaskFailure,
        /// How long the record of the failed task can be read; the dead letter stays beyond it.
        ttl: Duration,
    },
    /// The lease is returned without a run: the attempt is not counted.
    Release,
}

impl Settlement {
    /// The size of the answer that is stored, bytes.
    #[must_use]
    pub fn answer_bytes(&self) -> usize {
        let answer = match self {
            Self::Complete { answer, .. } => Some(answer),
            Self::Retry { failure, .. } | Self::Bury { failure, .. } => failure.answer.as_ref(),
            Self::Release => None,
        };
        answer.map_or(0, |answer| answer.body.len())
    }
}

/// Whether a settlement was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleResult {
    /// The settlement is stored.
    Applied,
    /// Nothing changed: a later attempt holds the task, or the task was cancelled.
    Fenced,
}

/// A task that the store's maintenance made a dead letter, for the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuriedTask {
    /// The task's topic.
    pub topic: Topic,
    /// The route that it was canaried on.
    pub route: Option<String>,
    /// Whether the task failed because another program trimmed its entry off the Redis stream.
    pub trimmed: bool,
}

impl BuriedTask {
    /// The buried task of a lease that was settled with [`Settlement::Bury`], not trimmed.
    #[must_use]
    pub fn from_lease(lease: Lease) -> Self {
        Self { topic: lease.task.topic, route: lease.task.route, trimmed: false }
    }
}

/// A queue to lease from, and how many of its tasks there is room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDemand {
    /// The queue.
    pub queue: TopicQueue,
    /// The most tasks to lease from it.
    pub max: usize,
}

/// What one lease call asks for.
pub struct LeaseDemand<'a> {
    /// The process that the leases are for.
    pub process_name: &'a str,
    /// The queues.
    pub queues: &'a [QueueDemand],
    /// The most tasks to lease from all queues together.
    pub max: usize,
    /// How long to wait for the first task.
    pub wait: Duration,
    /// A notification ends the wait early.
    pub stop_waiting: &'a Notify,
}

/// Leases tasks to workers, and ends leases that nobody renews.
#[async_trait]
pub trait TaskLeasing: Send + Sync + 'static {
    /// Leases tasks, due retries included, without starving a queue; waits for the first. Each
    /// lease lasts [`lease_duration`](super::lease_duration) unless renewed. The call must not be
    /// dropped while it runs: tasks that it has leased would wait for their lease to expire.
    async fn lease_demand(&self, demand: &LeaseDemand<'_>) -> Result<Vec<Lease>, StoreError>;

    /// Leases up to `max` tasks of `queues`, whichever of them have tasks; waits up to `wait` for
    /// the first. Otherwise as [`Self::lease_demand`].
    async fn lease(
        &self,
        process_name: &str,
        queues: &[TopicQueue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let queues: Vec<_> =
            queues.iter().map(|queue| QueueDemand { queue: queue.clone(), max }).collect();
        let stop_waiting = &Notify::new();
        let demand = LeaseDemand { process_name, queues: &queues, max, wait, stop_waiting };
        self.lease_demand(&demand).await
    }

    /// Extends leases by [`lease_duration`](super::lease_duration) from now. Returns the tasks
    /// whose lease is lost: fenced, or the task was cancelled.
    async fn renew(&self, process_name: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError>;

    /// Ends a lease.
    async fn settle(
        &self,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<SettleResult, StoreError>;

    /// Stores the progress of a running attempt, readable while it runs. False when `holder` does
    /// not hold the current lease.
    async fn report_progress(
        &self,
        id: &TaskId,
        holder: &LeaseHolder,
        progress: &TaskProgress,
    ) -> Result<bool, StoreError>;

    /// Maintenance, called about every second by each process with workers. A task whose lease has
    /// expired becomes leasable again, or a dead letter with a record kept for `ttl` when
    /// [`may_rerun_after_crash`](super::may_rerun_after_crash) denies another attempt; expired
    /// records are deleted. Returns the tasks that became dead letters.
    async fn reap_expired(
        &self,
        process_name: &str,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError>;

    /// Maintenance for tasks that another program runs, called about every second by each process.
    /// Tasks that the other program gave up, and those past
    /// [`TopicQueue::external_timeout`], end as failed. Returns them. Does nothing where no topic
    /// is run by another program.
    async fn reconcile_external(
        &self,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError>;
}
