//! The worker pool: one puller leases as many tasks as slots are free, and each runs on its own.
//!
//! The slots of a topic are those of the current snapshot, so a reload takes effect at the next
//! pull. Nothing is pulled while the circuit is open, and tasks of a pull that an
//! outage overlapped run only once they are known not to be cancelled. At shutdown pulling stops at
//! once, running attempts may go on for a while ([`WorkerDrain`]), and the rest is cancelled and
//! released without counting the attempt. All spawned attempts are joined when
//! [`WorkerPool::run`] returns.

mod lease_check;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::lease_check::{PULL_RETRY_INTERVAL, confirm_leases, handle_pull_failure};
use super::attempt::{self, settle_lease};
use super::context::{DrainSignals, WorkerContext};
use super::drain::WorkerDrain;
use super::handler::HandlerRegistry;
use super::{delivery, maintenance};
use crate::capacity::CapacityHandle;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::snapshot::SnapshotHandle;
use crate::store::{Circuit, Lease, LeaseDemand, Settlement, StoreError};

/// How long one pull waits for a task.
const PULL_WAIT: Duration = Duration::from_secs(1);

/// The workers of one process.
pub struct WorkerPool {
    context: Arc<WorkerContext>,
}

// === impl WorkerPool ===

impl WorkerPool {
    /// The workers of the process `process` (its name in leases and heartbeats) over the store of
    /// `circuit`: `workers` of them, or `workers.count` of the configuration without a number.
    #[must_use]
    pub fn new(
        process: String,
        circuit: Arc<Circuit>,
        snapshots: Arc<SnapshotHandle>,
        metrics: Arc<Metrics>,
        handlers: HandlerRegistry,
        capacity: Arc<CapacityHandle>,
        workers: Option<usize>,
    ) -> Self {
        let context =
            WorkerContext::new(process, circuit, snapshots, metrics, handlers, capacity, workers);
        context.adopt_slot_limits();
        Self { context: Arc::new(context) }
    }

    /// Runs tasks until `shutdown`, then drains in the phases that `plan_drain` makes of the
    /// configuration of that moment.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        plan_drain: impl FnOnce(&Config) -> WorkerDrain,
    ) {
        let context = &self.context;
        let done = CancellationToken::new();
        let work = async {
            let (mut running, signals) = (JoinSet::new(), DrainSignals::default());
            pull_tasks(context, &mut running, &signals, &shutdown).await;
            context.begin_drain();
            let drain = plan_drain(&context.snapshots.load().config);
            drain_attempts(drain, &mut running, &signals).await;
            done.cancel();
        };
        tokio::join!(
            work,
            maintenance::run_maintenance(context, &done),
            delivery::run_deliveries(context, &done)
        );
        context.capacity.remove_own_workers();
        context.metrics.workers_active.set(0);
        context.metrics.workers_busy.set(0);
        let store = context.circuit.store();
        if let Err(error) =
            context.circuit.call(store.remove_heartbeat(&context.process_name)).await
        {
            tracing::debug!(%error, "the heartbeat was not removed: it expires");
        }
    }
}

/// Leases tasks and starts their attempts until `shutdown`.
async fn pull_tasks(
    context: &Arc<WorkerContext>,
    running: &mut JoinSet<()>,
    signals: &DrainSignals,
    shutdown: &CancellationToken,
) {
    while !shutdown.is_cancelled() {
        while let Some(joined) = running.try_join_next() {
            report_panic(joined);
        }
        context.adopt_slot_limits();
        let (queues, max) = context.slots.find_free(context.served_queues());
        if queues.is_empty() || !context.circuit.is_clear_to_run() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = context.slots.slot_freed().notified() => {}
                () = sleep(PULL_RETRY_INTERVAL) => {}
            }
            continue;
        }
        let demand = LeaseDemand {
            process_name: &context.process_name,
            queues: &queues,
            max,
            wait: PULL_WAIT,
            stop_waiting: context.slots.slot_freed(),
        };
        match lease_until_shutdown(context, &demand, shutdown).await {
            Ok(leases) => {
                let leases = confirm_leases(context, leases, shutdown).await;
                start_attempts(context, running, leases, signals, shutdown);
            }
            Err(error) => handle_pull_failure(context, &error, shutdown).await,
        }
    }
}

/// Leases tasks; at `shutdown` the call stops waiting for the first one. The call is not dropped,
/// since it may have leased tasks already.
async fn lease_until_shutdown(
    context: &WorkerContext,
    demand: &LeaseDemand<'_>,
    shutdown: &CancellationToken,
) -> Result<Vec<Lease>, StoreError> {
    let mut call = pin!(context.circuit.store().lease_demand(demand));
    tokio::select! {
        leased = call.as_mut() => leased,
        () = shutdown.cancelled() => {
            demand.stop_waiting.notify_one();
            call.await
        }
    }
}

/// Starts an attempt of each lease, or releases the lease if the shutdown came first.
fn start_attempts(
    context: &Arc<WorkerContext>,
    running: &mut JoinSet<()>,
    leases: Vec<Lease>,
    signals: &DrainSignals,
    shutdown: &CancellationToken,
) {
    for lease in leases {
        let (context, signals) = (Arc::clone(context), signals.clone());
        let slot = context.slots.occupy(&lease.task.topic);
        if shutdown.is_cancelled() {
            running.spawn(async move {
                settle_lease(&context.circuit, lease, Settlement::Release, &signals.stop_settling)
                    .await;
                drop(slot);
            });
        } else {
            running.spawn(attempt::run_attempt(context, lease, slot, signals));
        }
    }
}

/// Lets attempts finish, then cancels them and releases their tasks.
async fn drain_attempts(drain: WorkerDrain, running: &mut JoinSet<()>, signals: &DrainSignals) {
    if timeout(drain.run, join_attempts(running)).await.is_ok() {
        return;
    }
    tracing::info!(
        attempts = running.len(),
        "drain time is over: attempts are cancelled and their tasks released"
    );
    signals.stop_attempts.cancel();
    if timeout(drain.interrupt, join_attempts(running)).await.is_ok() {
        return;
    }
    signals.drop_attempts.cancel();
    if timeout(drain.settle, join_attempts(running)).await.is_err() {
        signals.stop_settling.cancel();
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
        tracing::error!(
            %error,
            "settling an attempt panicked: its lease expires and the task runs again"
        );
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
