//! The leases that this process holds, each with the token that cancels its attempt.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::store::Lease;
use crate::task::TaskId;

/// The held leases of this process, one per task.
#[derive(Default)]
pub(crate) struct HeldLeases {
    leases_by_task: Mutex<HashMap<TaskId, (Lease, CancellationToken)>>,
}

/// Identifies one lease: a later lease of the same task has another key.
#[derive(PartialEq, Eq)]
pub(crate) struct LeaseKey {
    task_id: TaskId,
    attempt: u32,
    entry: String,
}

// === impl HeldLeases ===

impl HeldLeases {
    /// Holds a lease until [`Self::unregister`]; `cancelled` is cancelled when the lease is lost.
    /// An older attempt of the same task, which went on after its lease ran out, is cancelled.
    pub(crate) fn register(&self, lease: &Lease, cancelled: CancellationToken) -> LeaseKey {
        let older = self.lock_leases().insert(lease.task.id.clone(), (lease.clone(), cancelled));
        if let Some((older, cancelled)) = older {
            let (task_id, attempt) = (&older.task.id, older.attempt);
            tracing::warn!(%task_id, attempt, "lease expired under a running attempt");
            cancelled.cancel();
        }
        LeaseKey::from_lease(lease)
    }

    /// Ends the hold on the lease with this key, unless a later lease of the task replaced it.
    pub(crate) fn unregister(&self, key: &LeaseKey) {
        let mut held = self.lock_leases();
        if held.get(&key.task_id).is_some_and(|(lease, _)| LeaseKey::from_lease(lease) == *key) {
            held.remove(&key.task_id);
        }
    }

    /// All held leases.
    pub(crate) fn list_leases(&self) -> Vec<Lease> {
        self.lock_leases().values().map(|(lease, _)| lease.clone()).collect()
    }

    /// Cancels the attempts of those `renewed` leases whose tasks are in `lost`. An attempt that
    /// began after the renewal was sent goes on.
    pub(crate) fn cancel_lost(&self, renewed: &[Lease], lost: &[TaskId]) {
        let held = self.lock_leases();
        for lease in renewed.iter().filter(|lease| lost.contains(&lease.task.id)) {
            if let Some((current, cancelled)) = held.get(&lease.task.id)
                && LeaseKey::from_lease(current) == LeaseKey::from_lease(lease)
            {
                let (task_id, attempt) = (&lease.task.id, lease.attempt);
                tracing::info!(%task_id, attempt, "lease lost or task cancelled");
                cancelled.cancel();
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock_leases().is_empty()
    }

    fn lock_leases(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<TaskId, (Lease, CancellationToken)>> {
        self.leases_by_task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl LeaseKey ===

impl LeaseKey {
    fn from_lease(lease: &Lease) -> Self {
        Self {
            task_id: lease.task.id.clone(),
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
        let renewed = live.list_leases();
        live.register(&numbered_lease(1, 2), second.clone());
        assert!(first.is_cancelled(), "the older attempt is fenced");
        live.cancel_lost(&renewed, &[numbered_lease(1, 1).task.id]);
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
