//! Dead letters: listed, put back into their queue (reprocessed), or deleted.
//!
//! A dead letter is found by its task's id; a script searches for it, so that messages stay on the
//! server. Nothing in a dead letter ever changes, so what was read is still true when the reprocess
//! script runs. Python's dead letters become tasks under the id that they are listed by, whatever
//! their message contains.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::{
    FIND_DEAD_LETTER, LIST_DEAD_LETTERS, REPROCESS_DEAD_LETTER,
};
use crate::store::redis::time::as_millis_u64;
use crate::store::redis::wire::dead_letter::{
    WireDeadLetter, parse_dead_letter, parse_dead_letter_edges,
};
use crate::store::redis::wire::entry::{EntryMessage, rewrite_message_head};
use crate::store::redis::wire::keys;
use crate::store::{DeadLetter, MAX_LISTED_PAYLOAD_BYTES, ReprocessResult, StoreError, TopicQueue};
use crate::task::{TaskId, UnixMs};

/// The bytes at each end of a large dead letter that a list reads: all fields but the message.
const DEAD_LETTER_EDGE_BYTES: usize = 8 * 1024;

/// One dead letter in the reply of the list script: entry, size, all or its beginning, its end.
type DeadLetterRow = (String, u64, Bytes, Bytes);

/// The task that a dead letter is queued as.
struct ReprocessPlan {
    id: TaskId,
    data: String,
    has_captured_request: bool,
    created: Option<UnixMs>,
    retries: Option<u32>,
    /// Fields of the record that are restored, by name.
    record_fields: Vec<(&'static str, String)>,
}

impl PartitionCore {
    /// At most `limit` dead letters of a queue, the newest first; with the cursor `before`, only
    /// older ones.
    pub(crate) async fn read_dead_letters(
        &self,
        queue: &TopicQueue,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let dead_letters = self.keys.dead_letters_key(&keys::group_name(queue));
        let mut start = keys::reverse_range_start(before)?;
        let mut letters = Vec::new();
        while letters.len() < limit && !start.is_empty() {
            let rows: Vec<DeadLetterRow>;
            (rows, start) = LIST_DEAD_LETTERS
                .call_with_keys(&[("dead_letters", &dead_letters)])
                .arg("range_end", &start)
                .arg("max_letters", limit - letters.len())
                .arg("whole_bytes", MAX_LISTED_PAYLOAD_BYTES)
                .arg("edge_bytes", DEAD_LETTER_EDGE_BYTES)
                .run(&self.link)
                .await?;
            letters.extend(rows.into_iter().map(|(entry, bytes, head, tail)| {
                if tail.is_empty() {
                    parse_dead_letter(queue, &entry, &head)
                } else {
                    parse_dead_letter_edges(queue, &entry, [&head, &tail], bytes)
                }
            }));
        }
        Ok(letters)
    }

    /// The newest dead letter that is listed by `id`, with its payload.
    pub(crate) async fn read_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<Option<DeadLetter>, StoreError> {
        let found = self.find_dead_letter(queue, id).await?;
        Ok(found.map(|(entry, data)| parse_dead_letter(queue, &entry, &data)))
    }

    /// Puts the task of a dead letter back into its queue.
    pub(crate) async fn reprocess_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: UnixMs,
    ) -> Result<ReprocessResult, StoreError> {
        let Some((entry, data)) = self.find_dead_letter(queue, id).await? else {
            let is_active = match TaskId::parse(id) {
                Ok(id) => {
                    self.read_record(&id).await?.is_some_and(|record| !record.status.is_final())
                }
                Err(_) => false,
            };
            return Ok(if is_active {
                ReprocessResult::TaskActive
            } else {
                ReprocessResult::NoSuchDeadLetter
            });
        };
        let plan = match plan_reprocess(id, &data) {
            Ok(plan) => plan,
            Err(why) => return Ok(ReprocessResult::NotRunnable(why)),
        };
        let (group, id) = (keys::group_name(queue), &plan.id);
        let call = REPROCESS_DEAD_LETTER
            .call_with_keys(&[
                ("record_key", self.keys.record_key(id)),
                ("result_key", self.keys.result_key(id)),
                ("results_index", self.keys.results_index_key()),
                ("stream", self.keys.stream_key(&queue.topic)),
                ("dead_letters", self.keys.dead_letters_key(&group)),
                ("deadline_index", self.keys.deadline_index_key(&group)),
            ])
            .arg("letter_entry", &entry)
            .arg("group", &group)
            .arg("queue_name", keys::queue_name(queue))
            .arg("task_id", id.as_str())
            .arg("data", &plan.data)
            .arg("created_ms", plan.created.unwrap_or(now).0)
            .arg("retries", plan.retries.map(|retries| retries.to_string()).unwrap_or_default())
            .arg(
                "external_timeout_ms",
                queue
                    .external_timeout
                    .map(|limit| as_millis_u64(limit).to_string())
                    .unwrap_or_default(),
            );
        let call = plan.record_fields.iter().fold(call, |call, (name, value)| {
            call.arg("field_name", *name).arg("field_value", value)
        });
        let reprocessed: i64 = call.run(&self.link).await?;
        Ok(match reprocessed {
            1 => ReprocessResult::Queued { is_captured_request: plan.has_captured_request },
            -1 => ReprocessResult::TaskActive,
            _ => ReprocessResult::NoSuchDeadLetter,
        })
    }

    /// Deletes a dead letter; returns whether it was there.
    pub(crate) async fn discard_dead_letter(
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

    /// The newest dead letter that is listed by `id`: its entry id and data.
    async fn find_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        let dead_letters = self.keys.dead_letters_key(&keys::group_name(queue));
        let mut start = "+".to_owned();
        while !start.is_empty() {
            let (entry, data): (String, Vec<u8>) = FIND_DEAD_LETTER
                .call_with_keys(&[("dead_letters", &dead_letters)])
                .arg("task_id", id)
                .arg("range_end", &start)
                .run(&self.link)
                .await?;
            start = match entry.as_str() {
                // nothing found yet: the data are the position to go on at, empty at the end
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

/// Reads a dead letter as a task with the id that it is listed by.
fn plan_reprocess(id: &str, data: &[u8]) -> Result<ReprocessPlan, String> {
    let unreadable = |error: serde_json::Error| format!("the dead letter cannot be read: {error}");
    let dead_letter: WireDeadLetter = serde_json::from_slice(data).map_err(unreadable)?;
    let message = dead_letter.failed_message.as_deref().map_or("null", RawValue::get);
    if message == "null" {
        return Err("its payload is gone".into());
    }
    let parsed = EntryMessage::parse(message.as_bytes())?;
    let id = TaskId::parse(id).map_err(|error| error.to_string())?;
    let restored = [("owner", dead_letter.owner), ("route", dead_letter.route)];
    Ok(ReprocessPlan {
        data: rewrite_message_head(&id, message)?,
        id,
        has_captured_request: parsed.request.is_some(),
        created: parsed.created,
        retries: dead_letter.retries,
        record_fields: restored
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
    })
}
