//! Claims on idempotency keys: which request holds a key, and how the key's request was served, so
//! that a repeated request gets the same answer.
//!
//! A claim in progress lasts as long as it is renewed: a proxy that crashed blocks the key for no
//! longer than a lease. A claim names its task from the beginning, so that a request that takes it
//! over creates no second task. Keys and requests are passed as digests.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::task::{TaskAnswer, TaskId};

/// A request's claim on its key. Claiming again with the same holder renews the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyClaim {
    /// Digest of the owner of the key, the endpoint and the key.
    pub scope_digest: String,
    /// Digest of the request's content.
    pub request_digest: String,
    /// Identifies the one request that holds the claim.
    pub holder_id: String,
    /// The id of the task that the request may become, if no earlier claim on the key chose one.
    pub task_id: TaskId,
    /// The task of an earlier claim on the key that is known to have come to nothing: a new task
    /// replaces it.
    pub replaced_task_id: Option<TaskId>,
    /// How long the conclusion can be looked up.
    pub conclusion_ttl: Duration,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimResult {
    /// The caller holds the key for [`LEASE_DURATION`](super::LEASE_DURATION).
    Granted {
        /// The id of the task that the request may become: that of an earlier claim on the key,
        /// where there was one.
        task_id: TaskId,
        /// Whether no earlier claim can have started a task with this id.
        is_new_task: bool,
    },
    /// Another request with the key is being served.
    InProgress,
    /// The key was used for a request with another content.
    DifferentRequest,
    /// The request was served already, with this outcome.
    Concluded(ClaimConclusion),
}

/// How a claimed request was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimConclusion {
    /// The request became this task.
    Task(TaskId),
    /// The request was answered directly with this answer.
    Answer(TaskAnswer),
    /// The request was answered directly with an answer that could not be stored.
    AnswerNotStored,
}

// === impl ClaimConclusion ===

impl ClaimConclusion {
    /// The stored form.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Task(_) => "task",
            Self::Answer(_) => "answer",
            Self::AnswerNotStored => "unkept",
        }
    }
}

/// Claims idempotency keys.
#[async_trait]
pub trait IdempotencyClaims: Send + Sync + 'static {
    /// Claims a key for a request for [`LEASE_DURATION`](super::LEASE_DURATION), or renews the
    /// claim of the same holder.
    async fn claim_idempotency_key(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<ClaimResult, StoreError>;

    /// Stores how a claimed request was served, if the claim is still its holder's.
    async fn conclude_claim(
        &self,
        claim: &IdempotencyClaim,
        conclusion: &ClaimConclusion,
    ) -> Result<(), StoreError>;

    /// Deletes a claim, if it is still its holder's: the key is free again.
    async fn release_claim(&self, claim: &IdempotencyClaim) -> Result<(), StoreError>;
}
