//! What can be asked: tasks, depths, dead letters.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis::streams::StreamRangeReply;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::keys;
use super::message::{Message, ReadResult, from_seconds};
use super::partition::Partition;
use super::progress::current;
use super::script::{DEPTHS, GET};
use crate::store::envelope::StoredFailure;
use crate::store::list::no_cursor;
use crate::store::{DeadLetter, Depth, Queue, StoreError};
use crate::task::{Owner, Status, TaskId, TaskRecord, Topic, UnixMs};

/// A record's fields.
pub(super) type Fields = HashMap<String, Bytes>;

/// A dead letter, ours or Python's.
#[derive(Deserialize)]
pub(super) struct ReadDeadLetter {
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
struct Named {
    task_id: Option<String>,
}

impl Partition {
    pub(super) async fn read_record(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        let (fields, result, held) = self.look_up(id).await?;
        Self::record_of(id, &fields, result, held)
    }

    /// A task's record, its result, and whether a consumer holds its entry.
    pub(super) async fn look_up(&self, id: &TaskId) -> Result<(Fields, Option<ReadResult>, bool), StoreError> {
        let (fields, result, held): (Fields, Option<Bytes>, bool) = GET
            .keys(&[self.keys.record(id), self.keys.result(id)])
            .arg(self.keys.stream_prefix())
            .arg(keys::GROUP)
            .arg(self.keys.tally_prefix())
            .run(&self.link)
            .await?;
        Ok((fields, result.map(|json| ReadResult::read(&json)).transpose()?, held))
    }

    /// The task that [`Self::look_up`] found.
    pub(super) fn record_of(
        id: &TaskId,
        fields: &Fields,
        result: Option<ReadResult>,
        held: bool,
    ) -> Result<Option<TaskRecord>, StoreError> {
        let Some((topic, agent)) = text(fields, "queue").and_then(|queue| queue.split_once(':')) else {
            return result.map(|result| of_result(id, result)).transpose();
        };
        let attempts = number(fields, "attempt").map_or(u32::from(held), |n| u32::try_from(n).unwrap_or(u32::MAX));
        let mut record = TaskRecord {
            id: id.clone(),
            topic: topic_of(topic)?,
            status: if held { Status::Processing } else { Status::Queued },
            attempts,
            owner: text(fields, "owner").map(Owner::from_digest),
            created: UnixMs(number(fields, "created").unwrap_or_default()),
            due: if held { None } else { number(fields, "due").map(UnixMs) },
            finished: number(fields, "ended").map(UnixMs),
            answer: None,
            failure: None,
            progress: None,
        };
        if held {
            record.progress = text(fields, "progress").and_then(|said| current(said, number(fields, "turn")));
        }
        if let Some(json) = text(fields, "failure") {
            let stored: StoredFailure = serde_json::from_str(json).map_err(|e| StoreError::Malformed(e.to_string()))?;
            record.failure = Some(stored.open()?);
        }
        let state = text(fields, "state");
        let result = result.filter(|read| state.is_some() || read.result.is_of(agent));
        conclude(&mut record, state, result)?;
        Ok(Some(record))
    }

    pub(super) async fn read_depths(&self, queues: &[Queue]) -> Result<Vec<Depth>, StoreError> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let groups: Vec<String> = queues.iter().map(keys::group).collect();
        let queue_keys: Vec<String> = queues
            .iter()
            .zip(&groups)
            .flat_map(|(queue, group)| {
                [
                    self.keys.stream(&queue.topic),
                    self.keys.delayed(group),
                    self.keys.dead_letters(group),
                    self.keys.scheduled(group),
                ]
            })
            .collect();
        let rows: Vec<[i64; 5]> = DEPTHS.keys(&queue_keys).arg(&groups).run(&self.link).await?;
        let count = |n: i64| u64::try_from(n).unwrap_or_default();
        let depth = |[unread, parked, leased, dead, oldest]: [i64; 5]| Depth {
            queued: count(unread) + count(parked),
            processing: count(leased),
            dead: count(dead),
            oldest: Duration::from_millis(count(oldest)),
        };
        Ok(rows.into_iter().map(depth).collect())
    }

    pub(super) async fn read_dead_letters(
        &self,
        queue: &Queue,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let mut range = redis::cmd("XREVRANGE");
        let from = match before {
            None => "+".to_owned(),
            Some(before) if is_entry(before) => format!("({before}"),
            Some(_) => return Err(no_cursor("before")),
        };
        range.arg(self.keys.dead_letters(&keys::group(queue))).arg(from).arg("-").arg("COUNT").arg(limit);
        let reply: StreamRangeReply = self.link.call(&range).await?;
        let data = |entry: &redis::streams::StreamId| entry.get::<Vec<u8>>("data").unwrap_or_default();
        Ok(reply.ids.iter().map(|entry| dead_letter(queue, &entry.id, &data(entry))).collect())
    }
}

/// Whether a text is an entry's id, as cursors are.
pub(super) fn is_entry(text: &str) -> bool {
    text.split_once('-').is_some_and(|(ms, seq)| ms.parse::<u64>().is_ok() && seq.parse::<u64>().is_ok())
}

/// Gives a record its end. A result without a final state is of a consumer of another make, which writes no more.
fn conclude(record: &mut TaskRecord, state: Option<&str>, result: Option<ReadResult>) -> Result<(), StoreError> {
    if state.is_some() || result.is_some() {
        record.progress = None;
    }
    match (state, result) {
        (None, None) => {}
        (Some("cancelled"), _) => record.status = Status::Cancelled,
        (Some("failed"), result) => {
            record.status = Status::Failed;
            record.failure = result.map(|result| result.result.failure()).transpose()?;
        }
        (Some(_), None) => record.status = Status::Completed,
        (_, Some(result)) => {
            record.status = Status::Completed;
            if record.finished.is_none() {
                record.attempts = record.attempts.max(1);
                record.finished = result.saved();
            }
            record.failure = None;
            record.answer = Some(result.result.answer()?);
        }
    }
    Ok(())
}

/// The record of a task that is known by its result alone: it has ended, or another make published and ran it.
fn of_result(id: &TaskId, read: ReadResult) -> Result<TaskRecord, StoreError> {
    let topic = read.result.topic.as_deref().ok_or_else(|| StoreError::Malformed(format!("{id} has no topic")))?;
    let failed = read.result.is_failed();
    let mut record = TaskRecord {
        id: id.clone(),
        topic: topic_of(topic)?,
        status: if failed { Status::Failed } else { Status::Completed },
        attempts: read.attempt.unwrap_or(1),
        owner: read.owner.as_deref().map(Owner::from_digest),
        created: read.result.created().unwrap_or_default(),
        due: None,
        finished: read.saved(),
        answer: None,
        failure: None,
        progress: None,
    };
    if failed {
        record.failure = Some(read.result.failure()?);
    } else {
        record.answer = Some(read.result.answer()?);
    }
    Ok(record)
}

pub(super) fn dead_letter(queue: &Queue, entry: &str, data: &[u8]) -> DeadLetter {
    let text = String::from_utf8_lossy(data);
    let failed_by_entry = UnixMs(entry.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or_default());
    let Ok(read) = serde_json::from_str::<ReadDeadLetter>(&text) else {
        let error = "the dead letter cannot be read".to_owned();
        let (id, payload, topic) = (entry.to_owned(), text.into_owned(), queue.topic.clone());
        return DeadLetter { id, topic, error, attempts: 0, failed: failed_by_entry, payload, cursor: entry.into() };
    };
    let message = read.failed_message.as_deref().map_or("null", RawValue::get);
    let named = || serde_json::from_str::<Named>(message).ok().and_then(|named| named.task_id);
    let original = read.original_id.unwrap_or_else(|| entry.to_owned());
    let payload = match Message::read(message.as_bytes()) {
        Ok(message) => String::from_utf8_lossy(&message.payload).into_owned(),
        // what could not be read was quoted
        Err(_) => serde_json::from_str::<String>(message).unwrap_or_else(|_| message.to_owned()),
    };
    DeadLetter {
        id: read.task_id.or_else(named).unwrap_or(original),
        topic: queue.topic.clone(),
        error: read.error.unwrap_or_default(),
        attempts: read.retry_count.unwrap_or_default(),
        failed: read.failed_at.map_or(failed_by_entry, from_seconds),
        payload,
        cursor: entry.to_owned(),
    }
}

fn topic_of(text: &str) -> Result<Topic, StoreError> {
    Topic::parse(text).map_err(|error| StoreError::Malformed(error.to_string()))
}

/// A field as text.
pub(super) fn text<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// A field as a number.
pub(super) fn number(fields: &Fields, name: &str) -> Option<u64> {
    text(fields, name)?.parse().ok()
}
