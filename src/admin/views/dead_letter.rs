//! `dead-letters` of the API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::operations::ReprocessedTask;
use crate::store::DeadLetter;
use crate::task::{TaskStatus, Topic};

/// A task that failed for good.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadLetterDocument {
    /// The task's id; for an entry that could not be read, the store's name of that entry.
    pub id: String,
    /// Its topic.
    pub topic: String,
    /// The last error.
    pub error: String,
    /// Attempts made.
    pub attempts: u32,
    /// When it failed, milliseconds since the Unix epoch.
    pub failed_ms: u64,
    /// The payload; as text where it is not JSON. Null in a list where it is over 16 KiB.
    pub payload: Value,
    /// The size of the payload; on Redis, where a list leaves it out, of all that is stored of the
    /// dead letter.
    pub payload_bytes: u64,
    /// The `before` of the next page, when this is the last one of a page.
    pub cursor: String,
}

/// A dead letter that was reprocessed or discarded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadLetterChangeDocument {
    /// The task's id.
    pub task_id: String,
    /// Its topic.
    pub topic: String,
    /// `queued` or `discarded`.
    pub status: String,
    /// A warning; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl From<&DeadLetter> for DeadLetterDocument {
    fn from(letter: &DeadLetter) -> Self {
        Self {
            id: letter.id.clone(),
            topic: letter.topic.to_string(),
            error: letter.error.clone(),
            attempts: letter.attempts,
            failed_ms: letter.failed_at.0,
            payload: letter.payload.as_deref().map_or(Value::Null, |payload| {
                serde_json::from_str(payload).unwrap_or_else(|_| payload.into())
            }),
            payload_bytes: letter.payload_bytes,
            cursor: letter.cursor.clone(),
        }
    }
}

impl DeadLetterChangeDocument {
    /// The dead letter `id` is a queued task again.
    #[must_use]
    pub fn queued(id: &str, task: &ReprocessedTask) -> Self {
        let note = "it runs without the credentials of its request, which were deleted when it \
                    failed";
        Self {
            task_id: id.to_owned(),
            topic: task.topic.to_string(),
            status: TaskStatus::Queued.as_str().to_owned(),
            note: task.is_captured_request.then(|| note.to_owned()),
        }
    }

    /// The dead letter `id` is deleted.
    #[must_use]
    pub fn discarded(id: &str, topic: &Topic) -> Self {
        Self {
            task_id: id.to_owned(),
            topic: topic.to_string(),
            status: "discarded".to_owned(),
            note: None,
        }
    }
}
