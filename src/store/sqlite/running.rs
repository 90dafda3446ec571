//! What is known of the running attempts and need not outlive them: an earlier boot's leases are released on open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::task::{Progress, TaskId};

/// The running attempts, by task.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<HashMap<TaskId, Attempt>>>);

struct Attempt {
    /// The lease's number.
    lease: i64,
    progress: Option<Progress>,
}

impl Running {
    /// Begins an attempt; an older one of the task is over.
    pub(super) fn begin(&self, id: &TaskId, lease: i64) {
        self.lock().insert(id.clone(), Attempt { lease, progress: None });
    }

    /// Ends an attempt; a later one goes on.
    pub(super) fn end(&self, id: &TaskId, lease: i64) {
        let mut running = self.lock();
        if running.get(id).is_some_and(|attempt| attempt.lease == lease) {
            running.remove(id);
        }
    }

    /// Forgets a task that has ended.
    pub(super) fn forget(&self, id: &TaskId) {
        self.lock().remove(id);
    }

    /// Notes how far an attempt has come; false when it is over.
    pub(super) fn note(&self, id: &TaskId, lease: i64, progress: &Progress) -> bool {
        match self.lock().get_mut(id).filter(|attempt| attempt.lease == lease) {
            Some(attempt) => {
                attempt.progress = Some(progress.clone());
                true
            }
            None => false,
        }
    }

    /// How far the running attempt of a task has come.
    pub(super) fn progress(&self, id: &TaskId) -> Option<Progress> {
        self.lock().get(id)?.progress.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
