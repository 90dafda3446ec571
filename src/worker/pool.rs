//! The worker pool: one puller that leases as many tasks as slots are free, and runs each on its
//! own.
//!
//! Slots are `count · concurrency` of the current snapshot, so a reload counts at the next pull.
//! Nothing is pulled while the circuit is open, and what a pull brings that an outage overtook runs
//! only once it is known not to be cancelled. At shutdown the pulling stops, running attempts go on
//! for `workers.drain`, and the rest is cancelled and released unspent. Everything it spawned is
//! joined when [`Pool::run`] returns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::handler::{HandlerRegistry, INTERRUPT_GRACE};
use super::live::HeldLeases;
use super::served::ServedTopics;
use super::settle::settle_lease;
use super::{attempt, keep, outbox, unix_now};
use crate::metrics::Metrics;
use crate::snapshot::{Snapshot, SnapshotHandle};
use crate::store::{Circuit, Lease, Settlement, StoreError, TopicQueue};
use crate::task::{Topic, UnixMs};

/// How long one pull waits for a task.
const PULL_WAIT: Duration = Duration::from_secs(1);
/// How often a puller without a free slot, or without a store, looks again.
const PULL_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// How long settlements may go on once every attempt has ended.
const SETTLE_GRACE: Duration = Duration::from_secs(1);

/// The workers of one process.
pub struct WorkerPool {
    shared: Arc<WorkerContext>,
}

/// What the puller, the attempts and the keeper share.
pub(super) struct WorkerContext {
    pub(super) process_name: String,
    pub(super) started_at: UnixMs,
    pub(super) circuit: Arc<Circuit>,
    pub(super) snapshots: Arc<SnapshotHandle>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handlers: HandlerRegistry,
    pub(super) held_leases: HeldLeases,
    /// How many workers, where it is not the configuration that says so.
    fixed_worker_count: Option<usize>,
    served_topics: Mutex<ServedTopics>,
}

/// How a drain ends what goes on.
#[derive(Clone, Default)]
pub(super) struct DrainSignals {
    /// Cancelled when running attempts should end.
    pub(super) stop_attempts: CancellationToken,
    /// Cancelled when settlements should not be repeated any more.
    pub(super) stop_settling: CancellationToken,
}

// === impl Pool ===

impl WorkerPool {
    /// The workers of `process` (its name in leases and heartbeats) over `circuit`'s store:
    /// `workers` of them, else as many as `workers.count` says.
    #[must_use]
    pub fn new(
        process: String,
        circuit: Arc<Circuit>,
        snapshots: Arc<SnapshotHandle>,
        metrics: Arc<Metrics>,
        handlers: HandlerRegistry,
        workers: Option<usize>,
    ) -> Self {
        let (started, live, served) = (unix_now(), HeldLeases::default(), Mutex::default());
        let shared = WorkerContext {
            process_name: process,
            started_at: started,
            circuit,
            snapshots,
            metrics,
            handlers,
            held_leases: live,
            fixed_worker_count: workers,
            served_topics: served,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs tasks until `shutdown`, and then drains.
    pub async fn run(self, shutdown: CancellationToken) {
        let shared = &self.shared;
        let done = CancellationToken::new();
        let work = async {
            let (mut running, stop) = (JoinSet::new(), DrainSignals::default());
            pull_tasks(shared, &mut running, &stop, &shutdown).await;
            drain_attempts(shared, &mut running, &stop).await;
            done.cancel();
        };
        tokio::join!(
            work,
            keep::run_maintenance(shared, &done),
            outbox::run_deliveries(shared, &done)
        );
        shared.metrics.workers_active.set(0);
        if let Err(error) =
            shared.circuit.call(shared.circuit.store().remove_heartbeat(&shared.process_name)).await
        {
            tracing::debug!(%error, "the heartbeat is left to expire");
        }
    }
}

/// Leases and spawns until `shutdown`.
async fn pull_tasks(
    shared: &Arc<WorkerContext>,
    running: &mut JoinSet<()>,
    stop: &DrainSignals,
    shutdown: &CancellationToken,
) {
    while !shutdown.is_cancelled() {
        while let Some(joined) = running.try_join_next() {
            report_panic(joined);
        }
        let slots = shared.slot_count();
        shared.metrics.workers_active.set(i64::try_from(slots).unwrap_or(i64::MAX));
        let free = slots.saturating_sub(running.len());
        let queues = shared.served_queues();
        if free == 0 || queues.is_empty() || !shared.circuit.is_clear_to_run() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                Some(joined) = running.join_next() => report_panic(joined),
                () = sleep(PULL_RETRY_INTERVAL) => {}
            }
            continue;
        }
        match shared.circuit.store().lease(&shared.process_name, &queues, free, PULL_WAIT).await {
            Ok(leases) => {
                let leases = confirm_leases(shared, leases, shutdown).await;
                start_attempts(shared, running, leases, stop, shutdown);
            }
            Err(error) => handle_pull_failure(shared, &error, shutdown).await,
        }
    }
}

/// What may run of `leases`. A pull that was under way when the store came back can bring tasks
/// that are about to be cancelled: then it waits until that is done, and asks which leases still
/// hold.
async fn confirm_leases(
    shared: &WorkerContext,
    mut leases: Vec<Lease>,
    shutdown: &CancellationToken,
) -> Vec<Lease> {
    let (circuit, store) = (&shared.circuit, shared.circuit.store());
    let mut sure = leases.is_empty() || circuit.is_clear_to_run();
    while !sure && shutdown.run_until_cancelled(circuit.wait_until_clear_to_run()).await.is_some() {
        match circuit.call(store.renew(&shared.process_name, &leases)).await {
            Ok(lost) => {
                leases.retain(|lease| !lost.contains(&lease.task.id));
                sure = circuit.is_clear_to_run();
            }
            Err(error) if error.is_outage() => {}
            Err(error) => {
                tracing::warn!(%error, "leases could not be confirmed: they run out and their tasks run later");
                return Vec::new();
            }
        }
    }
    leases
}

/// Starts what was leased; gives it back where the shutdown came first.
fn start_attempts(
    shared: &Arc<WorkerContext>,
    running: &mut JoinSet<()>,
    leases: Vec<Lease>,
    stop: &DrainSignals,
    shutdown: &CancellationToken,
) {
    for lease in leases {
        let (shared, stop) = (Arc::clone(shared), stop.clone());
        if shutdown.is_cancelled() {
            running.spawn(async move {
                settle_lease(&shared.circuit, lease, Settlement::Release, &stop.stop_settling)
                    .await;
            });
        } else {
            running.spawn(attempt::run_attempt(shared, lease, stop));
        }
    }
}

/// A pull waits on purpose, outside of the circuit's deadline: a ping within it tells whether the
/// store is gone.
async fn handle_pull_failure(
    shared: &WorkerContext,
    error: &StoreError,
    shutdown: &CancellationToken,
) {
    tracing::warn!(%error, "no tasks could be leased");
    if error.is_outage() {
        let _ = shared.circuit.call_even_if_open(shared.circuit.store().ping()).await;
    }
    let _ = shutdown.run_until_cancelled(sleep(PULL_RETRY_INTERVAL)).await;
}

/// Lets attempts finish for `workers.drain`, then ends them and gives their tasks back.
async fn drain_attempts(shared: &WorkerContext, running: &mut JoinSet<()>, stop: &DrainSignals) {
    let limit = shared.snapshots.load().config.workers.drain_timeout;
    if timeout(limit, join_attempts(running)).await.is_ok() {
        return;
    }
    tracing::info!(
        attempts = running.len(),
        "drain time is over: attempts are cancelled and their tasks given back"
    );
    stop.stop_attempts.cancel();
    if timeout(INTERRUPT_GRACE + SETTLE_GRACE, join_attempts(running)).await.is_err() {
        stop.stop_settling.cancel();
        join_attempts(running).await;
    }
}

async fn join_attempts(running: &mut JoinSet<()>) {
    while let Some(joined) = running.join_next().await {
        report_panic(joined);
    }
}

fn report_panic(joined: Result<(), JoinError>) {
    if let Err(error) = joined {
        tracing::error!(%error, "an attempt's bookkeeping panicked: its lease runs out and the task runs again");
    }
}

// === impl Shared ===

impl WorkerContext {
    /// Slots of this process now.
    pub(super) fn slot_count(&self) -> usize {
        let workers = &self.snapshots.load().config.workers;
        self.fixed_worker_count.unwrap_or(workers.count).saturating_mul(workers.concurrency)
    }

    /// The queues to pull from now.
    pub(super) fn served_queues(&self) -> Vec<TopicQueue> {
        self.lock_served_topics().served_queues()
    }

    /// What a topic's next attempt runs by.
    pub(super) fn topic_snapshot(&self, topic: &Topic) -> Option<Arc<Snapshot>> {
        self.lock_served_topics().topic_snapshot(topic)
    }

    /// The served topics, up to date.
    pub(super) fn lock_served_topics(&self) -> MutexGuard<'_, ServedTopics> {
        let mut served = self.served_topics.lock().unwrap_or_else(PoisonError::into_inner);
        served.apply_snapshot(&self.snapshots.load(), &self.handlers);
        served
    }
}

#[cfg(test)]
mod tests;
