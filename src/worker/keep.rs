//! Keeps what the pool holds: heartbeat, renewals, then housekeeping, in this order.
//!
//! After an outage the heartbeat and the renewals come before anything else, so that the outage does not make
//! live tasks run twice; a round that an outage cut through is not gone on with. While the circuit is open nothing is
//! tried. A process without slots or leases keeps quiet.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::pool::Shared;
use crate::metrics::TaskOutcome;
use crate::store::{Heartbeat, StoreError, heartbeat_time, lease_time};

/// The longest pause between two rounds.
const TICK: Duration = Duration::from_secs(1);

/// Often enough for a lease to survive several failures, and for a cancelled task's attempt to be told soon.
fn renew_every() -> Duration {
    lease_time() / 10
}

/// When what is due next.
struct Due {
    beat: Instant,
    renewal: Instant,
}

/// Keeps until `done`.
pub(super) async fn run(shared: &Shared, done: &CancellationToken) {
    let mut ticks = interval(TICK.min(renew_every()));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut due, mut outages) = (Due::now(), shared.circuit.outages());
    while done.run_until_cancelled(ticks.tick()).await.is_some() {
        // One that began and ended between two ticks counts too.
        let so_far = shared.circuit.outages();
        if std::mem::replace(&mut outages, so_far) != so_far {
            due = Due::now();
        }
        if !shared.circuit.is_open()
            && (shared.capacity() > 0 || !shared.live.is_empty())
            && let Err(error) = keep(shared, &mut due, outages).await
            && !error.is_outage()
        {
            tracing::warn!(%error, "worker housekeeping failed");
        }
    }
}

/// One round, which began after `outages` of them.
async fn keep(shared: &Shared, due: &mut Due, outages: u64) -> Result<(), StoreError> {
    let (circuit, store, now) = (&shared.circuit, shared.circuit.store(), Instant::now());
    let cut = || circuit.outages() != outages;
    if now >= due.beat {
        circuit.call(store.beat(&heartbeat(shared))).await?;
        due.beat = now + heartbeat_time() / 3;
    }
    if now >= due.renewal && !cut() {
        renew(shared).await?;
        due.renewal = now + renew_every();
    }
    if cut() {
        return Ok(());
    }
    let ttl = shared.snapshots.load().config.results.ttl;
    if let Err(error) = circuit.call(store.promote(&shared.queues())).await {
        if error.is_outage() {
            return Err(error);
        }
        tracing::warn!(%error, "delayed tasks could not be queued");
    }
    for dead in circuit.call(store.tend(&shared.process, &shared.queues(), ttl)).await? {
        shared.metrics.task_failed(dead.topic.as_str());
        if dead.trimmed {
            shared.metrics.task_trimmed(dead.topic.as_str());
        }
        if let Some(route) = dead.route {
            shared.metrics.task_outcome(&route, TaskOutcome::Failed);
        }
    }
    forget_drained(shared).await
}

async fn renew(shared: &Shared) -> Result<(), StoreError> {
    let held = shared.live.leases();
    if !held.is_empty() {
        let lost = shared.circuit.call(shared.circuit.store().renew(&shared.process, &held)).await?;
        shared.live.lose(&held, &lost);
    }
    Ok(())
}

async fn forget_drained(shared: &Shared) -> Result<(), StoreError> {
    let removed = shared.served().removed();
    if !removed.is_empty() {
        let depths = shared.circuit.call(shared.circuit.store().depths(&removed)).await?;
        for (queue, depth) in removed.iter().zip(&depths) {
            shared.served().drained(queue, depth);
        }
    }
    Ok(())
}

fn heartbeat(shared: &Shared) -> Heartbeat {
    let slots = |gauge: i64| u32::try_from(gauge).unwrap_or(0);
    Heartbeat {
        process: shared.process.clone(),
        active: slots(shared.metrics.workers_active.get()),
        busy: slots(shared.metrics.workers_busy.get()),
        started: shared.started,
    }
}

// === impl Due ===

impl Due {
    fn now() -> Self {
        let now = Instant::now();
        Self { beat: now, renewal: now }
    }
}
