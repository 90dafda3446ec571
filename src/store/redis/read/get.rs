//! One task: its record, its result, and its entry in the stream.

use std::collections::HashMap;

use bytes::Bytes;
use redis::streams::StreamRangeReply;

use crate::store::StoreError;
use crate::store::redis::core::PartitionCore;
use crate::store::redis::lock::lock_unpoisoned;
use crate::store::redis::script::runner::READ_TASK;
use crate::store::redis::wire::keys;
use crate::store::redis::wire::progress::parse_current_progress;
use crate::store::redis::wire::result::ParsedResult;
use crate::store::wire::envelope::recover_failure;
use crate::task::{TaskId, TaskOwner, TaskRecord, TaskStatus, Topic, UnixMs};

/// The most tasks that are remembered as reported; then the memory begins anew.
const MAX_REPORTED_DEFECTS: usize = 1000;

/// The fields of a task record, by name.
pub(crate) type RecordFields = HashMap<String, Bytes>;

/// What is stored of one task.
pub(crate) struct StoredTask {
    /// The fields of its record; none where it has no record.
    pub(crate) fields: RecordFields,
    /// Its result.
    pub(crate) result: Option<ParsedResult>,
    /// Whether a consumer holds its entry.
    pub(crate) is_held: bool,
}

impl PartitionCore {
    /// A task as it is now; none where the store does not know it.
    pub(crate) async fn read_record(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        let stored = self.read_stored_task(id).await?;
        build_task_record(id, &stored.fields, stored.result, stored.is_held)
    }

    /// What is stored of a task.
    pub(crate) async fn read_stored_task(&self, id: &TaskId) -> Result<StoredTask, StoreError> {
        let (fields, result, is_held): (RecordFields, Option<Bytes>, bool) = READ_TASK
            .call_with_keys(&[
                ("record_key", self.keys.record_key(id)),
                ("result_key", self.keys.result_key(id)),
            ])
            .arg("stream_prefix", self.keys.stream_prefix())
            .arg("group_prefix", keys::GROUP_PREFIX)
            .arg("tally_prefix", self.keys.tally_prefix())
            .run(&self.link)
            .await?;
        let result = result.map(|json| ParsedResult::parse(&json));
        if let Some(defect) = result.as_ref().and_then(ParsedResult::describe_defect) {
            self.report_defect(id, defect);
        }
        Ok(StoredTask { fields, result, is_held })
    }

    /// Logs once that another program saved a result that cannot be given as it is.
    fn report_defect(&self, id: &TaskId, defect: &str) {
        let mut reported = lock_unpoisoned(&self.reported_defects);
        if reported.len() >= MAX_REPORTED_DEFECTS {
            reported.clear();
        }
        if reported.insert(id.clone()) {
            tracing::warn!(task = %id, defect, "another program saved a result that is not JSON");
        }
    }

    /// The `data` of an entry of the stream at key `stream`, while the entry is there.
    pub(crate) async fn read_entry_data(
        &self,
        stream: &str,
        entry_id: &str,
    ) -> Result<Option<Bytes>, StoreError> {
        let mut range = redis::cmd("XRANGE");
        range.arg(stream).arg(entry_id).arg(entry_id);
        let found: StreamRangeReply = self.link.send_command(&range).await?;
        Ok(found.ids.first().and_then(|entry| entry.get::<Vec<u8>>("data")).map(Bytes::from))
    }
}

/// The task that the fields of its record and its result describe; none where there is neither.
pub(crate) fn build_task_record(
    id: &TaskId,
    fields: &RecordFields,
    result: Option<ParsedResult>,
    is_held: bool,
) -> Result<Option<TaskRecord>, StoreError> {
    let Some((topic, agent)) = field_text(fields, "queue").and_then(|queue| queue.split_once(':'))
    else {
        return Ok(result.map(|result| record_from_result(id, result)));
    };
    let attempts = field_number(fields, "attempt")
        .map_or(u32::from(is_held), |number| u32::try_from(number).unwrap_or(u32::MAX));
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
        note: None,
    };
    if is_held {
        record.progress = field_text(fields, "progress")
            .and_then(|json| parse_current_progress(json, field_number(fields, "turn")));
    }
    if let Some(json) = field_text(fields, "failure") {
        let stored =
            serde_json::from_str(json).map_err(|error| StoreError::Malformed(error.to_string()));
        record.failure = Some(recover_failure(stored));
    }
    let state = field_text(fields, "state");
    let result = result.filter(|stored| state.is_some() || stored.result.belongs_to_agent(agent));
    apply_task_end(&mut record, state, result);
    Ok(Some(record))
}

/// Adds the end of its task to a record. An external consumer writes a result, but no final state.
fn apply_task_end(record: &mut TaskRecord, state: Option<&str>, result: Option<ParsedResult>) {
    if state.is_some() || result.is_some() {
        record.progress = None;
    }
    match (state, result) {
        (None, None) => {}
        (Some("cancelled"), _) => record.status = TaskStatus::Cancelled,
        (Some("failed"), result) => {
            record.status = TaskStatus::Failed;
            record.failure = result.map(|result| result.result.into_failure());
        }
        (Some(_), None) => record.status = TaskStatus::Completed,
        (_, Some(result)) => {
            if record.finished.is_none() {
                record.attempts = record.attempts.max(1);
                record.finished = result.saved_time();
            }
            set_outcome(record, result);
        }
    }
}

/// Sets the status by a result, and the answer or the failure in it.
fn set_outcome(record: &mut TaskRecord, stored: ParsedResult) {
    (record.answer, record.failure, record.note) = (None, None, None);
    if stored.result.is_failed() {
        record.status = TaskStatus::Failed;
        record.failure = Some(stored.result.into_failure());
    } else {
        record.status = TaskStatus::Completed;
        let (answer, note) = stored.result.into_answer();
        (record.answer, record.note) = (Some(answer), note);
    }
}

/// The record of a task that has no record any more: it has ended, or it was published and run by
/// Python alone.
fn record_from_result(id: &TaskId, stored: ParsedResult) -> TaskRecord {
    let topic = stored.result.topic.as_deref().and_then(|topic| Topic::parse(topic).ok());
    let mut record = TaskRecord {
        id: id.clone(),
        topic: topic.unwrap_or_else(Topic::unknown),
        status: TaskStatus::Completed,
        attempts: stored.attempt.unwrap_or(1),
        owner: stored.owner.as_deref().map(TaskOwner::from_digest),
        created: stored.result.created_time().unwrap_or_default(),
        due: None,
        finished: stored.saved_time(),
        answer: None,
        failure: None,
        progress: None,
        note: None,
    };
    set_outcome(&mut record, stored);
    record
}

fn parse_topic(text: &str) -> Result<Topic, StoreError> {
    Topic::parse(text).map_err(|error| StoreError::Malformed(error.to_string()))
}

/// The text of a field; none where it is absent or not UTF-8.
pub(crate) fn field_text<'a>(fields: &'a RecordFields, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// The number in a field; none where it is absent or not a number.
pub(crate) fn field_number(fields: &RecordFields, name: &str) -> Option<u64> {
    field_text(fields, name)?.parse().ok()
}
