//! The worker pool: one puller that leases as many tasks as slots are free, and runs each on its own.
//!
//! Slots are `count · concurrency` of the current snapshot, so a reload counts at the next pull. Nothing is
//! pulled while the circuit is open, and what a pull brings that an outage overtook runs only once it is known not
//! to be cancelled. At shutdown the pulling stops, running attempts go on for `workers.drain`,
//! and the rest is cancelled and released unspent. Everything it spawned is joined when [`Pool::run`] returns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::handler::{GRACE, Handlers};
use super::live::Live;
use super::served::Served;
use super::settle::settle;
use super::{attempt, keep, now, outbox};
use crate::metrics::Metrics;
use crate::snapshot::{Snapshot, Snapshots};
use crate::store::{Circuit, Lease, Queue, Settlement, StoreError};
use crate::task::{Topic, UnixMs};

/// How long one pull waits for a task.
const PULL_WAIT: Duration = Duration::from_secs(1);
/// How often a puller without a free slot, or without a store, looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long settlements may go on once every attempt has ended.
const SETTLE_GRACE: Duration = Duration::from_secs(1);

/// The workers of one process.
pub struct Pool {
    shared: Arc<Shared>,
}

/// What the puller, the attempts and the keeper share.
pub(super) struct Shared {
    pub(super) process: String,
    pub(super) started: UnixMs,
    pub(super) circuit: Arc<Circuit>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handlers: Handlers,
    pub(super) live: Live,
    /// How many workers, where it is not the configuration that says so.
    workers: Option<usize>,
    served: Mutex<Served>,
}

/// How a drain ends what goes on.
#[derive(Clone, Default)]
pub(super) struct Stop {
    /// Cancelled when running attempts should end.
    pub(super) running: CancellationToken,
    /// Cancelled when settlements should not be repeated any more.
    pub(super) settling: CancellationToken,
}

// === impl Pool ===

impl Pool {
    /// The workers of `process` (its name in leases and heartbeats) over `circuit`'s store: `workers` of them, else
    /// as many as `workers.count` says.
    #[must_use]
    pub fn new(
        process: String,
        circuit: Arc<Circuit>,
        snapshots: Arc<Snapshots>,
        metrics: Arc<Metrics>,
        handlers: Handlers,
        workers: Option<usize>,
    ) -> Self {
        let (started, live, served) = (now(), Live::default(), Mutex::default());
        let shared = Shared { process, started, circuit, snapshots, metrics, handlers, live, workers, served };
        Self { shared: Arc::new(shared) }
    }

    /// Runs tasks until `shutdown`, and then drains.
    pub async fn run(self, shutdown: CancellationToken) {
        let shared = &self.shared;
        let done = CancellationToken::new();
        let work = async {
            let (mut running, stop) = (JoinSet::new(), Stop::default());
            pull(shared, &mut running, &stop, &shutdown).await;
            drain(shared, &mut running, &stop).await;
            done.cancel();
        };
        tokio::join!(work, keep::run(shared, &done), outbox::run(shared, &done));
        shared.metrics.workers_active.set(0);
        if let Err(error) = shared.circuit.call(shared.circuit.store().leave(&shared.process)).await {
            tracing::debug!(%error, "the heartbeat is left to expire");
        }
    }
}

/// Leases and spawns until `shutdown`.
async fn pull(shared: &Arc<Shared>, running: &mut JoinSet<()>, stop: &Stop, shutdown: &CancellationToken) {
    while !shutdown.is_cancelled() {
        while let Some(joined) = running.try_join_next() {
            report(joined);
        }
        let slots = shared.capacity();
        shared.metrics.workers_active.set(i64::try_from(slots).unwrap_or(i64::MAX));
        let free = slots.saturating_sub(running.len());
        let queues = shared.queues();
        if free == 0 || queues.is_empty() || !shared.circuit.is_clear() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                Some(joined) = running.join_next() => report(joined),
                () = sleep(LOOK_AGAIN) => {}
            }
            continue;
        }
        match shared.circuit.store().lease(&shared.process, &queues, free, PULL_WAIT).await {
            Ok(leases) => {
                let leases = vouched(shared, leases, shutdown).await;
                start(shared, running, leases, stop, shutdown);
            }
            Err(error) => pull_failed(shared, &error, shutdown).await,
        }
    }
}

/// What may run of `leases`. A pull that was under way when the store came back can bring tasks that are about to
/// be cancelled: then it waits until that is done, and asks which leases still hold.
async fn vouched(shared: &Shared, mut leases: Vec<Lease>, shutdown: &CancellationToken) -> Vec<Lease> {
    let (circuit, store) = (&shared.circuit, shared.circuit.store());
    let mut sure = leases.is_empty() || circuit.is_clear();
    while !sure && shutdown.run_until_cancelled(circuit.clear()).await.is_some() {
        match circuit.call(store.renew(&shared.process, &leases)).await {
            Ok(lost) => {
                leases.retain(|lease| !lost.contains(&lease.task.id));
                sure = circuit.is_clear();
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
fn start(
    shared: &Arc<Shared>,
    running: &mut JoinSet<()>,
    leases: Vec<Lease>,
    stop: &Stop,
    shutdown: &CancellationToken,
) {
    for lease in leases {
        let (shared, stop) = (Arc::clone(shared), stop.clone());
        if shutdown.is_cancelled() {
            running.spawn(async move {
                settle(&shared.circuit, lease, Settlement::Release, &stop.settling).await;
            });
        } else {
            running.spawn(attempt::run(shared, lease, stop));
        }
    }
}

/// A pull waits on purpose, outside of the circuit's deadline: a ping within it tells whether the store is gone.
async fn pull_failed(shared: &Shared, error: &StoreError, shutdown: &CancellationToken) {
    tracing::warn!(%error, "no tasks could be leased");
    if error.is_outage() {
        let _ = shared.circuit.attempt(shared.circuit.store().ping()).await;
    }
    let _ = shutdown.run_until_cancelled(sleep(LOOK_AGAIN)).await;
}

/// Lets attempts finish for `workers.drain`, then ends them and gives their tasks back.
async fn drain(shared: &Shared, running: &mut JoinSet<()>, stop: &Stop) {
    let limit = shared.snapshots.load().config.workers.drain;
    if timeout(limit, join_all(running)).await.is_ok() {
        return;
    }
    tracing::info!(attempts = running.len(), "drain time is over: attempts are cancelled and their tasks given back");
    stop.running.cancel();
    if timeout(GRACE + SETTLE_GRACE, join_all(running)).await.is_err() {
        stop.settling.cancel();
        join_all(running).await;
    }
}

async fn join_all(running: &mut JoinSet<()>) {
    while let Some(joined) = running.join_next().await {
        report(joined);
    }
}

fn report(joined: Result<(), JoinError>) {
    if let Err(error) = joined {
        tracing::error!(%error, "an attempt's bookkeeping panicked: its lease runs out and the task runs again");
    }
}

// === impl Shared ===

impl Shared {
    /// Slots of this process now.
    pub(super) fn capacity(&self) -> usize {
        let workers = &self.snapshots.load().config.workers;
        self.workers.unwrap_or(workers.count).saturating_mul(workers.concurrency)
    }

    /// The queues to pull from now.
    pub(super) fn queues(&self) -> Vec<Queue> {
        self.served().queues()
    }

    /// What a topic's next attempt runs by.
    pub(super) fn snapshot_of(&self, topic: &Topic) -> Option<Arc<Snapshot>> {
        self.served().snapshot(topic)
    }

    /// The served topics, up to date.
    pub(super) fn served(&self) -> MutexGuard<'_, Served> {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.refresh(&self.snapshots.load(), &self.handlers);
        served
    }
}

#[cfg(test)]
mod tests;
