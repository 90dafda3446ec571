//! The value of `omni:result:<id>`: once a task has ended, everything that is known of it.
//!
//! Python reads its `result` (the class `ResultMessage` there) and writes results of its own, which
//! have no field of ours. Three readers depend on the text: scripts match the first five fields
//! (`task_id`, `state`, `entry`, `attempt`, `turn`) without decoding, so their order is fixed;
//! `summary` is the last field, since task lists read the last bytes only; and `result` keeps the
//! field names of the Python contract.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::redis::time::{from_unix_seconds, to_unix_seconds};
use crate::store::redis::wire::entry::{
    EntryMessage, MessageExtras, WrittenEntry, build_written_entry,
};
use crate::store::redis::wire::json::{
    parse_json_string, parse_leniently, repair_foreign_json, to_json,
};
use crate::store::redis::wire::lease_handle::LeaseHandle;
use crate::store::redis::wire::outcome::EntryOutcome;
use crate::store::wire::envelope::{StoredAnswer, StoredFailure, recover_answer, recover_failure};
use crate::store::wire::run_history;
use crate::store::{Lease, StoreError};
use crate::task::{FailureKind, TaskAnswer, TaskFailure, TaskOwner, UnixMs};

/// The whole value.
#[derive(Serialize)]
struct WrittenResult<'a> {
    task_id: &'a str,
    state: &'a str,
    entry: &'a str,
    attempt: u32,
    turn: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    result: WrittenResultBody<'a>,
    saved_at: f64,
    /// The last field: a list reads no more than the end of the text.
    summary: ResultSummary,
}

/// The field `result`, Python's `ResultMessage`: the message, and how the task ended.
#[derive(Serialize)]
struct WrittenResultBody<'a> {
    #[serde(flatten)]
    message: WrittenEntry<'a>,
    agent: &'a str,
    runner_id: &'a str,
    status: &'a str,
    result: Option<Box<RawValue>>,
    timestamp: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<StoredAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<StoredFailure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    began_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

/// Everything that the result of a task is made of.
pub(crate) struct EndedTask<'a> {
    /// The lease that the task ended in.
    pub(crate) lease: &'a Lease,
    /// The handle of that lease.
    pub(crate) handle: &'a LeaseHandle,
    /// The fields of the task's message that a task does not hold.
    pub(crate) extras: &'a MessageExtras,
    /// The process that ran the last attempt, or [`NO_RUNNER`].
    pub(crate) runner: &'a str,
    /// How the task ended.
    pub(crate) outcome: &'a EntryOutcome<'a>,
    /// When the last attempt began, where this process knows.
    pub(crate) began_at: Option<UnixMs>,
    /// When the task ended.
    pub(crate) ended_at: UnixMs,
}

/// The runner of a task that no process of ours ran.
pub(crate) const NO_RUNNER: &str = "omnidaemon";

/// A stored result, ours or Python's. A field of an unexpected type is read as if it were absent.
#[derive(Default, Deserialize)]
pub(crate) struct ParsedResult {
    /// The field `result`.
    pub(crate) result: ParsedResultBody,
    /// Attempts that were begun; none in an external consumer's result.
    #[serde(default, deserialize_with = "parse_leniently")]
    pub(crate) attempt: Option<u32>,
    /// The digest of the API key that may see the task.
    #[serde(default, deserialize_with = "parse_leniently")]
    pub(crate) owner: Option<String>,
    #[serde(default, deserialize_with = "parse_leniently")]
    saved_at: Option<f64>,
    /// The failed attempts before the last, a line each; the script that ends a task adds them.
    #[serde(default, deserialize_with = "parse_leniently")]
    history: Option<String>,
}

/// The field `result`, ours or Python's.
#[derive(Default, Deserialize)]
pub(crate) struct ParsedResultBody {
    /// The topic.
    #[serde(default, deserialize_with = "parse_leniently")]
    pub(crate) topic: Option<String>,
    #[serde(default, deserialize_with = "parse_leniently")]
    agent: Option<String>,
    #[serde(default, deserialize_with = "parse_leniently")]
    created_at: Option<f64>,
    #[serde(default, deserialize_with = "parse_leniently")]
    status: Option<String>,
    result: Option<Box<RawValue>>,
    answer: Option<Box<RawValue>>,
    failure: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "parse_leniently")]
    error: Option<String>,
    #[serde(default, deserialize_with = "parse_leniently")]
    runner_id: Option<String>,
    correlation_id: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "parse_leniently")]
    began_at: Option<f64>,
    #[serde(default, deserialize_with = "parse_leniently")]
    trace_id: Option<String>,
    /// What was replaced in the text so that it could be read.
    #[serde(skip)]
    repaired: Option<String>,
    /// Why nothing of the text can be read.
    #[serde(skip)]
    unreadable: Option<String>,
}

/// Facts about a task's last attempt and about the origin of the task, as far as they are stored.
#[derive(Default)]
pub(crate) struct RunDetails {
    /// The process that runs or ran the last attempt.
    pub(crate) worker_process: Option<String>,
    /// When the last attempt began.
    pub(crate) began_at: Option<UnixMs>,
    /// The caller's own id for the task.
    pub(crate) correlation_id: Option<String>,
    /// The trace id of the captured request.
    pub(crate) trace_id: Option<String>,
    /// The failed attempts, a line each.
    pub(crate) failed_runs: Option<String>,
}

/// The summary at the very end of a result of ours.
#[derive(Serialize, Deserialize)]
pub(crate) struct ResultSummary {
    /// The topic.
    pub(crate) topic: String,
    /// How the task ended.
    pub(crate) status: String,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// When the task was created, ms since 1970.
    pub(crate) created: u64,
}

impl EndedTask<'_> {
    /// The value of `omni:result:<id>`.
    pub(crate) fn encode_result(&self) -> Result<String, StoreError> {
        let (lease, task) = (self.lease, &self.lease.task);
        let status = self.outcome.final_status().as_str();
        to_json(&WrittenResult {
            task_id: task.id.as_str(),
            state: status,
            entry: &self.handle.entry_id,
            attempt: lease.attempt,
            turn: self.handle.lease_number,
            owner: task.owner.as_ref().map(TaskOwner::digest),
            result: self.build_body(),
            saved_at: to_unix_seconds(self.ended_at),
            summary: ResultSummary {
                topic: task.topic.as_str().to_owned(),
                status: status.to_owned(),
                attempts: lease.attempt,
                created: task.created.0,
            },
        })
    }

    fn build_body(&self) -> WrittenResultBody<'_> {
        let task = &self.lease.task;
        let mut body = WrittenResultBody {
            message: build_written_entry(task, self.extras),
            agent: &self.lease.queue.agent,
            runner_id: self.runner,
            status: self.outcome.final_status().as_str(),
            result: None,
            timestamp: to_unix_seconds(self.ended_at),
            error: None,
            answer: None,
            failure: None,
            began_at: self.began_at.map(to_unix_seconds),
            trace_id: run_history::find_trace_id(task),
        };
        match self.outcome {
            EntryOutcome::Completed(answer) => {
                let (stored, result) = StoredAnswer::encode_answer(answer);
                (body.answer, body.result) = (Some(stored), Some(result));
            }
            EntryOutcome::Failed(failure) | EntryOutcome::AlreadyDeadLettered(failure) => {
                body.error = Some(failure.message.as_str());
                body.failure = Some(StoredFailure::from_failure(failure));
            }
        }
        body
    }
}

impl ParsedResult {
    /// Reads a stored result. Text that is not JSON, which only another program writes, is read as
    /// far as it can be, or as a failure that says so.
    pub(crate) fn parse(json: &[u8]) -> Self {
        if let Ok(parsed) = serde_json::from_slice(json) {
            return parsed;
        }
        let (text, repaired) = repair_foreign_json(json);
        let mut parsed: Self = serde_json::from_str(&text).unwrap_or_else(|error| {
            let unreadable = Some(format!("the saved result cannot be read: {error}"));
            Self {
                result: ParsedResultBody { unreadable, ..ParsedResultBody::default() },
                ..Self::default()
            }
        });
        parsed.result.repaired = repaired;
        parsed
    }

    /// What another program wrote here that could not be read as it is; none in most results.
    pub(crate) fn describe_defect(&self) -> Option<&str> {
        self.result.unreadable.as_deref().or(self.result.repaired.as_deref())
    }

    /// When the result was saved.
    pub(crate) fn saved_time(&self) -> Option<UnixMs> {
        self.saved_at.map(from_unix_seconds)
    }

    /// The facts in the result beside the end of the task.
    pub(crate) fn run_details(&self) -> RunDetails {
        let body = &self.result;
        let text =
            |json: &RawValue| parse_json_string(json).unwrap_or_else(|| json.get().to_owned());
        RunDetails {
            worker_process: body.runner_id.clone().filter(|runner| runner != NO_RUNNER),
            began_at: body.began_at.map(from_unix_seconds),
            correlation_id: body.correlation_id.as_deref().map(text),
            trace_id: body.trace_id.clone(),
            failed_runs: self.history.clone(),
        }
    }
}

impl RunDetails {
    /// The facts in a message.
    pub(crate) fn from_message(message: EntryMessage) -> Self {
        let trace_id = message
            .request
            .as_ref()
            .and_then(|request| run_history::parse_trace_id(request.find_header("traceparent")?));
        Self { correlation_id: message.correlation_id, trace_id, ..Self::default() }
    }
}

impl ParsedResultBody {
    /// When the task was published.
    pub(crate) fn created_time(&self) -> Option<UnixMs> {
        self.created_at.map(from_unix_seconds)
    }

    /// Whether `agent` wrote the result: each group of a topic writes its own, all to the one key
    /// of the task.
    pub(crate) fn belongs_to_agent(&self, agent: &str) -> bool {
        self.agent.as_deref().is_none_or(|author| author == agent)
    }

    /// Whether the task failed; external consumers write no results of failed tasks. A result that
    /// cannot be read at all is a failure too.
    pub(crate) fn is_failed(&self) -> bool {
        self.status.as_deref() == Some("failed") || self.unreadable.is_some()
    }

    /// The answer of a completed task, and a note where it is not as it was written.
    pub(crate) fn into_answer(self) -> (TaskAnswer, Option<String>) {
        let result = self.result.as_deref();
        if let Some(stored) = &self.answer {
            let (answer, note) = recover_answer(parse_stored(stored), result);
            return (answer, note.or(self.repaired));
        }
        let json = result.map_or("null", RawValue::get);
        let note = self.repaired.map(|repaired| format!("the result is changed: {repaired}"));
        (TaskAnswer::from_json(json.to_owned()), note)
    }

    /// The failure of a failed task.
    pub(crate) fn into_failure(self) -> TaskFailure {
        match (self.failure, self.unreadable) {
            (Some(stored), _) => recover_failure(parse_stored(&stored)),
            (None, Some(why)) => TaskFailure::new(FailureKind::UnusableResult, why),
            (None, None) => {
                TaskFailure::new(FailureKind::HandlerError, self.error.unwrap_or_default())
            }
        }
    }
}

fn parse_stored<T: DeserializeOwned>(json: &RawValue) -> Result<T, StoreError> {
    serde_json::from_str(json.get()).map_err(|error| StoreError::Malformed(error.to_string()))
}

/// The summary in the last bytes of a result of ours; none in another one.
pub(crate) fn parse_result_summary(tail: &str) -> Option<ResultSummary> {
    let (_, rest) = tail.rsplit_once(",\"summary\":")?;
    serde_json::from_str(rest.strip_suffix('}')?).ok()
}
