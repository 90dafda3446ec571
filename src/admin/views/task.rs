//! `tasks` of the API: one task, the list, and the results of publish and cancel.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::operations::TaskWithDeliveries;
use crate::store::{DeliveryRecord, TaskListEntry, TaskListPage, body_as_json};
use crate::task::{AttemptSummary, TaskId, TaskProgress, TaskRecord, TaskStatus, Topic, UnixMs};

/// A task and its result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskDocument {
    /// The id of the task.
    pub task_id: String,
    /// The topic of the task.
    pub topic: String,
    /// `queued`, `processing`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// The number of attempts that have begun.
    pub attempts: u32,
    /// When the task was accepted, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When the task may begin, in the format of RFC 3339; none for at once.
    pub due_at: Option<String>,
    /// When the task ended, in milliseconds since the Unix epoch.
    pub finished_ms: Option<u64>,
    /// The HTTP status of the handler's answer.
    pub http_status: Option<u16>,
    /// The body of the handler's answer.
    pub result: Option<Value>,
    /// The error of the last failed attempt.
    pub error: Option<String>,
    /// What is not given as it was written; left out where there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `GET tasks/{id}`: a task with its attempts and the notifications of its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskDetailsDocument {
    /// The task and its result.
    #[serde(flatten)]
    pub task: TaskDocument,
    /// The last progress that the running attempt reported.
    pub progress: Option<ProgressDocument>,
    /// The id that the publisher gave to the task.
    pub correlation_id: Option<String>,
    /// The id of the trace that the task belongs to.
    pub trace_id: Option<String>,
    /// The route of the canaried request that became this task.
    pub route: Option<String>,
    /// When the next attempt may begin, in milliseconds since the Unix epoch.
    pub next_attempt_ms: Option<u64>,
    /// The attempts, in their order.
    pub history: Vec<AttemptDocument>,
    /// The notifications of the task's end.
    pub deliveries: Vec<DeliveryDocument>,
}

/// Progress of a running attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDocument {
    /// The share of the work that is done, from 0 to 1.
    pub fraction: f64,
    /// A text that the handler sent with the progress.
    pub note: Option<String>,
}

/// One attempt of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttemptDocument {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The worker process that ran the attempt.
    pub worker: Option<String>,
    /// How long the task waited for this attempt, in milliseconds: since the task was accepted or
    /// the previous attempt ended.
    pub waited_ms: Option<u64>,
    /// When the attempt began, in milliseconds since the Unix epoch.
    pub began_ms: Option<u64>,
    /// When the attempt ended, in milliseconds since the Unix epoch; none while it runs.
    pub ended_ms: Option<u64>,
    /// The kind of the failure, if the attempt failed.
    pub kind: Option<String>,
    /// The error, if the attempt failed.
    pub error: Option<String>,
}

/// A notification of a task's end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeliveryDocument {
    /// `webhook` or `reply`.
    pub kind: String,
    /// The URL without its secrets, or the topic.
    pub target: String,
    /// The id of the event that is delivered.
    pub event: String,
    /// `pending`, `delivered` or `dropped`.
    pub status: String,
    /// The number of tries so far.
    pub attempts: u32,
    /// The error of the last try, if it failed.
    pub error: Option<String>,
}

/// `GET tasks`: a page of the list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskPageDocument {
    /// The tasks, newest first.
    pub tasks: Vec<TaskSummaryDocument>,
    /// The cursor of the next page, for the parameter `after`; none on the last page.
    pub next: Option<String>,
    /// Statuses whose tasks this store cannot list.
    pub unlisted: Vec<String>,
}

/// A task of the list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSummaryDocument {
    /// The id of the task.
    pub task_id: String,
    /// The topic of the task, if the store knows it.
    pub topic: Option<String>,
    /// As in [`TaskDocument::status`].
    pub status: String,
    /// The number of attempts that have begun, if the store knows it.
    pub attempts: Option<u32>,
    /// When the task was accepted, in milliseconds since the Unix epoch, if the store knows it.
    pub created_ms: Option<u64>,
    /// When the task ended, in milliseconds since the Unix epoch.
    pub finished_ms: Option<u64>,
}

/// A task that was published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcceptedDocument {
    /// The id of the task.
    pub task_id: String,
    /// `queued`.
    pub status: String,
    /// The path on the data port at which the publisher can read the task.
    #[serde(default)]
    pub poll_url: String,
}

/// A task that was cancelled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CancelledDocument {
    /// The id of the task.
    pub task_id: String,
    /// `cancelled`.
    pub status: String,
}

/// The result of publishing many tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BulkDocument {
    /// The number of tasks that were queued.
    pub queued: usize,
    /// The number of envelopes that were refused.
    pub refused: usize,
    /// The result of each envelope, in the order of the request.
    pub tasks: Vec<BulkItemDocument>,
}

/// The result of one envelope of a bulk publish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BulkItemDocument {
    /// The envelope was refused. The variant is first, so that a document with an `error` is read
    /// as a refusal.
    Refused(RefusedTaskDocument),
    /// The task was queued.
    Accepted(AcceptedDocument),
}

/// An envelope that was refused, so that it did not become a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefusedTaskDocument {
    /// `refused`.
    pub status: String,
    /// Why the envelope was refused.
    pub error: String,
}

impl From<&TaskRecord> for TaskDocument {
    fn from(record: &TaskRecord) -> Self {
        let answer = record.answer.as_ref();
        Self {
            task_id: record.id.to_string(),
            topic: record.topic.to_string(),
            status: record.status.as_str().to_owned(),
            attempts: record.attempts,
            created_ms: record.created.0,
            due_at: record.due.and_then(UnixMs::to_rfc3339),
            finished_ms: record.finished.map(|at| at.0),
            http_status: answer.and_then(|answer| answer.status).map(|status| status.as_u16()),
            result: answer
                .and_then(|answer| serde_json::from_slice(&body_as_json(&answer.body)).ok()),
            error: record.failure.as_ref().map(|failure| failure.message.clone()),
            note: record.note.clone(),
        }
    }
}

impl From<&TaskWithDeliveries> for TaskDetailsDocument {
    fn from(task: &TaskWithDeliveries) -> Self {
        let details = &task.details;
        let mut waiting_since = Some(details.record.created);
        let attempts = details.attempts.iter().map(|attempt| {
            let waited =
                attempt.started.zip(waiting_since).map(|(started, since)| started.since(since));
            waiting_since = attempt.ended;
            let waited = waited.and_then(|waited| u64::try_from(waited.as_millis()).ok());
            AttemptDocument { waited_ms: waited, ..AttemptDocument::from(attempt) }
        });
        Self {
            task: TaskDocument::from(&details.record),
            progress: details.record.progress.as_ref().map(ProgressDocument::from),
            correlation_id: details.correlation_id.clone(),
            trace_id: details.trace_id.clone(),
            route: details.route.clone(),
            next_attempt_ms: details.next_attempt_at.map(|at| at.0),
            history: attempts.collect(),
            deliveries: task.deliveries.iter().map(DeliveryDocument::from).collect(),
        }
    }
}

impl From<&TaskProgress> for ProgressDocument {
    fn from(progress: &TaskProgress) -> Self {
        Self { fraction: progress.fraction(), note: progress.note().map(str::to_owned) }
    }
}

impl From<&AttemptSummary> for AttemptDocument {
    fn from(attempt: &AttemptSummary) -> Self {
        let failure = attempt.failure.as_ref();
        Self {
            attempt: attempt.number,
            worker: attempt.worker.clone(),
            waited_ms: None,
            began_ms: attempt.started.map(|at| at.0),
            ended_ms: attempt.ended.map(|at| at.0),
            kind: failure.map(|(kind, _)| kind.as_str().to_owned()),
            error: failure.map(|(_, message)| message.clone()),
        }
    }
}

impl From<&DeliveryRecord> for DeliveryDocument {
    fn from(delivery: &DeliveryRecord) -> Self {
        Self {
            kind: delivery.kind.as_str().to_owned(),
            target: mask_target(&delivery.target),
            event: delivery.event_id.clone(),
            status: delivery.status.as_str().to_owned(),
            attempts: delivery.attempts,
            error: delivery.last_error.clone(),
        }
    }
}

impl From<&TaskListPage> for TaskPageDocument {
    fn from(page: &TaskListPage) -> Self {
        let unlisted = page.unlistable_statuses.iter();
        Self {
            tasks: page.tasks.iter().map(TaskSummaryDocument::from).collect(),
            next: page.next_cursor.clone(),
            unlisted: unlisted.map(|status| status.as_str().to_owned()).collect(),
        }
    }
}

impl From<&TaskListEntry> for TaskSummaryDocument {
    fn from(task: &TaskListEntry) -> Self {
        Self {
            task_id: task.id.to_string(),
            topic: task.topic.as_ref().map(Topic::to_string),
            status: task.status.as_str().to_owned(),
            attempts: task.attempts,
            created_ms: task.created_at.map(|at| at.0),
            finished_ms: task.finished_at.map(|at| at.0),
        }
    }
}

impl AcceptedDocument {
    /// The document of the queued task `id`, which can be read below `task_path` on the data port.
    #[must_use]
    pub fn new(id: &TaskId, task_path: &str) -> Self {
        Self {
            task_id: id.to_string(),
            status: TaskStatus::Queued.as_str().to_owned(),
            poll_url: format!("{task_path}/{id}"),
        }
    }
}

impl CancelledDocument {
    /// The document of the cancelled task `id`.
    #[must_use]
    pub fn new(id: &TaskId) -> Self {
        Self { task_id: id.to_string(), status: TaskStatus::Cancelled.as_str().to_owned() }
    }
}

impl BulkDocument {
    /// The document of the results of all envelopes.
    #[must_use]
    pub fn new(tasks: Vec<BulkItemDocument>) -> Self {
        let refused =
            tasks.iter().filter(|task| matches!(task, BulkItemDocument::Refused(_))).count();
        Self { queued: tasks.len() - refused, refused, tasks }
    }
}

impl BulkItemDocument {
    /// The result of an envelope that was refused with this error.
    #[must_use]
    pub fn refused(error: String) -> Self {
        Self::Refused(RefusedTaskDocument { status: "refused".to_owned(), error })
    }
}

/// A delivery's target without the parts that may contain a secret: the query, the fragment, and
/// the user info, which a publisher of another program may have written.
fn mask_target(target: &str) -> String {
    let bare = target.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else { return bare.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_is_shown_without_its_secrets() {
        for (target, expected) in [
            ("https://hooks.example.com/x?token=s#f", "https://hooks.example.com/x"),
            ("https://u:p@hooks.example.com", "https://hooks.example.com"),
            ("https://hooks.example.com/a@b", "https://hooks.example.com/a@b"),
            ("genesis.qa", "genesis.qa"),
        ] {
            assert_eq!(mask_target(target), expected);
        }
    }

    #[test]
    fn a_bulk_counts_its_results_and_is_read_back_as_it_was_written() {
        let id = TaskId::parse("t1").expect("an id");
        let accepted = BulkItemDocument::Accepted(AcceptedDocument::new(&id, "/task"));
        let bulk = BulkDocument::new(vec![accepted, BulkItemDocument::refused("full".into())]);
        let json = json!({"queued": 1, "refused": 1, "tasks": [
            {"task_id": "t1", "status": "queued", "poll_url": "/task/t1"},
            {"status": "refused", "error": "full"},
        ]});
        assert_eq!(serde_json::to_value(&bulk).expect("JSON").to_string(), json.to_string());
        assert_eq!(serde_json::from_value::<BulkDocument>(json).expect("a bulk"), bulk);
    }

    #[test]
    fn a_task_of_another_version_is_read_with_what_it_has() {
        let json = json!({"task_id": "t1", "status": "queued", "new_field": [1]});
        let details: TaskDetailsDocument = serde_json::from_value(json).expect("a task");
        assert_eq!((details.task.status.as_str(), details.history.len()), ("queued", 0));
        let nulls = serde_json::to_value(&details).expect("JSON");
        assert!(nulls["result"].is_null() && nulls.get("next_attempt_ms").is_some(), "{nulls}");
    }
}
