//! A task as it is enqueued, and its record as the store returns it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::captured::{CapturedRequest, SHADOW_HEADER};
use super::id::{TaskId, Topic};
use super::outcome::{TaskAnswer, TaskFailure};
use super::progress::TaskProgress;
use super::time::UnixMs;

/// A durable unit of work: stored at enqueue, and given to the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The id.
    pub id: TaskId,
    /// The queue.
    pub topic: Topic,
    /// The payload as JSON text, UTF-8.
    pub payload: Bytes,
    /// The captured HTTP request, if the task was made of one.
    pub request: Option<CapturedRequest>,
    /// The caller's own id for the task.
    pub correlation_id: Option<String>,
    /// The route that canaried the task; `None` for `/invoke/async` and the command line.
    pub route: Option<String>,
    /// The epoch of the route's rollout in which the task was accepted; the task's end is counted
    /// under this epoch, and not at all without one.
    pub epoch: Option<u64>,
    /// The [group](crate::cohort_hash::client_group) of the client that sent the request, if known.
    pub client_group: Option<u8>,
    /// The API key that may read the task; `None` for a task created without a key.
    pub owner: Option<TaskOwner>,
    /// How many attempts may follow the first one before the task is a dead letter.
    pub retries: u32,
    /// When the task was accepted.
    pub created: UnixMs,
    /// The earliest start of the first attempt; `None` is at once.
    pub due: Option<UnixMs>,
    /// The webhook URL that is called when the task ends.
    pub webhook: Option<String>,
    /// The topic that receives the result as a new task.
    pub reply_to: Option<Topic>,
    /// The id of the task whose result this task carries.
    pub causation_id: Option<String>,
}

impl Task {
    /// A task with one attempt and no optional fields.
    #[must_use]
    pub fn new(id: TaskId, topic: Topic, payload: impl Into<Bytes>, created: UnixMs) -> Self {
        Self {
            id,
            topic,
            payload: payload.into(),
            request: None,
            correlation_id: None,
            route: None,
            epoch: None,
            client_group: None,
            owner: None,
            retries: 0,
            created,
            due: None,
            webhook: None,
            reply_to: None,
            causation_id: None,
        }
    }

    /// The size of what the task was given, bytes: its payload, and the captured body where that is
    /// another one.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        let body = self.request.as_ref().map(|request| &request.body);
        let body = body.filter(|body| body.len() != self.payload.len());
        self.payload.len() + body.map_or(0, Bytes::len)
    }

    /// Whether the task is a shadow copy of a request that the sync path served.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.headers.contains_key(SHADOW_HEADER))
    }
}

/// The digest of the API key that created a task; only the same key may read the task.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskOwner(Arc<str>);

impl TaskOwner {
    /// Wraps the hex digest.
    #[must_use]
    pub fn from_digest(digest: &str) -> Self {
        Self(digest.into())
    }

    /// The hex digest.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TaskOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskOwner(…)")
    }
}

/// The status of a task, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// Stored, and waiting for a worker or for its next attempt.
    Queued,
    /// A worker holds its lease.
    Processing,
    /// Ended with a result.
    Completed,
    /// Failed for good; the task is also a dead letter.
    Failed,
    /// Cancelled by its owner before it completed.
    Cancelled,
}

impl TaskStatus {
    /// The word in the answer to `GET /task/<id>`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the status can no longer change.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// The current state of a task in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    /// The id.
    pub id: TaskId,
    /// The queue.
    pub topic: Topic,
    /// The status.
    pub status: TaskStatus,
    /// How many attempts have begun.
    pub attempts: u32,
    /// The API key that may read the task.
    pub owner: Option<TaskOwner>,
    /// When the task was accepted.
    pub created: UnixMs,
    /// The earliest start of the first attempt, while a delayed task waits for it.
    pub due: Option<UnixMs>,
    /// When the task ended.
    pub finished: Option<UnixMs>,
    /// The result of a completed task.
    pub answer: Option<TaskAnswer>,
    /// The last failure; it is final when `status` is [`TaskStatus::Failed`].
    pub failure: Option<TaskFailure>,
    /// The last progress that the running attempt reported.
    pub progress: Option<TaskProgress>,
    /// What is not given as it was written, such as a result with NaN of a Python agent.
    pub note: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_do_not_show_in_debug_output() {
        let owner = TaskOwner::from_digest("canary-secret");
        assert!(!format!("{owner:?}").contains("canary-secret"));
    }
}
