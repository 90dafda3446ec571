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

// === impl Live ===

impl Live {
    /// Holds a lease until [`Self::release`]; `cancelled` is told when it is lost. An older attempt of the
    /// same task is lost by that: its lease ran out while it went on.
    pub(super) fn hold(&self, lease: &Lease, cancelled: CancellationToken) {
        let older = self.lock().insert(lease.task.id.clone(), (lease.clone(), cancelled));
        if let Some((older, cancelled)) = older {
            tracing::warn!(task_id = %older.task.id, attempt = older.attempt, "lease ran out under a running attempt");
            cancelled.cancel();
        }
    }

    /// Holds it no more.
    pub(super) fn release(&self, id: &TaskId, attempt: u32) {
        let mut held = self.lock();
        if held.get(id).is_some_and(|(lease, _)| lease.attempt == attempt) {
            held.remove(id);
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
                && current.attempt == lease.attempt
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
        live.hold(&lease(1, 2), CancellationToken::new());
        live.release(&lease(1, 1).task.id, 1);
        assert!(!live.is_empty());
        live.release(&lease(1, 2).task.id, 2);
        assert!(live.is_empty());
    }
}
