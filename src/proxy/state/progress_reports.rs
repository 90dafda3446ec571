//! Progress reports that came too soon after the last write for their attempt.
//!
//! Shared by all threads, since the reports of one attempt may arrive at any of them. The lock is
//! taken for progress reports only.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::LeaseHolder;
use crate::task::{TaskId, TaskProgress};

/// The attempts whose progress was written recently, each with its latest report since then.
#[derive(Default)]
pub(crate) struct ProgressReports(Mutex<HashMap<AttemptKey, Option<TaskProgress>>>);

/// One attempt of a task.
pub(crate) type AttemptKey = (TaskId, LeaseHolder);

// === impl ProgressReports ===

impl ProgressReports {
    /// Returns true if a report of this attempt was written recently, and keeps this one for later.
    /// Otherwise marks the attempt as written now: the caller writes this report.
    pub(crate) fn defer_if_recent(&self, attempt: &AttemptKey, progress: &TaskProgress) -> bool {
        let mut reports = self.lock();
        if let Some(deferred) = reports.get_mut(attempt) {
            *deferred = Some(progress.clone());
            return true;
        }
        reports.insert(attempt.clone(), None);
        false
    }

    /// The latest report that was deferred. `None` if there is none; the attempt's next report is
    /// then written at once again.
    pub(crate) fn take_deferred(&self, attempt: &AttemptKey) -> Option<TaskProgress> {
        let mut reports = self.lock();
        let deferred = reports.get_mut(attempt)?.take();
        if deferred.is_none() {
            reports.remove(attempt);
        }
        deferred
    }

    /// Forgets an attempt: its next report is written at once.
    pub(crate) fn forget_attempt(&self, attempt: &AttemptKey) {
        self.lock().remove(attempt);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptKey, Option<TaskProgress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
