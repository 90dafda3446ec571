//! What is known of the running attempts and need not outlive them: an earlier boot's leases are
//! released on open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::task::{TaskId, TaskProgress};

/// The running attempts, by task.
#[derive(Clone, Default)]
pub(super) struct RunningAttempts(Arc<Mutex<HashMap<TaskId, TrackedAttempt>>>);

struct TrackedAttempt {
    /// The lease's number.
    lease_number: i64,
    progress: Option<TaskProgress>,
}

impl RunningAttempts {
    /// Begins an attempt; an older one of the task is over.
    pub(super) fn begin_attempt(&self, id: &TaskId, lease: i64) {
        self.lock_attempts()
            .insert(id.clone(), TrackedAttempt { lease_number: lease, progress: None });
    }

    /// Ends an attempt; a later one goes on.
    pub(super) fn end_attempt(&self, id: &TaskId, lease: i64) {
        let mut running = self.lock_attempts();
        if running.get(id).is_some_and(|attempt| attempt.lease_number == lease) {
            running.remove(id);
        }
    }

    /// Forgets a task that has ended.
    pub(super) fn forget_task(&self, id: &TaskId) {
        self.lock_attempts().remove(id);
    }

    /// Notes how far an attempt has come; false when it is over.
    pub(super) fn record_progress(&self, id: &TaskId, lease: i64, progress: &TaskProgress) -> bool {
        match self.lock_attempts().get_mut(id).filter(|attempt| attempt.lease_number == lease) {
            Some(attempt) => {
                attempt.progress = Some(progress.clone());
                true
            }
            None => false,
        }
    }

    /// How far the running attempt of a task has come.
    pub(super) fn progress_of_task(&self, id: &TaskId) -> Option<TaskProgress> {
        self.lock_attempts().get(id)?.progress.clone()
    }

    fn lock_attempts(&self) -> MutexGuard<'_, HashMap<TaskId, TrackedAttempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
