//! The leases that this process holds, and how to tell their attempts to stop.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::store::Lease;
use crate::task::TaskId;

/// The held leases, by task.
#[derive(Default)]
pub(super) struct Live {
    held: Mutex<HashMap<TaskId, (Lease, CancellationToken)>>,
}

/// Names one lease: a later one of the same task differs.
#[derive(PartialEq, Eq)]
pub(super) struct Holding {
    id: TaskId,
    attempt: u32,
    entry: String,
}

// === impl Live ===

impl Live {
    /// Holds a lease until [`Self::release`]; `cancelled` is told when it is lost. An older attempt of the
    /// same task is lost by that: its lease ran out while it went on.
    pub(super) fn hold(&self, lease: &Lease, cancelled: CancellationToken) -> Holding {
        let older = self.lock().insert(lease.task.id.clone(), (lease.clone(), cancelled));
        if let Some((older, cancelled)) = older {
            tracing::warn!(task_id = %older.task.id, attempt = older.attempt, "lease ran out under a running attempt");
            cancelled.cancel();
        }
        Holding::of(lease)
    }

    /// Holds it no more.
    pub(super) fn release(&self, holding: &Holding) {
        let mut held = self.lock();
        if held.get(&holding.id).is_some_and(|(lease, _)| Holding::of(lease) == *holding) {
            held.remove(&holding.id);
        }
    }

    /// The held leases, to be renewed.
    pub(super) fn leases(&self) -> Vec<Lease> {
        self.lock().values().map(|(lease, _)| lease.clone()).collect()
    }

    /// Tells the attempts of `asked` whose tasks are in `lost`. A later attempt that began meanwhile goes on.
    pub(super) fn lose(&self, asked: &[Lease], lost: &[TaskId]) {
        let held = self.lock();
        for lease in asked.iter().filter(|lease| lost.contains(&lease.task.id)) {
            if let Some((current, cancelled)) = held.get(&lease.task.id)
                && Holding::of(current) == Holding::of(lease)
            {
                tracing::info!(task_id = %lease.task.id, attempt = lease.attempt, "lease lost or task cancelled");
                cancelled.cancel();
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, (Lease, CancellationToken)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Holding ===

impl Holding {
    fn of(lease: &Lease) -> Self {
        Self { id: lease.task.id.clone(), attempt: lease.attempt, entry: lease.entry.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing;

    fn lease(number: u128, attempt: u32) -> Lease {
        Lease { attempt, ..testing::lease(testing::task(number, "t", "{}")) }
    }

    #[test]
    fn a_lost_lease_stops_its_own_attempt_and_no_later_one() {
        let (live, first, second) = (Live::default(), CancellationToken::new(), CancellationToken::new());
        live.hold(&lease(1, 1), first.clone());
        let asked = live.leases();
        live.hold(&lease(1, 2), second.clone());
        assert!(first.is_cancelled(), "the older attempt is fenced");
        live.lose(&asked, &[lease(1, 1).task.id]);
        assert!(!second.is_cancelled());
        live.lose(&live.leases(), &[lease(1, 2).task.id]);
        assert!(second.is_cancelled());
    }

    #[test]
    fn an_older_attempt_does_not_release_a_later_ones_lease() {
        let live = Live::default();
        let older = live.hold(&lease(1, 1), CancellationToken::new());
        let later = live.hold(&lease(1, 2), CancellationToken::new());
        live.release(&older);
        assert!(!live.is_empty());
        live.release(&later);
        assert!(live.is_empty());
    }
}
