//! What is to be told of a task's end, from the moment it ends until somebody has heard it.
//!
//! A delivery is written by the very change that ends its task, and kept with its body: it outlives
//! the result. There is one of each kind per task; its event id names the end, so that a repeat is
//! known as one.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};

use super::StoreError;
use crate::task::{TaskId, TaskOwner, TaskStatus, UnixMs};

/// Whom a delivery goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryKind {
    /// A URL, which is posted the end.
    Webhook,
    /// A topic, which gets the result as a new task.
    Reply,
}

/// A delivery that is due, held for whoever took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The task that ended.
    pub task_id: TaskId,
    /// Whom it goes to.
    pub kind: DeliveryKind,
    /// The URL or the topic, as the publisher wrote it.
    pub target: String,
    /// The end's own id, the same however often it is delivered.
    pub event_id: String,
    /// When the task ended.
    pub ended_at: UnixMs,
    /// A webhook's body, `{"payload": R}`; a reply's payload. JSON.
    pub body: Bytes,
    /// The key that may see the task.
    pub owner: Option<TaskOwner>,
    /// The caller's own id for the task.
    pub correlation_id: Option<String>,
    /// Which try this is, from 1: with the event it is what [`DeliveryOutcome`] counts for.
    pub attempt: u32,
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// It was heard.
    Delivered,
    /// It was not, and is tried again.
    Retry {
        /// When.
        retry_at: UnixMs,
        /// What went wrong; none gives it back untried, and the try does not count.
        error: Option<String>,
    },
    /// It never will be.
    Dropped {
        /// Why.
        error: String,
    },
}

/// How a delivery stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// Whom it goes to.
    pub kind: DeliveryKind,
    /// The URL or the topic.
    pub target: String,
    /// The end's own id.
    pub event_id: String,
    /// Tries so far.
    pub attempts: u32,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// It waits for its next try.
    Pending,
    /// It was heard.
    Delivered,
    /// It was given up.
    Dropped,
}

// === impl DeliveryKind ===

impl DeliveryKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Webhook, Self::Reply];

    /// The word it is stored as; the `kind` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Reply => "reply",
        }
    }

    /// The kind stored as `word`.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

// === impl DeliveryStatus ===

impl DeliveryStatus {
    const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dropped];

    /// The word it is shown and stored as.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dropped => "dropped",
        }
    }

    /// The status stored as `word`; anything else waits.
    #[must_use]
    pub(super) fn from_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|status| status.as_str() == word).unwrap_or(Self::Pending)
    }
}

// === impl Delivery ===

impl Delivery {
    /// The id of the task that a reply becomes: of the end's time and name, so that a repeat is the
    /// same task.
    #[must_use]
    pub fn reply_task_id(&self) -> TaskId {
        let digest = Sha256::digest(format!("reply:{}", self.event_id));
        let random = digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte));
        TaskId::new(self.ended_at, random)
    }
}

/// The name of a task's end: the `turn`-th turn of its life.
pub(super) fn end_event_id(task: &str, turn: impl std::fmt::Display) -> String {
    format!("evt_{task}_{turn}")
}

/// `WrittenResultBody` as a webhook is told it: the message and how it ended, and nothing of ours
/// beside it.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct TaskEndMessage {
    pub(super) task_id: Option<Box<RawValue>>,
    pub(super) content: Option<Box<RawValue>>,
    pub(super) webhook: Option<Box<RawValue>>,
    pub(super) reply_to: Option<Box<RawValue>>,
    pub(super) topic: Option<Box<RawValue>>,
    pub(super) correlation_id: Option<Box<RawValue>>,
    pub(super) causation_id: Option<Box<RawValue>>,
    pub(super) source: Option<Box<RawValue>>,
    pub(super) delivery_attempts: Option<Box<RawValue>>,
    pub(super) created_at: Option<Box<RawValue>>,
    pub(super) runner_id: Option<Box<RawValue>>,
    pub(super) status: Option<Box<RawValue>>,
    pub(super) result: Option<Box<RawValue>>,
    pub(super) timestamp: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Box<RawValue>>,
}

// === impl Told ===

impl TaskEndMessage {
    /// Says how it ended, where the message does not.
    pub(super) fn with_ending(self, status: TaskStatus, at: UnixMs) -> Self {
        Self {
            status: to_raw_json(status.as_str()),
            timestamp: to_raw_json(&to_unix_seconds(at)),
            ..self
        }
    }

    /// The body for `kind`.
    pub(super) fn encode_body(&self, kind: DeliveryKind) -> Result<Bytes, StoreError> {
        #[derive(Serialize)]
        struct WebhookBody<'a> {
            payload: &'a TaskEndMessage,
        }
        let json = match kind {
            DeliveryKind::Webhook => serde_json::to_vec(&WebhookBody { payload: self }),
            DeliveryKind::Reply => serde_json::to_vec(&self.result),
        };
        json.map(Bytes::from).map_err(|error| StoreError::Malformed(error.to_string()))
    }
}

/// A value of it; what does not serialize is none.
pub(super) fn to_raw_json<T: Serialize + ?Sized>(value: &T) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

/// A time as the wire has it.
#[allow(clippy::cast_precision_loss)] // exact up to the year 287,000
pub(super) fn to_unix_seconds(at: UnixMs) -> f64 {
    at.0 as f64 / 1000.0
}
