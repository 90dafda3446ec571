//! How a task ended, as the Redis store writes it down: with an answer, or with a failure.

use crate::store::evidence::TallyOutcome;
use crate::task::{FailureKind, TaskAnswer, TaskFailure, TaskStatus};

/// How a task ended.
pub(crate) enum EntryOutcome<'a> {
    /// With an answer.
    Completed(&'a TaskAnswer),
    /// With a failure; a dead letter is written.
    Failed(&'a TaskFailure),
    /// With a failure, whose dead letter an external consumer has written already.
    AlreadyDeadLettered(&'a TaskFailure),
}

impl EntryOutcome<'_> {
    /// The status of the task afterwards.
    pub(crate) fn final_status(&self) -> TaskStatus {
        match self {
            Self::Completed(_) => TaskStatus::Completed,
            Self::Failed(_) | Self::AlreadyDeadLettered(_) => TaskStatus::Failed,
        }
    }

    /// The outcome that a canaried task is tallied as.
    pub(in crate::store) fn tally_outcome(&self) -> TallyOutcome {
        match self {
            Self::Completed(answer) => TallyOutcome::from_answer(answer),
            Self::Failed(failure) | Self::AlreadyDeadLettered(failure) => {
                TallyOutcome::from_failure(failure)
            }
        }
    }

    /// Whether the entry could not be read.
    pub(crate) fn is_malformed(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.kind == FailureKind::Malformed)
    }
}
