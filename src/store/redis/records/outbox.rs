//! The outbox: `omni:outbox` is the index of deliveries by due time, `omni:outbox:<task>/<kind>` is
//! one delivery.
//!
//! The script that ends a task writes both; the body of a delivery is made when it is claimed, from
//! the stored end of the task. A settled delivery is kept for a day without its body, so that an
//! operator can see it.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, ParsingError, Value};
use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use crate::store::outbox::{
    Delivery, DeliveryKind, DeliveryOutcome, DeliveryRecord, DeliveryStatus,
};
use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::{CLAIM_DUE_DELIVERIES, SETTLE_DELIVERY};
use crate::store::redis::time::{as_millis_u64, clamp_ttl_ms, millis_until};
use crate::store::redis::wire::json::to_json;
use crate::store::redis::wire::outcome::EntryOutcome;
use crate::store::redis::wire::reply_fields::ReplyFields;
use crate::store::wire::task_end_message::{TaskEndMessage, end_event_id};
use crate::task::{Task, TaskId, TaskOwner, TaskStatus, UnixMs};

/// How long a settled delivery is kept.
const SETTLED_DELIVERY_TTL: Duration = Duration::from_hours(24);

/// The field `about` of a delivery: where it goes, and for whom.
#[derive(Serialize, Deserialize)]
struct DeliveryTargetJson {
    target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation: Option<String>,
}

/// A claimed delivery in the reply of the script.
struct ScriptDeliveryRow {
    name: String,
    target_json: Option<Bytes>,
    lease_number: String,
    end_state: String,
    body: Bytes,
    ended_ms: u64,
    attempt: u32,
}

/// The part of a stored result that a delivery sends.
#[derive(Deserialize)]
struct OutboxResultBody {
    result: TaskEndMessage,
}

/// The deliveries of a task's end, for the script: JSON `[[kind, target], …]`, or the empty string
/// for none.
pub(crate) fn render_outbox_entries(
    task: &Task,
    outcome: &EntryOutcome<'_>,
) -> Result<String, StoreError> {
    if task.webhook.is_none() && task.reply_to.is_none() {
        return Ok(String::new());
    }
    let reply = task.reply_to.as_ref().filter(|_| outcome.final_status() == TaskStatus::Completed);
    let targets = [
        (DeliveryKind::Webhook, task.webhook.clone()),
        (DeliveryKind::Reply, reply.map(|topic| topic.as_str().to_owned())),
    ];
    let mut entries = Vec::new();
    for (kind, target) in targets {
        let Some(target) = target else { continue };
        let owner = task.owner.as_ref().map(|owner| owner.digest().to_owned());
        let correlation = task.correlation_id.clone();
        let target = DeliveryTargetJson { target, owner, correlation };
        entries.push((kind.as_str(), to_json(&target)?));
    }
    if entries.is_empty() { Ok(String::new()) } else { to_json(&entries) }
}

impl FromRedisValue for ScriptDeliveryRow {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut fields = ReplyFields::parse(value)?;
        Ok(Self {
            name: fields.read_next()?,
            target_json: fields.read_next()?,
            lease_number: fields.read_next()?,
            end_state: fields.read_next()?,
            body: fields.read_next()?,
            ended_ms: fields.read_next()?,
            attempt: fields.read_next()?,
        })
    }
}

impl ScriptDeliveryRow {
    fn to_delivery(&self) -> Result<Delivery, StoreError> {
        let unreadable =
            || StoreError::Malformed(format!("the delivery {} cannot be read", self.name));
        let (task, kind) = self.name.split_once('/').ok_or_else(unreadable)?;
        let kind = DeliveryKind::from_word(kind).ok_or_else(unreadable)?;
        let target: DeliveryTargetJson =
            serde_json::from_slice(self.target_json.as_deref().unwrap_or_default())
                .map_err(|_| unreadable())?;
        let ended = UnixMs(self.ended_ms);
        let message = if self.end_state == TaskStatus::Cancelled.as_str() {
            serde_json::from_slice(&self.body)
                .map(|message: TaskEndMessage| message.with_ending(TaskStatus::Cancelled, ended))
        } else {
            serde_json::from_slice(&self.body).map(|stored: OutboxResultBody| stored.result)
        };
        Ok(Delivery {
            task_id: TaskId::parse(task).map_err(|_| unreadable())?,
            kind,
            target: target.target,
            event_id: end_event_id(task, &self.lease_number),
            ended_at: ended,
            body: message.map_err(|_| unreadable())?.encode_body(kind)?,
            owner: target.owner.as_deref().map(TaskOwner::from_digest),
            correlation_id: target.correlation,
            attempt: self.attempt,
        })
    }
}

/// The name of a delivery, which is part of its key.
fn delivery_name(task: &TaskId, kind: DeliveryKind) -> String {
    format!("{task}/{}", kind.as_str())
}

impl PartitionCore {
    /// Claims at most `max` deliveries that are due; no other process can claim them for
    /// `hide_for`. A delivery that cannot be read is dropped.
    pub(crate) async fn claim_due_deliveries(
        &self,
        max: usize,
        hide_for: Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        let call = CLAIM_DUE_DELIVERIES
            .call_with_keys(&[("outbox", self.keys.outbox_index_key())])
            .arg("max_deliveries", max)
            .arg("hide_for_ms", as_millis_u64(hide_for));
        let mut deliveries = Vec::new();
        for row in call.run::<Vec<ScriptDeliveryRow>>(&self.link).await? {
            match row.to_delivery() {
                Ok(delivery) => deliveries.push(delivery),
                Err(error) => {
                    tracing::error!(
                        delivery = row.name,
                        %error,
                        "an unreadable delivery is dropped"
                    );
                    let outcome = DeliveryOutcome::Dropped { error: error.to_string() };
                    self.record_delivery_outcome(
                        &row.name,
                        &row.lease_number,
                        row.attempt,
                        &outcome,
                    )
                    .await?;
                }
            }
        }
        Ok(deliveries)
    }

    /// Records the outcome of a delivery that was claimed.
    pub(crate) async fn settle_delivery(
        &self,
        delivery: &Delivery,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError> {
        // an event id ends in `_<lease number>`
        let lease_number = delivery.event_id.rsplit('_').next().unwrap_or_default();
        self.record_delivery_outcome(
            &delivery_name(&delivery.task_id, delivery.kind),
            lease_number,
            delivery.attempt,
            outcome,
        )
        .await
    }

    async fn record_delivery_outcome(
        &self,
        name: &str,
        lease_number: &str,
        attempt: u32,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError> {
        let (status, retry_at, error) = match outcome {
            DeliveryOutcome::Delivered => (DeliveryStatus::Delivered, None, None),
            DeliveryOutcome::Retry { retry_at, error } => {
                (DeliveryStatus::Pending, Some(*retry_at), error.as_deref())
            }
            DeliveryOutcome::Dropped { error } => {
                (DeliveryStatus::Dropped, None, Some(error.as_str()))
            }
        };
        SETTLE_DELIVERY
            .call_with_keys(&[
                ("outbox", self.keys.outbox_index_key()),
                ("delivery", self.keys.delivery_key(name)),
            ])
            .arg("name", name)
            .arg("lease_number", lease_number)
            .arg("attempt", attempt)
            .arg("status", status.as_str())
            .arg("retry_delay_ms", retry_at.map_or(0, millis_until))
            .arg("error_message", error.unwrap_or_default())
            .arg("settled_ttl_ms", clamp_ttl_ms(SETTLED_DELIVERY_TTL))
            .run::<Value>(&self.link)
            .await
            .map(|_| ())
    }

    /// The deliveries of a task, pending and settled.
    pub(crate) async fn read_deliveries(
        &self,
        id: &TaskId,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let mut found = Vec::new();
        for kind in DeliveryKind::ALL {
            let mut get = redis::cmd("HGETALL");
            let fields: HashMap<String, Bytes> = self
                .link
                .send_command(get.arg(self.keys.delivery_key(&delivery_name(id, kind))))
                .await?;
            let text = |field: &str| {
                fields.get(field).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            };
            let target = text("about")
                .and_then(|json| serde_json::from_str::<DeliveryTargetJson>(&json).ok());
            let Some(target) = target else { continue };
            found.push(DeliveryRecord {
                kind,
                target: target.target,
                event_id: end_event_id(id.as_str(), text("turn").unwrap_or_default()),
                attempts: text("attempts").and_then(|count| count.parse().ok()).unwrap_or_default(),
                status: DeliveryStatus::from_word(&text("status").unwrap_or_default()),
                last_error: text("error"),
            });
        }
        Ok(found)
    }

    /// The number of deliveries that are pending.
    pub(crate) async fn count_outbox_entries(&self) -> Result<u64, StoreError> {
        self.link.send_command(redis::cmd("ZCARD").arg(self.keys.outbox_index_key())).await
    }
}
