//! Dead letters: tasks that failed for good. They are kept until an operator reprocesses or
//! discards them.

use async_trait::async_trait;

use super::error::StoreError;
use super::queue::TopicQueue;
use crate::task::{Topic, UnixMs};

/// A task that failed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The task's id; for a malformed Redis entry, the id of the entry.
    pub id: String,
    /// The task's topic.
    pub topic: Topic,
    /// The error of the last attempt.
    pub error: String,
    /// Attempts made.
    pub attempts: u32,
    /// When the task failed.
    pub failed_at: UnixMs,
    /// The payload as it was published; for a malformed entry, the text that could not be read.
    /// Lists leave one out that is larger than [`MAX_LISTED_PAYLOAD_BYTES`].
    pub payload: Option<String>,
    /// The size of the payload; on Redis, where a list leaves it out, of all that is stored of the
    /// dead letter.
    pub payload_bytes: u64,
    /// The store's position of the dead letter in the list.
    pub cursor: String,
}

/// The largest payload that a list includes: a list costs what it shows, whatever is stored.
pub const MAX_LISTED_PAYLOAD_BYTES: usize = 16 * 1024;

/// The result of a reprocess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReprocessResult {
    /// The dead letter is a queued task again, under its id.
    Queued {
        /// Whether the task is a captured request. It runs without its credentials, which were
        /// deleted when it failed.
        is_captured_request: bool,
    },
    /// A task with this id is queued or running, so nothing changed. A repeated call returns this.
    TaskActive,
    /// There is no such dead letter.
    NoSuchDeadLetter,
    /// The dead letter cannot be run, for this reason: it is not a task, or its payload is gone.
    NotRunnable(String),
}

/// Reads, reprocesses and discards dead letters.
#[async_trait]
pub trait DeadLetterQueue: Send + Sync + 'static {
    /// Up to `limit` dead letters of a queue, newest first: all of them, or those after the one
    /// whose [`DeadLetter::cursor`] is `before_cursor`.
    async fn list_dead_letters(
        &self,
        queue: &TopicQueue,
        before_cursor: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// The newest dead letter of that id with its payload, whatever its size; none where there is
    /// none.
    async fn get_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<Option<DeadLetter>, StoreError>;

    /// Makes a dead letter a queued task again: the same id, attempts from 0, all retries. Atomic:
    /// concurrent and repeated calls make one task of one dead letter.
    async fn reprocess_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: UnixMs,
    ) -> Result<ReprocessResult, StoreError>;

    /// Deletes a dead letter; false where there is none. The record of the failed task stays
    /// readable until it expires.
    async fn discard_dead_letter(&self, queue: &TopicQueue, id: &str) -> Result<bool, StoreError>;
}
