//! The state that the parts of the worker pool share, and the signals by which a drain ends them.
//!
//! Data alone: nothing here runs an attempt, so that the puller, the attempts, the maintenance and
//! the deliveries can use it without knowing each other.

mod held_leases;
mod run_window;
mod served_topics;
mod topic_slots;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(super) use self::held_leases::{HeldLeases, LeaseKey};
pub(super) use self::served_topics::ServedTopics;
pub(super) use self::topic_slots::{OccupiedSlot, SlotLimits, TopicSlots};
use super::handler::HandlerRegistry;
use crate::capacity::CapacityHandle;
use crate::metrics::Metrics;
use crate::snapshot::{Snapshot, SnapshotHandle};
use crate::store::{Circuit, TopicQueue, WorkerHeartbeat};
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
    pub(super) slots: Arc<TopicSlots>,
    /// The slots of this process, as its own proxy sees them.
    pub(super) capacity: Arc<CapacityHandle>,
    /// The generation of the snapshot whose slots are adopted.
    adopted_generation: AtomicU64,
    /// Whether the process has stopped starting tasks.
    is_draining: AtomicBool,
    /// The number of workers, if it does not follow `workers.count`.
    fixed_worker_count: Option<usize>,
    served_topics: Mutex<ServedTopics>,
}

/// The signals of a drain to running attempts.
#[derive(Clone, Default)]
pub(super) struct DrainSignals {
    /// Cancelled when running attempts must end.
    pub(super) stop_attempts: CancellationToken,
    /// Cancelled when handlers that go on after that are dropped.
    pub(super) drop_attempts: CancellationToken,
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
        capacity: Arc<CapacityHandle>,
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
            slots: Arc::new(TopicSlots::new()),
            capacity,
            adopted_generation: AtomicU64::new(u64::MAX),
            is_draining: AtomicBool::new(false),
            fixed_worker_count,
            served_topics: Mutex::default(),
        }
    }

    /// The number of workers of this process by the current snapshot.
    pub(super) fn worker_count(&self) -> usize {
        self.fixed_worker_count.unwrap_or(self.snapshots.load().config.workers.count)
    }

    /// Adopts the slots of the current snapshot, unless they are adopted already.
    pub(super) fn adopt_slot_limits(&self) {
        let generation = self.snapshots.load().generation;
        if self.adopted_generation.swap(generation, Ordering::Relaxed) != generation {
            self.set_slot_limits();
        }
    }

    fn set_slot_limits(&self) {
        let draining = self.is_draining.load(Ordering::Relaxed);
        let workers = if draining { 0 } else { self.worker_count() };
        let limit_per_worker = self.snapshots.load().config.workers.concurrency;
        self.slots.set_limits(SlotLimits {
            by_topic: self.lock_served_topics().topic_concurrency(workers),
            total: limit_per_worker.map(|limit| limit.saturating_mul(workers)),
        });
        self.publish_load();
    }

    /// Shows the load of this process in the gauges, and to its own proxy.
    pub(super) fn publish_load(&self) {
        let heartbeat = self.build_heartbeat();
        self.metrics.workers_active.set(heartbeat.active_workers.into());
        self.metrics.workers_busy.set(heartbeat.busy_workers.into());
        self.capacity.set_own_workers(heartbeat);
    }

    /// Shows how many workers the running tasks keep busy.
    pub(super) fn show_busy_workers(&self) {
        let busy = self.slots.running_count().min(self.worker_count());
        self.metrics.workers_busy.set(i64::try_from(busy).unwrap_or(i64::MAX));
    }

    /// Takes all slots away: tasks that run go on, and no more are started.
    pub(super) fn begin_drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
        self.set_slot_limits();
    }

    /// What this process reports of itself now.
    pub(super) fn build_heartbeat(&self) -> WorkerHeartbeat {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let workers = self.worker_count();
        WorkerHeartbeat {
            process: self.process_name.clone(),
            active_workers: count(workers),
            busy_workers: count(self.slots.running_count().min(workers)),
            started_at: self.started_at,
            topics: Some(self.slots.topic_loads()),
            age: Duration::ZERO,
        }
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
