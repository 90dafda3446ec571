//! The `data` field of a stream entry: the message of one task.
//!
//! Names and shapes are those of the Python `OmniDaemon`, whose publishers and agents read and
//! write the same streams; what is ours is an extra field that they ignore. Messages of other
//! publishers are read leniently, and the fields that a [`Task`] does not hold are kept as
//! [`MessageExtras`], so that the result can give them back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::config::ContentForm;
use crate::store::redis::time::{from_unix_seconds, to_unix_seconds};
use crate::store::redis::wire::json::{parse_json_string, repair_foreign_json, to_json};
use crate::store::wire::envelope::{StoredCredentials, StoredRequest, encode_result_json};
use crate::store::{StoreError, TopicQueue};
use crate::task::{Task, TaskId, Topic, UnixMs};

/// The `data` of an entry. `task_id` stays the first field: scripts find it there without decoding
/// the rest.
#[derive(Serialize)]
pub(crate) struct WrittenEntry<'a> {
    task_id: &'a str,
    content: WrittenContent<'a>,
    webhook: Option<&'a RawValue>,
    reply_to: Option<&'a RawValue>,
    topic: &'a str,
    correlation_id: Option<&'a str>,
    causation_id: Option<&'a RawValue>,
    source: Option<&'a RawValue>,
    delivery_attempts: u32,
    created_at: f64,
    /// Written only where the content would be read as another payload without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_form: Option<ContentFormMark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<StoredRequest>,
}

/// Says that `content` is the payload itself, although it is null or a string that could be read as
/// JSON.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum ContentFormMark {
    Object,
}

/// A payload as a JSON string or as the JSON value itself.
#[derive(Serialize)]
#[serde(untagged)]
enum WrittenContent<'a> {
    String(Cow<'a, str>),
    Object(Box<RawValue>),
}

/// The `data` of an entry of any publisher.
#[derive(Deserialize)]
struct ParsedEntry<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    content_form: Option<&'a RawValue>,
    #[serde(borrow)]
    correlation_id: Option<&'a RawValue>,
    #[serde(borrow)]
    created_at: Option<&'a RawValue>,
    webhook: Option<Box<RawValue>>,
    reply_to: Option<Box<RawValue>>,
    causation_id: Option<Box<RawValue>>,
    source: Option<Box<RawValue>>,
    request: Option<StoredRequest>,
}

/// The message in an entry.
pub(crate) struct EntryMessage {
    /// The payload as JSON text.
    pub(crate) payload: Bytes,
    /// The caller's own id for it.
    pub(crate) correlation_id: Option<String>,
    /// When it was published.
    pub(crate) created: Option<UnixMs>,
    /// The captured request, without credentials.
    pub(in crate::store) request: Option<StoredRequest>,
    /// The fields that a [`Task`] does not hold.
    pub(crate) extras: MessageExtras,
}

/// The fields of a message that a [`Task`] does not hold, kept for the task's result.
pub(crate) struct MessageExtras {
    content: ContentForm,
    webhook: Option<Box<RawValue>>,
    reply_to: Option<Box<RawValue>>,
    causation_id: Option<Box<RawValue>>,
    source: Option<Box<RawValue>>,
}

/// The stored parts of a new task's message.
pub(crate) struct EncodedEntry {
    /// The entry's `data`.
    pub(crate) data: String,
    /// The credentials of the captured request as JSON, which are kept out of `data`.
    pub(crate) credentials: Option<String>,
}

/// A new task as it is stored.
pub(crate) fn encode_entry(task: &Task, queue: &TopicQueue) -> Result<EncodedEntry, StoreError> {
    let (request, credentials) = match &task.request {
        Some(request) => {
            let (stored, credentials) = StoredRequest::encode_request(request, &task.payload);
            (Some(stored), credentials.as_ref().map(to_json).transpose()?)
        }
        None => (None, None),
    };
    let extras = MessageExtras::from_task(task, queue.content_form);
    let data = to_json(&WrittenEntry { request, ..build_written_entry(task, &extras) })?;
    Ok(EncodedEntry { data, credentials })
}

/// The message of a task, without its captured request.
pub(crate) fn build_written_entry<'a>(
    task: &'a Task,
    extras: &'a MessageExtras,
) -> WrittenEntry<'a> {
    WrittenEntry {
        task_id: task.id.as_str(),
        content: extras.write_content(&task.payload),
        webhook: extras.webhook.as_deref(),
        reply_to: extras.reply_to.as_deref(),
        topic: task.topic.as_str(),
        correlation_id: task.correlation_id.as_deref(),
        causation_id: extras.causation_id.as_deref(),
        source: extras.source.as_deref(),
        delivery_attempts: 1,
        created_at: to_unix_seconds(task.created),
        content_form: extras.content_form_mark(&task.payload),
        request: None,
    }
}

impl EntryMessage {
    /// Reads an entry's `data`.
    ///
    /// # Errors
    /// The reason in words where the data are no message.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(data).map_err(|_| "data is not UTF-8".to_owned())?;
        let read: ParsedEntry<'_> =
            serde_json::from_str(text).map_err(|error| describe_parse_error(text, &error))?;
        let is_marked = read.content_form.is_some_and(|mark| mark.get() == "\"object\"");
        let content = match read.content {
            Some(content) => content,
            // other publishers write null where they have no content
            None if is_marked => RawValue::NULL,
            None => return Err("data has no content".to_owned()),
        };
        let (content, payload) = parse_content(content, is_marked);
        Ok(Self {
            payload,
            correlation_id: read
                .correlation_id
                .map(|raw| parse_json_string(raw).unwrap_or_else(|| raw.get().to_owned())),
            created: read.created_at.and_then(|raw| raw.get().parse().ok()).map(from_unix_seconds),
            request: read.request,
            extras: MessageExtras {
                content,
                webhook: read.webhook,
                reply_to: read.reply_to,
                causation_id: read.causation_id,
                source: read.source,
            },
        })
    }
}

/// Why a text is not a message.
fn describe_parse_error(text: &str, error: &serde_json::Error) -> String {
    match serde_json::from_str::<&RawValue>(text) {
        Err(error) => match repair_foreign_json(text.as_bytes()) {
            (_, Some(_)) => format!("data has NaN or Infinity, which JSON does not have: {error}"),
            (_, None) => format!("data is not JSON: {error}"),
        },
        Ok(json) if !json.get().starts_with('{') => "data is not a JSON object".into(),
        Ok(_) => format!("data is not a message: {error}"),
    }
}

/// The payload in `content`: a string that is JSON is that JSON, unless the message is marked as
/// having the payload itself there; anything else is the payload itself.
fn parse_content(content: &RawValue, is_marked: bool) -> (ContentForm, Bytes) {
    match parse_string_of_json(content.get()).filter(|_| !is_marked) {
        Some(text) => (ContentForm::String, text.into()),
        None => (ContentForm::Object, content.get().to_owned().into()),
    }
}

/// The JSON text in a JSON string; none for any other JSON.
fn parse_string_of_json(json: &str) -> Option<String> {
    let text: String = serde_json::from_str(json).ok()?;
    serde_json::from_str::<&RawValue>(&text).is_ok().then_some(text)
}

/// Reads the credentials in a task's record.
pub(in crate::store) fn parse_credentials(json: &[u8]) -> Result<StoredCredentials, StoreError> {
    serde_json::from_slice(json).map_err(|error| StoreError::Malformed(error.to_string()))
}

impl MessageExtras {
    /// The extras of a message of ours.
    pub(crate) fn from_task(task: &Task, content: ContentForm) -> Self {
        let raw = |text: Option<&str>| text.and_then(|text| to_raw_value(text).ok());
        Self {
            content,
            webhook: raw(task.webhook.as_deref()),
            reply_to: raw(task.reply_to.as_ref().map(Topic::as_str)),
            causation_id: raw(task.causation_id.as_deref()),
            source: None,
        }
    }

    /// The URL that is called when the task has ended.
    pub(crate) fn webhook_url(&self) -> Option<String> {
        self.webhook.as_deref().and_then(parse_json_string)
    }

    /// The topic that the task's answer is sent to; none where the name is not a valid topic.
    pub(crate) fn reply_topic(&self) -> Option<Topic> {
        self.reply_to
            .as_deref()
            .and_then(parse_json_string)
            .and_then(|text| Topic::parse(&text).ok())
    }

    /// The id of the task that this task was published for.
    pub(crate) fn causing_task_id(&self) -> Option<String> {
        self.causation_id.as_deref().and_then(parse_json_string)
    }

    fn write_content<'a>(&self, payload: &'a [u8]) -> WrittenContent<'a> {
        match self.content {
            ContentForm::Object => WrittenContent::Object(encode_result_json(payload)),
            ContentForm::String => WrittenContent::String(String::from_utf8_lossy(payload)),
        }
    }

    /// The mark of null, which is no content without it, and of a string such as `"123"`.
    fn content_form_mark(&self, payload: &[u8]) -> Option<ContentFormMark> {
        let payload = payload.trim_ascii();
        let needs_mark = match self.content {
            ContentForm::String => false,
            ContentForm::Object if payload.starts_with(b"\"") => {
                let text = std::str::from_utf8(payload).ok();
                text.and_then(parse_string_of_json).is_some()
            }
            ContentForm::Object => payload == b"null",
        };
        needs_mark.then_some(ContentFormMark::Object)
    }
}

/// A message whose first field is its task id, where scripts find it, and that counts as not yet
/// delivered.
pub(crate) fn rewrite_message_head(id: &TaskId, message: &str) -> Result<String, String> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn test_queue(content: ContentForm) -> TopicQueue {
        let topic = Topic::parse("t").expect("a topic");
        TopicQueue { content_form: content, ..TopicQueue::with_default_settings(topic, "a") }
    }

    fn test_task(payload: String) -> Task {
        let topic = test_queue(ContentForm::String).topic;
        Task::new(TaskId::new(UnixMs(1), 2), topic, payload, UnixMs(1_753_000_000_123))
    }

    /// JSON scalars, and strings of JSON in strings.
    fn nested_json() -> impl Strategy<Value = String> {
        let scalar = "(null|true|-0|-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?(e[0-9]{1,3})?|\"\")";
        scalar.prop_recursive(3, 8, 1, |inner| {
            inner.prop_map(|json| serde_json::to_string(&json).expect("JSON"))
        })
    }

    #[test]
    fn a_foreign_string_of_json_is_that_json() {
        for (content, payload) in
            [("\"123\"", "123"), ("\"{\\\"a\\\": 1}\"", "{\"a\": 1}"), ("\"x\"", "\"x\"")]
        {
            let message = EntryMessage::parse(format!("{{\"content\":{content}}}").as_bytes());
            assert_eq!(message.expect("read").payload, payload);
        }
        assert!(EntryMessage::parse(b"{\"task_id\":\"a\"}").is_err(), "no content");
    }

    proptest! {
        #[test]
        fn a_payload_is_read_unchanged_in_both_content_forms(
            text in ".*",
            spaces in "[ \n]{0,3}",
            string: bool,
        ) {
            let json = serde_json::to_string(&text).expect("JSON");
            let payload = if string {
                json
            } else {
                format!("{{\"a\":{spaces}{json}, \"b\": 1.0e2}}")
            };
            for content in [ContentForm::String, ContentForm::Object] {
                let task = test_task(payload.clone());
                let EncodedEntry { data, .. } =
                    encode_entry(&task, &test_queue(content)).expect("written");
                let first_field = format!("{{\"task_id\":\"{}\"", task.id);
                prop_assert!(data.starts_with(&first_field), "scripts find the id there");
                let message = EntryMessage::parse(data.as_bytes()).expect("read");
                prop_assert_eq!(message.payload, task.payload);
                prop_assert_eq!(message.created, Some(task.created));
            }
        }

        #[test]
        fn random_json_is_read_unchanged_in_both_content_forms(json in nested_json()) {
            for content in [ContentForm::String, ContentForm::Object] {
                let task = test_task(json.clone());
                let entry = encode_entry(&task, &test_queue(content)).expect("written");
                let message = EntryMessage::parse(entry.data.as_bytes()).expect("read");
                prop_assert_eq!(message.payload, task.payload);
            }
        }

        #[test]
        fn random_bytes_are_refused_without_a_panic(
            data in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            prop_assert!(EntryMessage::parse(&data).is_err());
        }
    }
}
