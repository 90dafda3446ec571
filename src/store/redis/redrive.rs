//! Dead letters that get another chance, or go.
//!
//! A letter is found by its task's id, looked for on the server so that bodies stay there; nothing in a letter ever
//! changes, so what was read is still so when the script acts. Python's letters are made tasks of under the id they
//! are listed by, whatever their message says.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::keys;
use super::message::{Message, to_json};
use super::partition::Partition;
use super::read::{ReadDeadLetter, dead_letter};
use super::script::{FIND_DEAD, REDRIVE};
use crate::store::{Queue, Redriven, StoreError};
use crate::task::{TaskId, UnixMs};

/// What a letter has to run again.
struct Again {
    id: TaskId,
    data: String,
    captured: bool,
    created: Option<UnixMs>,
    retries: Option<u32>,
    /// Fields of the record.
    known: Vec<(&'static str, String)>,
}

impl Partition {
    pub(super) async fn redrive_letter(&self, queue: &Queue, id: &str, now: UnixMs) -> Result<Redriven, StoreError> {
        let Some((entry, data)) = self.find_dead_letter(queue, id).await? else {
            let alive = match TaskId::parse(id) {
                Ok(id) => self.read_record(&id).await?.is_some_and(|record| !record.status.is_final()),
                Err(_) => false,
            };
            return Ok(if alive { Redriven::Alive } else { Redriven::Unknown });
        };
        let again = match again(id, &data) {
            Ok(again) => again,
            Err(why) => return Ok(Redriven::Unreadable(why)),
        };
        let (group, id) = (keys::group(queue), &again.id);
        let done: i64 = REDRIVE
            .keys(&[
                self.keys.record(id),
                self.keys.result(id),
                self.keys.results(),
                self.keys.stream(&queue.topic),
                self.keys.dead_letters(&group),
                self.keys.limits(&group),
            ])
            .arg(&[&entry, &group, &format!("{}:{}", queue.topic, queue.agent), id.as_str(), &again.data])
            .arg(again.created.unwrap_or(now).0)
            .arg(again.retries.map(|retries| retries.to_string()).unwrap_or_default())
            .arg(queue.limit.map(|limit| limit.as_millis().to_string()).unwrap_or_default())
            .arg(again.known)
            .run(&self.link)
            .await?;
        Ok(match done {
            1 => Redriven::Queued { captured: again.captured },
            -1 => Redriven::Alive,
            _ => Redriven::Unknown,
        })
    }

    pub(super) async fn discard_letter(&self, queue: &Queue, id: &str) -> Result<bool, StoreError> {
        let Some((entry, _)) = self.find_dead_letter(queue, id).await? else { return Ok(false) };
        let mut delete = redis::cmd("XDEL");
        let deleted: u64 = self.link.call(delete.arg(self.keys.dead_letters(&keys::group(queue))).arg(entry)).await?;
        Ok(deleted > 0)
    }

    /// The newest letter that is listed by `id`: its entry and data.
    async fn find_dead_letter(&self, queue: &Queue, id: &str) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        let dead = self.keys.dead_letters(&keys::group(queue));
        let mut from = "+".to_owned();
        while !from.is_empty() {
            let (entry, data): (String, Vec<u8>) = FIND_DEAD.keys(&[&dead]).arg(&[id, &from]).run(&self.link).await?;
            from = match entry.as_str() {
                "" => String::from_utf8_lossy(&data).into_owned(),
                _ if dead_letter(queue, &entry, &data).id == id => return Ok(Some((entry, data))),
                _ => format!("({entry}"),
            };
        }
        Ok(None)
    }
}

/// Reads a letter as the task that it is listed as.
fn again(id: &str, data: &[u8]) -> Result<Again, String> {
    let unreadable = |error: serde_json::Error| format!("the dead letter cannot be read: {error}");
    let letter: ReadDeadLetter = serde_json::from_slice(data).map_err(unreadable)?;
    let message = letter.failed_message.as_deref().map_or("null", RawValue::get);
    if message == "null" {
        return Err("its payload is gone".into());
    }
    let read = Message::read(message.as_bytes())?;
    let id = TaskId::parse(id).map_err(|error| error.to_string())?;
    let known = [("owner", letter.owner), ("route", letter.route)];
    Ok(Again {
        data: with_id(&id, message)?,
        id,
        captured: read.request.is_some(),
        created: read.created,
        retries: letter.retries,
        known: known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    })
}

/// A message with its id first, where scripts find it, and as one that was never delivered.
fn with_id(id: &TaskId, message: &str) -> Result<String, String> {
    if message.starts_with(&format!("{{\"task_id\":\"{id}\"")) {
        return Ok(message.to_owned());
    }
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(message).map_err(|error| error.to_string())?;
    fields.remove("task_id");
    fields.remove("delivery_attempts");
    let rest = to_json(&fields).map_err(|error| error.to_string())?;
    Ok(format!("{{\"task_id\":\"{id}\",\"delivery_attempts\":1,{}", rest.trim_start_matches('{')))
}
