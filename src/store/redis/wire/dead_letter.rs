//! Dead letters: the entries of `omni-dlq:<group>`, ours and those of Python agents.
//!
//! A dead letter of ours is written as two parts of one JSON object, and a script puts the failed
//! message between them without decoding it. The tail begins with `failed_at`, `task_id` and
//! `kind` in this order, which is how scripts recognise our letters; Python's have no `kind`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::redis::time::{from_unix_seconds, to_unix_seconds};
use crate::store::redis::wire::entry::EntryMessage;
use crate::store::redis::wire::json::{parse_leniently, repair_foreign_json, to_json};
use crate::store::{DeadLetter, StoreError, TopicQueue};
use crate::task::{Task, TaskFailure, TaskOwner, UnixMs};

#[derive(Serialize)]
struct DeadLetterHead<'a> {
    topic: &'a str,
    original_stream: &'a str,
    original_id: &'a str,
}

#[derive(Serialize)]
struct DeadLetterTail<'a> {
    error: &'a str,
    retry_count: u32,
    failed_at: f64,
    task_id: Option<&'a str>,
    kind: &'a str,
    // fields of the task's record, which a reprocess restores
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
}

/// Everything that a dead letter of ours is made of.
pub(crate) struct DeadLetterContent<'a> {
    /// The topic.
    pub(crate) topic: &'a str,
    /// The key of the stream that the entry is in.
    pub(crate) stream: &'a str,
    /// The entry's id.
    pub(crate) entry_id: &'a str,
    /// The task; none where the entry cannot be read as one.
    pub(crate) task: Option<&'a Task>,
    /// Why the task failed.
    pub(crate) failure: &'a TaskFailure,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// When the task failed.
    pub(crate) failed_at: UnixMs,
}

impl DeadLetterContent<'_> {
    /// The JSON before and after the failed message, which a script puts between them.
    pub(crate) fn encode_parts(&self) -> Result<(String, String), StoreError> {
        let mut head = to_json(&DeadLetterHead {
            topic: self.topic,
            original_stream: self.stream,
            original_id: self.entry_id,
        })?;
        head.pop(); // the closing brace
        head.push_str(",\"failed_message\":");
        let tail = to_json(&DeadLetterTail {
            error: self.failure.message.as_str(),
            retry_count: self.attempts,
            failed_at: to_unix_seconds(self.failed_at),
            task_id: self.task.map(|task| task.id.as_str()),
            kind: self.failure.kind.as_str(),
            retries: self.task.map(|task| task.retries),
            owner: self.task.and_then(|task| task.owner.as_ref()).map(TaskOwner::digest),
            route: self.task.and_then(|task| task.route.as_deref()),
        })?;
        Ok((head, tail.replacen('{', ",", 1)))
    }
}

/// A dead letter, ours or Python's. A field of an unexpected type is read as if it were absent.
#[derive(Deserialize)]
pub(crate) struct WireDeadLetter {
    #[serde(default, deserialize_with = "parse_leniently")]
    original_id: Option<String>,
    /// The message as it was in the stream.
    pub(crate) failed_message: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "parse_leniently")]
    error: Option<String>,
    #[serde(default, deserialize_with = "parse_leniently")]
    retry_count: Option<u32>,
    #[serde(default, deserialize_with = "parse_leniently")]
    failed_at: Option<f64>,
    #[serde(default, deserialize_with = "parse_leniently")]
    task_id: Option<String>,
    /// Attempts after the first that may fail.
    pub(crate) retries: Option<u32>,
    /// The digest of the API key that may see the task.
    pub(crate) owner: Option<String>,
    /// The route that the task came over.
    pub(crate) route: Option<String>,
}

/// The id of the task in the failed message, whether or not the rest can be read.
#[derive(Deserialize)]
pub(crate) struct FailedMessageTaskId {
    /// The id of the task.
    #[serde(default, deserialize_with = "parse_leniently")]
    pub(crate) task_id: Option<String>,
}

/// A dead letter that an external consumer wrote.
#[derive(Deserialize)]
pub(crate) struct ExternalDeadLetter {
    /// The id of the entry in the topic's stream.
    pub(crate) original_id: String,
    /// The message of the task.
    pub(crate) failed_message: FailedMessageTaskId,
    /// Why the consumer gave the task up.
    #[serde(default, deserialize_with = "parse_leniently")]
    pub(crate) error: Option<String>,
    /// Only dead letters of ours have one.
    kind: Option<String>,
}

/// Reads a dead letter that an external consumer wrote; none for one of ours.
pub(crate) fn parse_external_dead_letter(data: &[u8]) -> Option<ExternalDeadLetter> {
    let letter = serde_json::from_slice::<ExternalDeadLetter>(data);
    let letter = letter.or_else(|_| serde_json::from_str(&repair_foreign_json(data).0)).ok();
    letter.filter(|letter| letter.kind.is_none())
}

/// The [`DeadLetter`] in the entry `entry_id` of a queue's dead letter stream. Data that cannot be
/// read become its payload.
pub(crate) fn parse_dead_letter(queue: &TopicQueue, entry: &str, data: &[u8]) -> DeadLetter {
    let text = match serde_json::from_slice::<&RawValue>(data) {
        Ok(json) => Cow::Borrowed(json.get()),
        Err(_) => Cow::Owned(repair_foreign_json(data).0),
    };
    let entry_time = time_of_entry(entry);
    let Ok(read) = serde_json::from_str::<WireDeadLetter>(&text) else {
        let error = "the dead letter cannot be read".to_owned();
        let (id, payload, topic) =
            (entry.to_owned(), String::from_utf8_lossy(data).into_owned(), queue.topic.clone());
        return DeadLetter {
            id,
            topic,
            error,
            attempts: 0,
            failed_at: entry_time,
            payload_bytes: payload.len() as u64,
            payload: Some(payload),
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
        // an entry that could not be read is a JSON string in its dead letter
        Err(_) => serde_json::from_str::<String>(message).unwrap_or_else(|_| message.to_owned()),
    };
    DeadLetter {
        id: read.task_id.or_else(named).unwrap_or(original),
        topic: queue.topic.clone(),
        error: read.error.unwrap_or_default(),
        attempts: read.retry_count.unwrap_or_default(),
        failed_at: read.failed_at.map_or(entry_time, from_unix_seconds),
        payload_bytes: payload.len() as u64,
        payload: Some(payload),
        cursor: entry.to_owned(),
    }
}

/// A dead letter of `bytes` bytes of which only the `edges` are known, its beginning and its end,
/// without the payload between them. In the end the last `error` is the field: a string has no
/// bare quotes.
pub(crate) fn parse_dead_letter_edges(
    queue: &TopicQueue,
    entry: &str,
    edges: [&[u8]; 2],
    bytes: u64,
) -> DeadLetter {
    let [head, tail] = edges.map(String::from_utf8_lossy);
    let fields = tail.rmatch_indices("\"error\"").find_map(|(at, _)| {
        serde_json::from_str::<WireDeadLetter>(&format!("{{{}", &tail[at..])).ok()
    });
    let too_long = || "its error is too long for a list".to_owned();
    let (error, attempts, failed_at, task_id) = match fields {
        Some(read) => (
            read.error.unwrap_or_default(),
            read.retry_count.unwrap_or_default(),
            read.failed_at.map_or_else(|| time_of_entry(entry), from_unix_seconds),
            read.task_id,
        ),
        None => (too_long(), 0, time_of_entry(entry), None),
    };
    let message = head.split_once("\"failed_message\"").map_or("", |(_, message)| message);
    let named =
        || first_string_field(message, "task_id").or_else(|| last_string_field(&tail, "task_id"));
    let original = || first_string_field(&head, "original_id");
    DeadLetter {
        id: task_id.or_else(named).or_else(original).unwrap_or_else(|| entry.to_owned()),
        topic: queue.topic.clone(),
        error,
        attempts,
        failed_at,
        payload: None,
        payload_bytes: bytes,
        cursor: entry.to_owned(),
    }
}

/// When a stream entry was added.
fn time_of_entry(entry: &str) -> UnixMs {
    UnixMs(entry.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or_default())
}

/// The value of the first field `name` that is a string.
fn first_string_field(text: &str, name: &str) -> Option<String> {
    let quoted = format!("\"{name}\"");
    text.match_indices(&quoted).find_map(|(at, _)| parse_string_after(&text[at + quoted.len()..]))
}

/// The value of the last field `name` that is a string.
fn last_string_field(text: &str, name: &str) -> Option<String> {
    let quoted = format!("\"{name}\"");
    text.rmatch_indices(&quoted).find_map(|(at, _)| parse_string_after(&text[at + quoted.len()..]))
}

/// The JSON string after a colon.
fn parse_string_after(text: &str) -> Option<String> {
    let value = text.trim_start().strip_prefix(':')?;
    serde_json::Deserializer::from_str(value).into_iter().next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Topic;

    #[test]
    fn the_edges_of_a_large_dead_letter_tell_all_but_its_payload() {
        let queue = TopicQueue::with_default_settings(Topic::parse("t").expect("a topic"), "a");
        let payload = format!("{{\\\"error\\\":\\\"no\\\"{}}}", "x".repeat(50_000));
        let ours = format!(
            "{{\"topic\":\"t\",\"original_id\":\"5-1\",\"failed_message\":{{\"task_id\":\"task_1\",\
             \"content\":\"{payload}\"}},\"error\":\"a \\\"b\\\"\",\"retry_count\":3,\
             \"failed_at\":7.5,\"task_id\":\"task_1\",\"kind\":\"handler\"}}"
        );
        let python = format!(
            "{{\"topic\": \"t\", \"original_id\": \"5-1\", \"failed_message\": {{\"content\": \
             \"{payload}\", \"task_id\": \"task_1\"}}, \"error\": \"a \\\"b\\\"\", \
             \"retry_count\": 3, \"failed_at\": 7.5}}"
        );
        for data in [ours, python] {
            let data = data.as_bytes();
            let edges = [&data[..8192], &data[data.len() - 8192..]];
            let letter = parse_dead_letter_edges(&queue, "9-0", edges, data.len() as u64);
            let whole = parse_dead_letter(&queue, "9-0", data);
            assert_eq!(
                letter,
                DeadLetter { payload: None, payload_bytes: data.len() as u64, ..whole }
            );
            assert_eq!((letter.id.as_str(), letter.error.as_str()), ("task_1", "a \"b\""));
        }
    }
}
