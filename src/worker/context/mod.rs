//! The state that the parts of the worker pool share, and the signals by which a drain ends them.
//!
//! Data alone: nothing here runs an attempt, so that the puller, the attempts, the maintenance and
//! the deliveries can use it without knowing each other.

mod held_leases;
mod served_topics;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

pub(super) use self::held_leases::{HeldLeases, LeaseKey};
pub(super) use self::served_topics::ServedTopics;
use super::handler::HandlerRegistry;
use crate::metrics::Metrics;
use crate::snapshot::{Snapshot, SnapshotHandle};
use crate::store::{Circuit, TopicQueue};
use crate::task::{Topic, UnixMs};

/// The shared state of the worker pool of one process.
pub(super) struct WorkerContext {
    /// The name of this process in leases and heartbeats.
    pub(super) process_name: String,
    pub(super) started_at: UnixMs,
    pub(super) circuit: Arc<Circuit>,
    pub(super) snapshots: Arc<SnapshotHandle>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handlers: HandlerRegistry,
    pub(super) held_leases: HeldLeases,
    /// The number of workers, if it does not follow `workers.count`.
    fixed_worker_count: Option<usize>,
    served_topics: Mutex<ServedTopics>,
}

/// The signals of a drain to running attempts.
#[derive(Clone, Default)]
pub(super) struct DrainSignals {
    /// Cancelled when running attempts must end.
    pub(super) stop_attempts: CancellationToken,
    /// Cancelled when failed settlements must not be repeated any more.
    pub(super) stop_settling: CancellationToken,
}

// === impl WorkerContext ===

impl WorkerContext {
    /// The context of a process that starts now.
    pub(super) fn new(
        process_name: String,
        circuit: Arc<Circuit>,
        snapshots: Arc<SnapshotHandle>,
        metrics: Arc<Metrics>,
        handlers: HandlerRegistry,
        fixed_worker_count: Option<usize>,
    ) -> Self {
        Self {
            process_name,
            started_at: unix_now(),
            circuit,
            snapshots,
            metrics,
            handlers,
            held_leases: HeldLeases::default(),
            fixed_worker_count,
            served_topics: Mutex::default(),
        }
    }

    /// The number of slots of this process by the current snapshot.
    pub(super) fn slot_count(&self) -> usize {
        let workers = &self.snapshots.load().config.workers;
        self.fixed_worker_count.unwrap_or(workers.count).saturating_mul(workers.concurrency)
    }

    /// The queues that this process leases tasks from, by the current snapshot.
    pub(super) fn served_queues(&self) -> Vec<TopicQueue> {
        self.lock_served_topics().served_queues()
    }

    /// The snapshot by which the next attempt of `topic` runs; `None` for a topic that is not
    /// served.
    pub(super) fn topic_snapshot(&self, topic: &Topic) -> Option<Arc<Snapshot>> {
        self.lock_served_topics().topic_snapshot(topic)
    }

    /// The served topics, after adopting the current snapshot.
    pub(super) fn lock_served_topics(&self) -> MutexGuard<'_, ServedTopics> {
        let mut served = self.served_topics.lock().unwrap_or_else(PoisonError::into_inner);
        served.apply_snapshot(&self.snapshots.load(), &self.handlers);
        served
    }
}

/// The wall clock. Records are stamped with it; durations are not measured by it.
pub(super) fn unix_now() -> UnixMs {
    jiff::Timestamp::now().into()
}
