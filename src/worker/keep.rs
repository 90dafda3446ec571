//! Keeps what the pool holds: heartbeat, renewals, then housekeeping, in this order.
//!
//! After an outage the heartbeat and the renewals come before anything else, so that the outage
//! does not make live tasks run twice; a round that an outage cut through is not gone on with.
//! While the circuit is open nothing is tried. A process without slots or leases keeps quiet.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::pool::WorkerContext;
use crate::metrics::TaskOutcome;
use crate::store::{StoreError, WorkerHeartbeat, heartbeat_ttl, lease_duration};

/// The longest pause between two rounds.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// Often enough for a lease to survive several failures, and for a cancelled task's attempt to be
/// told soon.
fn renewal_interval() -> Duration {
    lease_duration() / 10
}

/// When what is due next.
struct MaintenanceSchedule {
    next_heartbeat: Instant,
    next_renewal: Instant,
}

/// Keeps until `done`.
pub(super) async fn run_maintenance(shared: &WorkerContext, done: &CancellationToken) {
    let mut ticks = interval(MAINTENANCE_INTERVAL.min(renewal_interval()));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut due, mut outages) =
        (MaintenanceSchedule::all_due_now(), shared.circuit.outage_count());
    while done.run_until_cancelled(ticks.tick()).await.is_some() {
        // One that began and ended between two ticks counts too.
        let so_far = shared.circuit.outage_count();
        if std::mem::replace(&mut outages, so_far) != so_far {
            due = MaintenanceSchedule::all_due_now();
        }
        if !shared.circuit.is_open()
            && (shared.slot_count() > 0 || !shared.held_leases.is_empty())
            && let Err(error) = run_maintenance_round(shared, &mut due, outages).await
            && !error.is_outage()
        {
            tracing::warn!(%error, "worker housekeeping failed");
        }
    }
}

/// One round, which began after `outages` of them.
async fn run_maintenance_round(
    shared: &WorkerContext,
    due: &mut MaintenanceSchedule,
    outages: u64,
) -> Result<(), StoreError> {
    let (circuit, store, now) = (&shared.circuit, shared.circuit.store(), Instant::now());
    let cut = || circuit.outage_count() != outages;
    if now >= due.next_heartbeat {
        circuit.call(store.record_heartbeat(&build_heartbeat(shared))).await?;
        due.next_heartbeat = now + heartbeat_ttl() / 3;
    }
    if now >= due.next_renewal && !cut() {
        renew_leases(shared).await?;
        due.next_renewal = now + renewal_interval();
    }
    if cut() {
        return Ok(());
    }
    let ttl = shared.snapshots.load().config.results.ttl;
    if let Err(error) = circuit.call(store.enqueue_due_tasks(&shared.served_queues())).await {
        if error.is_outage() {
            return Err(error);
        }
        tracing::warn!(%error, "delayed tasks could not be queued");
    }
    for dead in
        circuit.call(store.reap_expired(&shared.process_name, &shared.served_queues(), ttl)).await?
    {
        shared.metrics.count_task_failed(dead.topic.as_str());
        if dead.trimmed {
            shared.metrics.count_task_trimmed(dead.topic.as_str());
        }
        if let Some(route) = dead.route {
            shared.metrics.count_task_outcome(&route, TaskOutcome::Failed);
        }
    }
    remove_drained_topics(shared).await
}

async fn renew_leases(shared: &WorkerContext) -> Result<(), StoreError> {
    let held = shared.held_leases.list_leases();
    if !held.is_empty() {
        let lost =
            shared.circuit.call(shared.circuit.store().renew(&shared.process_name, &held)).await?;
        shared.held_leases.cancel_lost(&held, &lost);
    }
    Ok(())
}

async fn remove_drained_topics(shared: &WorkerContext) -> Result<(), StoreError> {
    let removed = shared.lock_served_topics().removed_queues();
    if !removed.is_empty() {
        let depths =
            shared.circuit.call(shared.circuit.store().load_queue_depths(&removed)).await?;
        for (queue, depth) in removed.iter().zip(&depths) {
            shared.lock_served_topics().remove_if_drained(queue, depth);
        }
    }
    Ok(())
}

fn build_heartbeat(shared: &WorkerContext) -> WorkerHeartbeat {
    let slots = |gauge: i64| u32::try_from(gauge).unwrap_or(0);
    WorkerHeartbeat {
        process: shared.process_name.clone(),
        active_slots: slots(shared.metrics.workers_active.get()),
        busy_slots: slots(shared.metrics.workers_busy.get()),
        started_at: shared.started_at,
    }
}

// === impl Due ===

impl MaintenanceSchedule {
    fn all_due_now() -> Self {
        let now = Instant::now();
        Self { next_heartbeat: now, next_renewal: now }
    }
}
