//! Claims on idempotency keys: who runs a request, and what came of it, for whoever repeats it.
//!
//! A claim in flight lives as long as it is renewed: a proxy that died holds nobody up for longer
//! than a lease. It names a task from the beginning, so that whoever takes it over makes no second
//! one. Keys and requests come as digests.

use std::time::Duration;

use crate::task::{TaskAnswer, TaskId};

/// A request's claim on its key; made again by the same holder it is renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyClaim {
    /// Digest of whose key it is, for what, and the key.
    pub scope_digest: String,
    /// Digest of what is asked.
    pub request_digest: String,
    /// Whose claim it is: of this one request, and no other.
    pub holder_id: String,
    /// The task that it may become, where nobody has named one yet.
    pub task_id: TaskId,
    /// A task that an earlier claim became, or may have, and that came to nothing: this one
    /// replaces it.
    pub replaced_task_id: Option<TaskId>,
    /// How long what came of it is known.
    pub conclusion_ttl: Duration,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimResult {
    /// It is the caller's, for [`super::LEASE_DURATION`].
    Granted {
        /// The task that it may become: another's that went before, where there was one.
        task_id: TaskId,
        /// Whether nobody can have begun with it.
        is_new_task: bool,
    },
    /// Another request under the key is being served.
    InProgress,
    /// The key stands for another request.
    DifferentRequest,
    /// It was served, as this says.
    Concluded(ClaimConclusion),
}

/// How a claimed request was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimConclusion {
    /// As this task.
    Task(TaskId),
    /// With this answer.
    Answer(TaskAnswer),
    /// With an answer that could not be kept.
    AnswerNotStored,
}

// === impl Conclusion ===

impl ClaimConclusion {
    /// The word it is stored as.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Task(_) => "task",
            Self::Answer(_) => "answer",
            Self::AnswerNotStored => "unkept",
        }
    }
}
