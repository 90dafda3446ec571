//! The leases that this process holds, and how to tell their attempts to stop.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::store::Lease;
use crate::task::TaskId;

/// The held leases, by task.
#[derive(Default)]
pub(super) struct HeldLeases {
    leases_by_task: Mutex<HashMap<TaskId, (Lease, CancellationToken)>>,
}

/// Names one lease: a later one of the same task differs.
#[derive(PartialEq, Eq)]
pub(super) struct LeaseKey {
    id: TaskId,
    attempt: u32,
    entry: String,
}

// === impl Live ===

impl HeldLeases {
    /// Holds a lease until [`Self::release`]; `cancelled` is told when it is lost. An older attempt
    /// of the same task is lost by that: its lease ran out while it went on.
    pub(super) fn register(&self, lease: &Lease, cancelled: CancellationToken) -> LeaseKey {
        let older = self.lock_leases().insert(lease.task.id.clone(), (lease.clone(), cancelled));
        if let Some((older, cancelled)) = older {
            tracing::warn!(task_id = %older.task.id, attempt = older.attempt, "lease ran out under a running attempt");
            cancelled.cancel();
        }
        LeaseKey::from_lease(lease)
    }

    /// Holds it no more.
    pub(super) fn unregister(&self, holding: &LeaseKey) {
        let mut held = self.lock_leases();
        if held.get(&holding.id).is_some_and(|(lease, _)| LeaseKey::from_lease(lease) == *holding) {
            held.remove(&holding.id);
        }
    }

    /// The held leases, to be renewed.
    pub(super) fn list_leases(&self) -> Vec<Lease> {
        self.lock_leases().values().map(|(lease, _)| lease.clone()).collect()
    }

    /// Tells the attempts of `asked` whose tasks are in `lost`. A later attempt that began
    /// meanwhile goes on.
    pub(super) fn cancel_lost(&self, asked: &[Lease], lost: &[TaskId]) {
        let held = self.lock_leases();
        for lease in asked.iter().filter(|lease| lost.contains(&lease.task.id)) {
            if let Some((current, cancelled)) = held.get(&lease.task.id)
                && LeaseKey::from_lease(current) == LeaseKey::from_lease(lease)
            {
                tracing::info!(task_id = %lease.task.id, attempt = lease.attempt, "lease lost or task cancelled");
                cancelled.cancel();
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock_leases().is_empty()
    }

    fn lock_leases(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<TaskId, (Lease, CancellationToken)>> {
        self.leases_by_task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Holding ===

impl LeaseKey {
    fn from_lease(lease: &Lease) -> Self {
        Self {
            id: lease.task.id.clone(),
            attempt: lease.attempt,
            entry: lease.store_handle.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing;

    fn numbered_lease(number: u128, attempt: u32) -> Lease {
        Lease { attempt, ..testing::test_lease(testing::test_task(number, "t", "{}")) }
    }

    #[test]
    fn a_lost_lease_stops_its_own_attempt_and_no_later_one() {
        let (live, first, second) =
            (HeldLeases::default(), CancellationToken::new(), CancellationToken::new());
        live.register(&numbered_lease(1, 1), first.clone());
        let asked = live.list_leases();
        live.register(&numbered_lease(1, 2), second.clone());
        assert!(first.is_cancelled(), "the older attempt is fenced");
        live.cancel_lost(&asked, &[numbered_lease(1, 1).task.id]);
        assert!(!second.is_cancelled());
        live.cancel_lost(&live.list_leases(), &[numbered_lease(1, 2).task.id]);
        assert!(second.is_cancelled());
    }

    #[test]
    fn an_older_attempt_does_not_release_a_later_ones_lease() {
        let live = HeldLeases::default();
        let older = live.register(&numbered_lease(1, 1), CancellationToken::new());
        let later = live.register(&numbered_lease(1, 2), CancellationToken::new());
        live.unregister(&older);
        assert!(!live.is_empty());
        live.unregister(&later);
        assert!(live.is_empty());
    }
}
