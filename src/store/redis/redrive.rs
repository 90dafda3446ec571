//! Dead letters that get another chance, or go.
//!
//! A letter is found by its task's id, looked for on the server so that bodies stay there; nothing
//! in a letter ever changes, so what was read is still so when the script acts. Python's letters
//! are made tasks of under the id they are listed by, whatever their message says.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::keys;
use super::message::{EntryMessage, to_json};
use super::partition::Partition;
use super::read::{WireDeadLetter, parse_dead_letter};
use super::script::{FIND_DEAD_LETTER, REDRIVE_DEAD_LETTER};
use crate::store::{RedriveResult, StoreError, TopicQueue};
use crate::task::{TaskId, UnixMs};

/// What a letter has to run again.
struct RedrivePlan {
    id: TaskId,
    data: String,
    has_captured_request: bool,
    created: Option<UnixMs>,
    retries: Option<u32>,
    /// Fields of the record.
    record_fields: Vec<(&'static str, String)>,
}

impl Partition {
    pub(super) async fn redrive_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: UnixMs,
    ) -> Result<RedriveResult, StoreError> {
        let Some((entry, data)) = self.find_dead_letter(queue, id).await? else {
            let alive = match TaskId::parse(id) {
                Ok(id) => {
                    self.read_record(&id).await?.is_some_and(|record| !record.status.is_final())
                }
                Err(_) => false,
            };
            return Ok(if alive {
                RedriveResult::TaskActive
            } else {
                RedriveResult::NoSuchDeadLetter
            });
        };
        let again = match plan_redrive(id, &data) {
            Ok(again) => again,
            Err(why) => return Ok(RedriveResult::NotRunnable(why)),
        };
        let (group, id) = (keys::group_name(queue), &again.id);
        let done: i64 = REDRIVE_DEAD_LETTER
            .call_with_keys(&[
                self.keys.record_key(id),
                self.keys.result_key(id),
                self.keys.results_index_key(),
                self.keys.stream_key(&queue.topic),
                self.keys.dead_letters_key(&group),
                self.keys.deadline_index_key(&group),
            ])
            .arg(&[
                &entry,
                &group,
                &format!("{}:{}", queue.topic, queue.agent),
                id.as_str(),
                &again.data,
            ])
            .arg(again.created.unwrap_or(now).0)
            .arg(again.retries.map(|retries| retries.to_string()).unwrap_or_default())
            .arg(
                queue
                    .external_timeout
                    .map(|limit| limit.as_millis().to_string())
                    .unwrap_or_default(),
            )
            .arg(again.record_fields)
            .run(&self.link)
            .await?;
        Ok(match done {
            1 => RedriveResult::Queued { is_captured_request: again.has_captured_request },
            -1 => RedriveResult::TaskActive,
            _ => RedriveResult::NoSuchDeadLetter,
        })
    }

    pub(super) async fn discard_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<bool, StoreError> {
        let Some((entry, _)) = self.find_dead_letter(queue, id).await? else { return Ok(false) };
        let mut delete = redis::cmd("XDEL");
        let deleted: u64 = self
            .link
            .send_command(
                delete.arg(self.keys.dead_letters_key(&keys::group_name(queue))).arg(entry),
            )
            .await?;
        Ok(deleted > 0)
    }

    /// The newest letter that is listed by `id`: its entry and data.
    async fn find_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        let dead = self.keys.dead_letters_key(&keys::group_name(queue));
        let mut from = "+".to_owned();
        while !from.is_empty() {
            let (entry, data): (String, Vec<u8>) =
                FIND_DEAD_LETTER.call_with_keys(&[&dead]).arg(&[id, &from]).run(&self.link).await?;
            from = match entry.as_str() {
                "" => String::from_utf8_lossy(&data).into_owned(),
                _ if parse_dead_letter(queue, &entry, &data).id == id => {
                    return Ok(Some((entry, data)));
                }
                _ => format!("({entry}"),
            };
        }
        Ok(None)
    }
}

/// Reads a letter as the task that it is listed as.
fn plan_redrive(id: &str, data: &[u8]) -> Result<RedrivePlan, String> {
    let unreadable = |error: serde_json::Error| format!("the dead letter cannot be read: {error}");
    let letter: WireDeadLetter = serde_json::from_slice(data).map_err(unreadable)?;
    let message = letter.failed_message.as_deref().map_or("null", RawValue::get);
    if message == "null" {
        return Err("its payload is gone".into());
    }
    let read = EntryMessage::parse(message.as_bytes())?;
    let id = TaskId::parse(id).map_err(|error| error.to_string())?;
    let known = [("owner", letter.owner), ("route", letter.route)];
    Ok(RedrivePlan {
        data: rewrite_message_head(&id, message)?,
        id,
        has_captured_request: read.request.is_some(),
        created: read.created,
        retries: letter.retries,
        record_fields: known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    })
}

/// A message with its id first, where scripts find it, and as one that was never delivered.
fn rewrite_message_head(id: &TaskId, message: &str) -> Result<String, String> {
    if message.starts_with(&format!("{{\"task_id\":\"{id}\"")) {
        return Ok(message.to_owned());
    }
    let mut fields: BTreeMap<String, &RawValue> =
        serde_json::from_str(message).map_err(|error| error.to_string())?;
    fields.remove("task_id");
    fields.remove("delivery_attempts");
    let rest = to_json(&fields).map_err(|error| error.to_string())?;
    Ok(format!("{{\"task_id\":\"{id}\",\"delivery_attempts\":1,{}", rest.trim_start_matches('{')))
}
