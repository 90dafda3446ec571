//! Cancelling a task.

use std::time::Duration;

use super::StoreAccess;
use crate::store::{CancelResult, StoreError};
use crate::task::{TaskId, TaskStatus};

/// Why a task was not cancelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// The task has already ended with this status.
    #[error("the task has already ended as {}", .0.as_str())]
    AlreadyEnded(TaskStatus),
    /// The store has no such task; its record may have expired.
    #[error("no such task, or it has expired")]
    NoSuchTask,
    /// The store call failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Cancels a waiting or running task. The cancelled task stays readable for `results_ttl`.
/// Cancelling a cancelled task succeeds.
///
/// # Errors
/// [`CancelError`]. The task is unchanged, except that it may be cancelled after
/// [`StoreError::OutcomeUnknown`].
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
