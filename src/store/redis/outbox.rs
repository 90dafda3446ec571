//! The outbox: `omni:outbox` says when which delivery is due, `omni:outbox:<task>/<kind>` is the
//! delivery itself.
//!
//! The script that ends a task writes both (`post` in the prelude); the body is made when it is
//! taken, from what was stored of the end. A settled one stays for a while without its body, to be
//! looked at.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, Value, from_redis_value};
use serde::{Deserialize, Serialize};

use super::message::{EntryOutcome, to_json};
use super::partition::Partition;
use super::script::{CLAIM_DUE_DELIVERIES, SETTLE_DELIVERY};
use super::{as_millis_u64, clamp_ttl_ms, millis_until};
use crate::store::StoreError;
use crate::store::outbox::{
    Delivery, DeliveryKind, DeliveryOutcome, DeliveryRecord, DeliveryStatus,
};
use crate::store::wire::task_end_message::{TaskEndMessage, end_event_id};
use crate::task::{Task, TaskId, TaskOwner, TaskStatus, UnixMs};

/// How long a settled delivery can be looked at.
const SETTLED_DELIVERY_TTL: Duration = Duration::from_hours(24);

/// What stands beside a delivery's body.
#[derive(Serialize, Deserialize)]
struct DeliveryTargetJson {
    target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation: Option<String>,
}

/// A taken one, as the script answers it.
struct ScriptDeliveryRow {
    name: String,
    target_json: Option<Bytes>,
    lease_number: String,
    end_state: String,
    body: Bytes,
    ended_ms: u64,
    attempt: u32,
}

#[derive(Deserialize)]
struct OutboxResultBody {
    result: TaskEndMessage,
}

/// What a task's end is to be told to, for the script: JSON `[[kind, about], …]`, empty for nobody.
pub(super) fn render_outbox_entries(
    task: &Task,
    end: &EntryOutcome<'_>,
) -> Result<String, StoreError> {
    if task.webhook.is_none() && task.reply_to.is_none() {
        return Ok(String::new());
    }
    let reply = task.reply_to.as_ref().filter(|_| end.final_status() == TaskStatus::Completed);
    let targets = [
        (DeliveryKind::Webhook, task.webhook.clone()),
        (DeliveryKind::Reply, reply.map(|topic| topic.as_str().to_owned())),
    ];
    let mut letters = Vec::new();
    for (kind, target) in targets {
        let Some(target) = target else { continue };
        let owner = task.owner.as_ref().map(|owner| owner.digest().to_owned());
        let about = DeliveryTargetJson { target, owner, correlation: task.correlation_id.clone() };
        letters.push((kind.as_str(), to_json(&about)?));
    }
    if letters.is_empty() { Ok(String::new()) } else { to_json(&letters) }
}

impl FromRedisValue for ScriptDeliveryRow {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        let mut fields = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut next = || fields.next().unwrap_or(Value::Nil);
        Ok(Self {
            name: from_redis_value(next())?,
            target_json: from_redis_value(next())?,
            lease_number: from_redis_value(next())?,
            end_state: from_redis_value(next())?,
            body: from_redis_value(next())?,
            ended_ms: from_redis_value(next())?,
            attempt: from_redis_value(next())?,
        })
    }
}

impl ScriptDeliveryRow {
    fn to_delivery(&self) -> Result<Delivery, StoreError> {
        let unreadable =
            || StoreError::Malformed(format!("the delivery {} cannot be read", self.name));
        let (task, kind) = self.name.split_once('/').ok_or_else(unreadable)?;
        let kind = DeliveryKind::from_word(kind).ok_or_else(unreadable)?;
        let about: DeliveryTargetJson =
            serde_json::from_slice(self.target_json.as_deref().unwrap_or_default())
                .map_err(|_| unreadable())?;
        let ended = UnixMs(self.ended_ms);
        let told = if self.end_state == TaskStatus::Cancelled.as_str() {
            serde_json::from_slice(&self.body)
                .map(|told: TaskEndMessage| told.with_ending(TaskStatus::Cancelled, ended))
        } else {
            serde_json::from_slice(&self.body).map(|stored: OutboxResultBody| stored.result)
        };
        Ok(Delivery {
            task_id: TaskId::parse(task).map_err(|_| unreadable())?,
            kind,
            target: about.target,
            event_id: end_event_id(task, &self.lease_number),
            ended_at: ended,
            body: told.map_err(|_| unreadable())?.encode_body(kind)?,
            owner: about.owner.as_deref().map(TaskOwner::from_digest),
            correlation_id: about.correlation,
            attempt: self.attempt,
        })
    }
}

fn delivery_name(task: &TaskId, kind: DeliveryKind) -> String {
    format!("{task}/{}", kind.as_str())
}

impl Partition {
    pub(super) async fn claim_due_deliveries(
        &self,
        max: usize,
        hide_for: Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        let call = CLAIM_DUE_DELIVERIES
            .call_with_keys(&[self.keys.outbox_index_key()])
            .arg(max)
            .arg(as_millis_u64(hide_for));
        let mut deliveries = Vec::new();
        for taken in call.run::<Vec<ScriptDeliveryRow>>(&self.link).await? {
            match taken.to_delivery() {
                Ok(delivery) => deliveries.push(delivery),
                Err(error) => {
                    tracing::error!(delivery = taken.name, %error, "a delivery is dropped");
                    let outcome = DeliveryOutcome::Dropped { error: error.to_string() };
                    self.record_delivery_outcome(
                        &taken.name,
                        &taken.lease_number,
                        taken.attempt,
                        &outcome,
                    )
                    .await?;
                }
            }
        }
        Ok(deliveries)
    }

    pub(super) async fn settle_delivery(
        &self,
        delivery: &Delivery,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError> {
        let turn = delivery.event_id.rsplit('_').next().unwrap_or_default();
        self.record_delivery_outcome(
            &delivery_name(&delivery.task_id, delivery.kind),
            turn,
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
        let (status, at, error) = match outcome {
            DeliveryOutcome::Delivered => (DeliveryStatus::Delivered, None, None),
            DeliveryOutcome::Retry { retry_at: at, error } => {
                (DeliveryStatus::Pending, Some(*at), error.as_deref())
            }
            DeliveryOutcome::Dropped { error } => {
                (DeliveryStatus::Dropped, None, Some(error.as_str()))
            }
        };
        SETTLE_DELIVERY
            .call_with_keys(&[self.keys.outbox_index_key(), self.keys.delivery_key(name)])
            .arg(&[name, lease_number])
            .arg(attempt)
            .arg(status.as_str())
            .arg(at.map_or(0, millis_until))
            .arg(error.unwrap_or_default())
            .arg(clamp_ttl_ms(SETTLED_DELIVERY_TTL))
            .run::<Value>(&self.link)
            .await
            .map(|_| ())
    }

    pub(super) async fn read_deliveries(
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
            let about = text("about")
                .and_then(|about| serde_json::from_str::<DeliveryTargetJson>(&about).ok());
            let Some(about) = about else { continue };
            found.push(DeliveryRecord {
                kind,
                target: about.target,
                event_id: end_event_id(id.as_str(), text("turn").unwrap_or_default()),
                attempts: text("attempts").and_then(|n| n.parse().ok()).unwrap_or_default(),
                status: DeliveryStatus::from_word(&text("status").unwrap_or_default()),
                last_error: text("error"),
            });
        }
        Ok(found)
    }

    pub(super) async fn count_outbox_entries(&self) -> Result<u64, StoreError> {
        self.link.send_command(redis::cmd("ZCARD").arg(self.keys.outbox_index_key())).await
    }
}
