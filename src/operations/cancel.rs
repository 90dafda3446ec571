//! Cancelling a task.

use std::time::Duration;

use super::StoreAccess;
use crate::store::{CancelResult, StoreError};
use crate::task::{TaskId, TaskStatus};

/// Why a task was not cancelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// It has ended otherwise, with this status.
    #[error("the task has already ended as {}", .0.as_str())]
    AlreadyEnded(TaskStatus),
    /// The store does not know it, or no longer.
    #[error("no such task, or it has expired")]
    NoSuchTask,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Cancels a task that waits or runs; it stays readable for `results_ttl`. Cancelling a cancelled
/// task succeeds.
///
/// # Errors
/// [`CancelError`]: nothing was changed, or with [`StoreError::OutcomeUnknown`] perhaps.
pub async fn cancel_task(
    access: StoreAccess<'_>,
    id: &TaskId,
    results_ttl: Duration,
) -> Result<(), CancelError> {
    match access.call(access.store().cancel(id, results_ttl)).await? {
        CancelResult::Cancelled | CancelResult::WasRunning => Ok(()),
        CancelResult::AlreadyEnded(status) => Err(CancelError::AlreadyEnded(status)),
        CancelResult::NoSuchTask => Err(CancelError::NoSuchTask),
    }
}
