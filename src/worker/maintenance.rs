//! The periodic maintenance of the pool. A round sends the heartbeat, renews the held leases,
//! enqueues due delayed tasks, reaps expired leases and drops drained topics, in this order.
//!
//! After an outage the heartbeat and the renewals come before anything else, so that the outage
//! does not make running tasks run twice; a round during which an outage began is abandoned. While
//! the circuit is open no round runs. A process without slots and leases runs none either.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::context::WorkerContext;
use crate::store::{StoreError, heartbeat_interval, lease_duration};

/// The longest interval between two rounds.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// The interval between renewals: short enough for a lease to survive several failed renewals, and
/// for the attempt of a cancelled task to be interrupted soon.
fn renewal_interval() -> Duration {
    lease_duration() / 10
}

/// When the heartbeat and the renewals are due next.
struct MaintenanceSchedule {
    next_heartbeat: Instant,
    next_renewal: Instant,
}

/// Runs maintenance rounds until `done`.
pub(super) async fn run_maintenance(context: &WorkerContext, done: &CancellationToken) {
    let mut ticks = interval(MAINTENANCE_INTERVAL.min(renewal_interval()));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut due, mut outages) =
        (MaintenanceSchedule::all_due_now(), context.circuit.outage_count());
    while done.run_until_cancelled(ticks.tick()).await.is_some() {
        context.publish_load();
        // The count also shows an outage that began and ended between two ticks.
        let outages_now = context.circuit.outage_count();
        if std::mem::replace(&mut outages, outages_now) != outages_now {
            due = MaintenanceSchedule::all_due_now();
        }
        if !context.circuit.is_open()
            && (context.worker_count() > 0 || !context.held_leases.is_empty())
            && let Err(error) = run_maintenance_round(context, &mut due, outages).await
            && !error.is_outage()
        {
            tracing::warn!(%error, "worker maintenance failed");
        }
    }
}

/// Runs one round. `outages` is the outage count at its start.
async fn run_maintenance_round(
    context: &WorkerContext,
    due: &mut MaintenanceSchedule,
    outages: u64,
) -> Result<(), StoreError> {
    let (circuit, store, now) = (&context.circuit, context.circuit.store(), Instant::now());
    let interrupted = || circuit.outage_count() != outages;
    if now >= due.next_heartbeat {
        circuit.call(store.record_heartbeat(&context.build_heartbeat())).await?;
        due.next_heartbeat = now + heartbeat_interval();
    }
    if now >= due.next_renewal && !interrupted() {
        renew_leases(context).await?;
        due.next_renewal = now + renewal_interval();
    }
    if interrupted() {
        return Ok(());
    }
    enqueue_due_tasks(context).await?;
    reap_expired_leases(context).await?;
    remove_drained_topics(context).await
}

async fn enqueue_due_tasks(context: &WorkerContext) -> Result<(), StoreError> {
    let store = context.circuit.store();
    match context.circuit.call(store.enqueue_due_tasks(&context.served_queues())).await {
        Err(error) if !error.is_outage() => {
            tracing::warn!(%error, "delayed tasks could not be queued");
            Ok(())
        }
        settled => settled,
    }
}

async fn reap_expired_leases(context: &WorkerContext) -> Result<(), StoreError> {
    let store = context.circuit.store();
    let ttl = context.snapshots.load().config.results.ttl;
    let queues = context.served_queues();
    let reaping = store.reap_expired(&context.process_name, &queues, ttl);
    for buried in context.circuit.call(reaping).await? {
        let (topic, route) = (buried.topic.as_str(), buried.route.as_deref());
        context.metrics.count_buried_task(topic, route, buried.trimmed);
    }
    Ok(())
}

async fn renew_leases(context: &WorkerContext) -> Result<(), StoreError> {
    let held = context.held_leases.list_leases();
    if !held.is_empty() {
        let lost = context
            .circuit
            .call(context.circuit.store().renew(&context.process_name, &held))
            .await?;
        context.held_leases.cancel_lost(&held, &lost);
    }
    Ok(())
}

async fn remove_drained_topics(context: &WorkerContext) -> Result<(), StoreError> {
    let removed = context.lock_served_topics().removed_queues();
    if !removed.is_empty() {
        let depths =
            context.circuit.call(context.circuit.store().load_queue_depths(&removed)).await?;
        for (queue, depth) in removed.iter().zip(&depths) {
            context.lock_served_topics().remove_if_drained(queue, depth);
        }
    }
    Ok(())
}

// === impl MaintenanceSchedule ===

impl MaintenanceSchedule {
    fn all_due_now() -> Self {
        let now = Instant::now();
        Self { next_heartbeat: now, next_renewal: now }
    }
}
