//! The JSON message that reports a task's end, as both stores write it, and the id of the end.
//!
//! Field names and the form of the event id are public: receivers read them, and replies derive
//! their task id from the event id.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::store::error::StoreError;
use crate::store::outbox::DeliveryKind;
use crate::task::{TaskStatus, UnixMs};

/// The id of a task's end. `end_sequence` tells apart the ends of a task that was reprocessed: the
/// lease number on Redis, the time in ms on SQLite.
pub(crate) fn end_event_id(task_id: &str, end_sequence: impl std::fmt::Display) -> String {
    format!("evt_{task_id}_{end_sequence}")
}

/// The published message and how its task ended, without any field that only this program reads.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct TaskEndMessage {
    pub(crate) task_id: Option<Box<RawValue>>,
    pub(crate) content: Option<Box<RawValue>>,
    pub(crate) webhook: Option<Box<RawValue>>,
    pub(crate) reply_to: Option<Box<RawValue>>,
    pub(crate) topic: Option<Box<RawValue>>,
    pub(crate) correlation_id: Option<Box<RawValue>>,
    pub(crate) causation_id: Option<Box<RawValue>>,
    pub(crate) source: Option<Box<RawValue>>,
    pub(crate) delivery_attempts: Option<Box<RawValue>>,
    pub(crate) created_at: Option<Box<RawValue>>,
    pub(crate) runner_id: Option<Box<RawValue>>,
    pub(crate) status: Option<Box<RawValue>>,
    pub(crate) result: Option<Box<RawValue>>,
    pub(crate) timestamp: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Box<RawValue>>,
}

// === impl TaskEndMessage ===

impl TaskEndMessage {
    /// Sets the status and the time of the end.
    pub(crate) fn with_ending(self, status: TaskStatus, ended_at: UnixMs) -> Self {
        Self {
            status: to_raw_json(status.as_str()),
            timestamp: to_raw_json(&to_unix_seconds(ended_at)),
            ..self
        }
    }

    /// The body of a delivery of `kind`: [`Delivery::body`](crate::store::Delivery::body).
    pub(crate) fn encode_body(&self, kind: DeliveryKind) -> Result<Bytes, StoreError> {
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

/// A field of the message; none where the value cannot be serialized.
pub(crate) fn to_raw_json<T: Serialize + ?Sized>(value: &T) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

/// A time as the message has it: seconds since 1970 with a fraction.
#[allow(clippy::cast_precision_loss)] // exact up to the year 287,000
pub(crate) fn to_unix_seconds(at: UnixMs) -> f64 {
    at.0 as f64 / 1000.0
}
