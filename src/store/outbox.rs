//! The outbox: deliveries that report a task's end to a webhook or to another topic.
//!
//! A delivery is written by the same atomic change that ends its task and contains its body, so it
//! outlives the result. A task has at most one delivery of each kind. The event id names the end of
//! the task, the same in each attempt, so that the receiver can recognize a repeated delivery.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::error::StoreError;
use crate::task::{TaskId, TaskOwner, UnixMs};

/// The kind of receiver of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryKind {
    /// A URL, to which the end is posted.
    Webhook,
    /// A topic, which receives the result as a new task.
    Reply,
}

/// A due delivery, hidden from other processes while the caller attempts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The task that ended.
    pub task_id: TaskId,
    /// The kind of receiver.
    pub kind: DeliveryKind,
    /// The URL or the topic, as the publisher wrote it.
    pub target: String,
    /// The id of the task's end, the same in each attempt.
    pub event_id: String,
    /// When the task ended.
    pub ended_at: UnixMs,
    /// JSON: for a webhook the body `{"payload": <end message>}`, for a reply the payload.
    pub body: Bytes,
    /// The key that may read the task.
    pub owner: Option<TaskOwner>,
    /// The publisher's own id for the task.
    pub correlation_id: Option<String>,
    /// The number of the delivery attempt, from 1. With the event id it fences
    /// [`DeliveryOutbox::settle_delivery`].
    pub attempt: u32,
}

/// How a delivery attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The receiver accepted the delivery.
    Delivered,
    /// The delivery is attempted again.
    Retry {
        /// The earliest time of the next attempt.
        retry_at: UnixMs,
        /// What went wrong. None returns the delivery unattempted, and the attempt is not counted.
        error: Option<String>,
    },
    /// The delivery is given up.
    Dropped {
        /// Why.
        error: String,
    },
}

/// The state of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// The kind of receiver.
    pub kind: DeliveryKind,
    /// The URL or the topic.
    pub target: String,
    /// The id of the task's end.
    pub event_id: String,
    /// Attempts so far.
    pub attempts: u32,
    /// The status.
    pub status: DeliveryStatus,
    /// The error of the last failed attempt.
    pub last_error: Option<String>,
}

/// The status of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// Waits for its next attempt.
    Pending,
    /// The receiver accepted it.
    Delivered,
    /// Given up.
    Dropped,
}

// === impl DeliveryKind ===

impl DeliveryKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Webhook, Self::Reply];

    /// The stored form, and the `kind` label of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Reply => "reply",
        }
    }

    /// The kind whose stored form is `word`.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

// === impl DeliveryStatus ===

impl DeliveryStatus {
    const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dropped];

    /// The stored form, also shown to users.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dropped => "dropped",
        }
    }

    /// The status whose stored form is `word`; an unknown word counts as pending.
    #[must_use]
    pub(super) fn from_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|status| status.as_str() == word).unwrap_or(Self::Pending)
    }
}

// === impl Delivery ===

impl Delivery {
    /// The id of the task that a reply creates. It is derived from the time and id of the task's
    /// end, so that a repeated delivery creates the same task.
    #[must_use]
    pub fn reply_task_id(&self) -> TaskId {
        let digest = Sha256::digest(format!("reply:{}", self.event_id));
        let random = digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte));
        TaskId::new(self.ended_at, random)
    }
}

/// Takes due deliveries out of the outbox and records how they went.
#[async_trait]
pub trait DeliveryOutbox: Send + Sync + 'static {
    /// Up to `max` due deliveries, hidden from other calls for `hide_for`. Each is counted as one
    /// more attempt.
    async fn claim_due_deliveries(
        &self,
        max: usize,
        hide_for: Duration,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Stores how a delivery attempt ended, unless the delivery was claimed again since.
    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError>;

    /// The deliveries of a task; settled ones are kept for a day.
    async fn list_deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError>;

    /// The number of deliveries that are not settled.
    async fn count_pending_deliveries(&self) -> Result<u64, StoreError>;
}
