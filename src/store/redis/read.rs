//! What can be asked: tasks, depths, dead letters.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis::streams::StreamRangeReply;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::keys;
use super::message::{EntryMessage, ParsedResult, from_unix_seconds};
use super::partition::Partition;
use super::progress::parse_current_progress;
use super::script::{READ_QUEUE_DEPTHS, READ_TASK};
use crate::store::error::invalid_cursor;
use crate::store::wire::envelope::StoredFailure;
use crate::store::{DeadLetter, QueueDepth, StoreError, TopicQueue};
use crate::task::{TaskId, TaskOwner, TaskRecord, TaskStatus, Topic, UnixMs};

/// A record's fields.
pub(super) type RecordFields = HashMap<String, Bytes>;

/// A dead letter, ours or Python's.
#[derive(Deserialize)]
pub(super) struct WireDeadLetter {
    original_id: Option<String>,
    pub(super) failed_message: Option<Box<RawValue>>,
    error: Option<String>,
    retry_count: Option<u32>,
    failed_at: Option<f64>,
    task_id: Option<String>,
    pub(super) retries: Option<u32>,
    pub(super) owner: Option<String>,
    pub(super) route: Option<String>,
}

/// The message in one, as far as it is one.
#[derive(Deserialize)]
struct FailedMessageTaskId {
    task_id: Option<String>,
}

impl Partition {
    pub(super) async fn read_record(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        let (fields, result, held) = self.read_stored_task(id).await?;
        Self::build_task_record(id, &fields, result, held)
    }

    /// A task's record, its result, and whether a consumer holds its entry.
    pub(super) async fn read_stored_task(
        &self,
        id: &TaskId,
    ) -> Result<(RecordFields, Option<ParsedResult>, bool), StoreError> {
        let (fields, result, held): (RecordFields, Option<Bytes>, bool) = READ_TASK
            .call_with_keys(&[self.keys.record_key(id), self.keys.result_key(id)])
            .arg(self.keys.stream_prefix())
            .arg(keys::GROUP_PREFIX)
            .arg(self.keys.tally_prefix())
            .run(&self.link)
            .await?;
        Ok((fields, result.map(|json| ParsedResult::parse(&json)).transpose()?, held))
    }

    /// The task that [`Self::read_stored_task`] found.
    pub(super) fn build_task_record(
        id: &TaskId,
        fields: &RecordFields,
        result: Option<ParsedResult>,
        is_held: bool,
    ) -> Result<Option<TaskRecord>, StoreError> {
        let Some((topic, agent)) =
            field_text(fields, "queue").and_then(|queue| queue.split_once(':'))
        else {
            return result.map(|result| record_from_result(id, result)).transpose();
        };
        let attempts = field_number(fields, "attempt")
            .map_or(u32::from(is_held), |n| u32::try_from(n).unwrap_or(u32::MAX));
        let mut record = TaskRecord {
            id: id.clone(),
            topic: parse_topic(topic)?,
            status: if is_held { TaskStatus::Processing } else { TaskStatus::Queued },
            attempts,
            owner: field_text(fields, "owner").map(TaskOwner::from_digest),
            created: UnixMs(field_number(fields, "created").unwrap_or_default()),
            due: if is_held { None } else { field_number(fields, "due").map(UnixMs) },
            finished: field_number(fields, "ended").map(UnixMs),
            answer: None,
            failure: None,
            progress: None,
        };
        if is_held {
            record.progress = field_text(fields, "progress")
                .and_then(|said| parse_current_progress(said, field_number(fields, "turn")));
        }
        if let Some(json) = field_text(fields, "failure") {
            let stored: StoredFailure =
                serde_json::from_str(json).map_err(|e| StoreError::Malformed(e.to_string()))?;
            record.failure = Some(stored.into_failure()?);
        }
        let state = field_text(fields, "state");
        let result = result.filter(|read| state.is_some() || read.result.belongs_to_agent(agent));
        apply_task_end(&mut record, state, result)?;
        Ok(Some(record))
    }

    pub(super) async fn read_queue_depths(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueDepth>, StoreError> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let groups: Vec<String> = queues.iter().map(keys::group_name).collect();
        let queue_keys: Vec<String> = queues
            .iter()
            .zip(&groups)
            .flat_map(|(queue, group)| {
                [
                    self.keys.stream_key(&queue.topic),
                    self.keys.delayed_index_key(group),
                    self.keys.dead_letters_key(group),
                    self.keys.scheduled_tasks_key(group),
                ]
            })
            .collect();
        let rows: Vec<[i64; 5]> =
            READ_QUEUE_DEPTHS.call_with_keys(&queue_keys).arg(&groups).run(&self.link).await?;
        let count = |n: i64| u64::try_from(n).unwrap_or_default();
        let depth = |[unread, parked, leased, dead, oldest]: [i64; 5]| QueueDepth {
            queued: count(unread) + count(parked),
            processing: count(leased),
            dead_letters: count(dead),
            oldest_age: Duration::from_millis(count(oldest)),
        };
        Ok(rows.into_iter().map(depth).collect())
    }

    pub(super) async fn read_dead_letters(
        &self,
        queue: &TopicQueue,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let mut range = redis::cmd("XREVRANGE");
        let from = match before {
            None => "+".to_owned(),
            Some(before) if is_entry_id(before) => format!("({before}"),
            Some(_) => return Err(invalid_cursor("before")),
        };
        range
            .arg(self.keys.dead_letters_key(&keys::group_name(queue)))
            .arg(from)
            .arg("-")
            .arg("COUNT")
            .arg(limit);
        let reply: StreamRangeReply = self.link.send_command(&range).await?;
        let data =
            |entry: &redis::streams::StreamId| entry.get::<Vec<u8>>("data").unwrap_or_default();
        Ok(reply
            .ids
            .iter()
            .map(|entry| parse_dead_letter(queue, &entry.id, &data(entry)))
            .collect())
    }
}

/// Whether a text is an entry's id, as cursors are.
pub(super) fn is_entry_id(text: &str) -> bool {
    text.split_once('-')
        .is_some_and(|(ms, seq)| ms.parse::<u64>().is_ok() && seq.parse::<u64>().is_ok())
}

/// Gives a record its end. A result without a final state is of a consumer of another make, which
/// writes no more.
fn apply_task_end(
    record: &mut TaskRecord,
    state: Option<&str>,
    result: Option<ParsedResult>,
) -> Result<(), StoreError> {
    if state.is_some() || result.is_some() {
        record.progress = None;
    }
    match (state, result) {
        (None, None) => {}
        (Some("cancelled"), _) => record.status = TaskStatus::Cancelled,
        (Some("failed"), result) => {
            record.status = TaskStatus::Failed;
            record.failure = result.map(|result| result.result.into_failure()).transpose()?;
        }
        (Some(_), None) => record.status = TaskStatus::Completed,
        (_, Some(result)) => {
            record.status = TaskStatus::Completed;
            if record.finished.is_none() {
                record.attempts = record.attempts.max(1);
                record.finished = result.saved_time();
            }
            record.failure = None;
            record.answer = Some(result.result.into_answer()?);
        }
    }
    Ok(())
}

/// The record of a task that is known by its result alone: it has ended, or another make published
/// and ran it.
fn record_from_result(id: &TaskId, read: ParsedResult) -> Result<TaskRecord, StoreError> {
    let topic = read
        .result
        .topic
        .as_deref()
        .ok_or_else(|| StoreError::Malformed(format!("{id} has no topic")))?;
    let failed = read.result.is_failed();
    let mut record = TaskRecord {
        id: id.clone(),
        topic: parse_topic(topic)?,
        status: if failed { TaskStatus::Failed } else { TaskStatus::Completed },
        attempts: read.attempt.unwrap_or(1),
        owner: read.owner.as_deref().map(TaskOwner::from_digest),
        created: read.result.created_time().unwrap_or_default(),
        due: None,
        finished: read.saved_time(),
        answer: None,
        failure: None,
        progress: None,
    };
    if failed {
        record.failure = Some(read.result.into_failure()?);
    } else {
        record.answer = Some(read.result.into_answer()?);
    }
    Ok(record)
}

pub(super) fn parse_dead_letter(queue: &TopicQueue, entry: &str, data: &[u8]) -> DeadLetter {
    let text = String::from_utf8_lossy(data);
    let failed_by_entry =
        UnixMs(entry.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or_default());
    let Ok(read) = serde_json::from_str::<WireDeadLetter>(&text) else {
        let error = "the dead letter cannot be read".to_owned();
        let (id, payload, topic) = (entry.to_owned(), text.into_owned(), queue.topic.clone());
        return DeadLetter {
            id,
            topic,
            error,
            attempts: 0,
            failed_at: failed_by_entry,
            payload,
            cursor: entry.into(),
        };
    };
    let message = read.failed_message.as_deref().map_or("null", RawValue::get);
    let named = || {
        serde_json::from_str::<FailedMessageTaskId>(message).ok().and_then(|named| named.task_id)
    };
    let original = read.original_id.unwrap_or_else(|| entry.to_owned());
    let payload = match EntryMessage::parse(message.as_bytes()) {
        Ok(message) => String::from_utf8_lossy(&message.payload).into_owned(),
        // what could not be read was quoted
        Err(_) => serde_json::from_str::<String>(message).unwrap_or_else(|_| message.to_owned()),
    };
    DeadLetter {
        id: read.task_id.or_else(named).unwrap_or(original),
        topic: queue.topic.clone(),
        error: read.error.unwrap_or_default(),
        attempts: read.retry_count.unwrap_or_default(),
        failed_at: read.failed_at.map_or(failed_by_entry, from_unix_seconds),
        payload,
        cursor: entry.to_owned(),
    }
}

fn parse_topic(text: &str) -> Result<Topic, StoreError> {
    Topic::parse(text).map_err(|error| StoreError::Malformed(error.to_string()))
}

/// A field as text.
pub(super) fn field_text<'a>(fields: &'a RecordFields, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// A field as a number.
pub(super) fn field_number(fields: &RecordFields, name: &str) -> Option<u64> {
    field_text(fields, name)?.parse().ok()
}
