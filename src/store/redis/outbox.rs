//! The outbox: `omni:outbox` says when which delivery is due, `omni:outbox:<task>/<kind>` is the delivery itself.
//!
//! The script that ends a task writes both (`post` in the prelude); the body is made when it is taken, from what was
//! stored of the end. A settled one stays for a while without its body, to be looked at.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, Value, from_redis_value};
use serde::{Deserialize, Serialize};

use super::message::{End, to_json};
use super::partition::Partition;
use super::script::{DELIVERED, TAKE};
use super::{millis, ttl_ms, until};
use crate::store::StoreError;
use crate::store::outbox::{Delivery, DeliveryKind, DeliveryRecord, DeliveryStatus, Outcome, Told, event};
use crate::task::{Owner, Status, Task, TaskId, UnixMs};

/// How long a settled delivery can be looked at.
const KEPT: Duration = Duration::from_hours(24);

/// What stands beside a delivery's body.
#[derive(Serialize, Deserialize)]
struct About {
    target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation: Option<String>,
}

/// A taken one, as the script answers it.
struct Taken {
    name: String,
    about: Option<Bytes>,
    turn: String,
    state: String,
    body: Bytes,
    ended: u64,
    attempt: u32,
}

#[derive(Deserialize)]
struct StoredResult {
    result: Told,
}

/// What a task's end is to be told to, for the script: JSON `[[kind, about], …]`, empty for nobody.
pub(super) fn letters(task: &Task, end: &End<'_>) -> Result<String, StoreError> {
    if task.webhook.is_none() && task.reply_to.is_none() {
        return Ok(String::new());
    }
    let reply = task.reply_to.as_ref().filter(|_| end.status() == Status::Completed);
    let targets = [
        (DeliveryKind::Webhook, task.webhook.clone()),
        (DeliveryKind::Reply, reply.map(|topic| topic.as_str().to_owned())),
    ];
    let mut letters = Vec::new();
    for (kind, target) in targets {
        let Some(target) = target else { continue };
        let owner = task.owner.as_ref().map(|owner| owner.digest().to_owned());
        let about = About { target, owner, correlation: task.correlation_id.clone() };
        letters.push((kind.as_str(), to_json(&about)?));
    }
    if letters.is_empty() { Ok(String::new()) } else { to_json(&letters) }
}

impl FromRedisValue for Taken {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        let mut fields = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut next = || fields.next().unwrap_or(Value::Nil);
        Ok(Self {
            name: from_redis_value(next())?,
            about: from_redis_value(next())?,
            turn: from_redis_value(next())?,
            state: from_redis_value(next())?,
            body: from_redis_value(next())?,
            ended: from_redis_value(next())?,
            attempt: from_redis_value(next())?,
        })
    }
}

impl Taken {
    fn open(&self) -> Result<Delivery, StoreError> {
        let unreadable = || StoreError::Malformed(format!("the delivery {} cannot be read", self.name));
        let (task, kind) = self.name.split_once('/').ok_or_else(unreadable)?;
        let kind = DeliveryKind::from_word(kind).ok_or_else(unreadable)?;
        let about: About =
            serde_json::from_slice(self.about.as_deref().unwrap_or_default()).map_err(|_| unreadable())?;
        let ended = UnixMs(self.ended);
        let told = if self.state == Status::Cancelled.as_str() {
            serde_json::from_slice(&self.body).map(|told: Told| told.ending(Status::Cancelled, ended))
        } else {
            serde_json::from_slice(&self.body).map(|stored: StoredResult| stored.result)
        };
        Ok(Delivery {
            task: TaskId::parse(task).map_err(|_| unreadable())?,
            kind,
            target: about.target,
            event: event(task, &self.turn),
            ended,
            body: told.map_err(|_| unreadable())?.body(kind)?,
            owner: about.owner.as_deref().map(Owner::from_digest),
            correlation_id: about.correlation,
            attempt: self.attempt,
        })
    }
}

fn name(task: &TaskId, kind: DeliveryKind) -> String {
    format!("{task}/{}", kind.as_str())
}

impl Partition {
    pub(super) async fn take_due(&self, max: usize, hold: Duration) -> Result<Vec<Delivery>, StoreError> {
        let call = TAKE.keys(&[self.keys.outbox()]).arg(max).arg(millis(hold));
        let mut deliveries = Vec::new();
        for taken in call.run::<Vec<Taken>>(&self.link).await? {
            match taken.open() {
                Ok(delivery) => deliveries.push(delivery),
                Err(error) => {
                    tracing::error!(delivery = taken.name, %error, "a delivery is dropped");
                    let outcome = Outcome::Drop { error: error.to_string() };
                    self.end_delivery(&taken.name, &taken.turn, taken.attempt, &outcome).await?;
                }
            }
        }
        Ok(deliveries)
    }

    pub(super) async fn settle_taken(&self, delivery: &Delivery, outcome: &Outcome) -> Result<(), StoreError> {
        let turn = delivery.event.rsplit('_').next().unwrap_or_default();
        self.end_delivery(&name(&delivery.task, delivery.kind), turn, delivery.attempt, outcome).await
    }

    async fn end_delivery(&self, name: &str, turn: &str, attempt: u32, outcome: &Outcome) -> Result<(), StoreError> {
        let (status, at, error) = match outcome {
            Outcome::Done => (DeliveryStatus::Delivered, None, None),
            Outcome::Again { at, error } => (DeliveryStatus::Pending, Some(*at), error.as_deref()),
            Outcome::Drop { error } => (DeliveryStatus::Dropped, None, Some(error.as_str())),
        };
        DELIVERED
            .keys(&[self.keys.outbox(), self.keys.delivery(name)])
            .arg(&[name, turn])
            .arg(attempt)
            .arg(status.as_str())
            .arg(at.map_or(0, until))
            .arg(error.unwrap_or_default())
            .arg(ttl_ms(KEPT))
            .run::<Value>(&self.link)
            .await
            .map(|_| ())
    }

    pub(super) async fn read_deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        let mut found = Vec::new();
        for kind in DeliveryKind::ALL {
            let mut get = redis::cmd("HGETALL");
            let fields: HashMap<String, Bytes> = self.link.call(get.arg(self.keys.delivery(&name(id, kind)))).await?;
            let text = |field: &str| fields.get(field).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            let about = text("about").and_then(|about| serde_json::from_str::<About>(&about).ok());
            let Some(about) = about else { continue };
            found.push(DeliveryRecord {
                kind,
                target: about.target,
                event: event(id.as_str(), text("turn").unwrap_or_default()),
                attempts: text("attempts").and_then(|n| n.parse().ok()).unwrap_or_default(),
                status: DeliveryStatus::from_word(&text("status").unwrap_or_default()),
                error: text("error"),
            });
        }
        Ok(found)
    }

    pub(super) async fn count_outbox(&self) -> Result<u64, StoreError> {
        self.link.call(redis::cmd("ZCARD").arg(self.keys.outbox())).await
    }
}
