//! A failed task, as its client may see it.

use crate::task::{FailureKind, TaskFailure};

/// Why a task failed, for its client: a handler's own message and configuration keys, but no
/// address and no system error. The full message is in the admin API and the log.
pub(crate) fn explain_failure(failure: &TaskFailure) -> String {
    match failure.kind {
        FailureKind::Deadline
        | FailureKind::UnusableResult
        | FailureKind::HandlerError
        | FailureKind::LostFromQueue => failure.message.clone(),
        FailureKind::Unreachable => "the task's handler cannot be reached".to_owned(),
        FailureKind::BrokenExchange => {
            "the task's handler closed the connection before it answered".to_owned()
        }
        FailureKind::FailedStatus => match failure.answer.as_ref().and_then(|answer| answer.status)
        {
            Some(status) => format!("the task's handler answered {status}"),
            None => "the task's handler answered with an error".to_owned(),
        },
        FailureKind::WorkerCrash => "the workers that ran the task died".to_owned(),
        FailureKind::Malformed => "the task was stored in a form that cannot be run".to_owned(),
    }
}
