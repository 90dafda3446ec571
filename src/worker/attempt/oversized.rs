//! Answers over `results.max_result`: the store does not keep them, but a client that waits in this
//! process still gets them.

use std::sync::Arc;

use super::settle::build_task_record;
use crate::store::{Circuit, Lease, Settlement};
use crate::task::{FailureKind, TaskAnswer, TaskFailure, TaskStatus};

/// The failure for an answer over `max` bytes. It carries the answer, for a client that waits in
/// this process.
pub(super) fn oversized_answer_failure(answer: TaskAnswer, max: usize) -> TaskFailure {
    let size = answer.body.len();
    let message = format!(
        "the answer of {size} bytes is over results.max_result ({max} bytes): \
         raise it, or return less"
    );
    TaskFailure { answer: Some(answer), ..TaskFailure::new(FailureKind::UnusableResult, message) }
}

/// Removes an answer over `max` bytes from a settlement. If the settlement ends the task, a request
/// of this process that waits for the end gets the answer first, as it would on the sync path; a
/// request of another process gets the failure alone.
pub(super) fn deliver_oversized(
    circuit: &Circuit,
    lease: &Lease,
    settlement: Settlement,
    max: usize,
) -> Settlement {
    let is_oversized = |failure: &TaskFailure| {
        failure.answer.as_ref().is_some_and(|answer| answer.body.len() > max)
    };
    match settlement {
        Settlement::Bury { ref failure, .. } | Settlement::Retry { ref failure, .. }
            if !is_oversized(failure) =>
        {
            settlement
        }
        Settlement::Bury { failure, ttl } => {
            let record = build_task_record(lease, TaskStatus::Failed, None, Some(failure.clone()));
            circuit.store().end_waiters().resolve_task(&lease.task.id, Some(&Arc::new(record)));
            Settlement::Bury { failure: TaskFailure { answer: None, ..failure }, ttl }
        }
        Settlement::Retry { failure, retry_at } => {
            Settlement::Retry { failure: TaskFailure { answer: None, ..failure }, retry_at }
        }
        Settlement::Complete { .. } | Settlement::Release => settlement,
    }
}
