//! The running attempts and their progress. In memory only: the leases of an earlier boot are
//! released when the database is opened.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::task::{TaskId, TaskProgress};

/// The running attempts, by task.
#[derive(Clone, Default)]
pub(crate) struct RunningAttempts(Arc<Mutex<HashMap<TaskId, TrackedAttempt>>>);

struct TrackedAttempt {
    /// The number of the lease.
    lease_number: i64,
    progress: Option<TaskProgress>,
}

impl RunningAttempts {
    /// Records the begin of an attempt; it replaces an older attempt of the task.
    pub(crate) fn begin_attempt(&self, id: &TaskId, lease_number: i64) {
        self.lock_attempts().insert(id.clone(), TrackedAttempt { lease_number, progress: None });
    }

    /// Removes an attempt, unless a later one has replaced it.
    pub(crate) fn end_attempt(&self, id: &TaskId, lease_number: i64) {
        let mut running = self.lock_attempts();
        if running.get(id).is_some_and(|attempt| attempt.lease_number == lease_number) {
            running.remove(id);
        }
    }

    /// Removes the attempt of a task that has ended.
    pub(crate) fn forget_task(&self, id: &TaskId) {
        self.lock_attempts().remove(id);
    }

    /// Stores the progress of an attempt; false when it is no longer the running one.
    pub(crate) fn record_progress(
        &self,
        id: &TaskId,
        lease_number: i64,
        progress: &TaskProgress,
    ) -> bool {
        match self
            .lock_attempts()
            .get_mut(id)
            .filter(|attempt| attempt.lease_number == lease_number)
        {
            Some(attempt) => {
                attempt.progress = Some(progress.clone());
                true
            }
            None => false,
        }
    }

    /// The progress of the running attempt of a task.
    pub(crate) fn progress_of_task(&self, id: &TaskId) -> Option<TaskProgress> {
        self.lock_attempts().get(id)?.progress.clone()
    }

    fn lock_attempts(&self) -> MutexGuard<'_, HashMap<TaskId, TrackedAttempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
