//! `/admin/v1/tasks` beyond one at a time: many published at once, the list, and a task's life.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::AdminServices;
use super::api::{ApiProblem, enqueue_envelope, no_such_task_problem, parse_task_id, render_task};
use crate::config::Config;
use crate::store::{
    DeliveryRecord, StoreError, TaskListEntry, TaskListPage, TaskListRequest, TopicQueue,
};
use crate::task::{AttemptSummary, TaskDetails, TaskStatus, Topic};

/// Tasks of a bulk that are on their way to the store at a time.
const CONCURRENT_ENQUEUES: usize = 64;
/// The most tasks in one bulk.
const MAX_BULK_TASKS: usize = 10_000;
/// Tasks of a page, where nothing is said, and at most.
const DEFAULT_TASK_PAGE: usize = 100;
const MAX_TASK_PAGE: usize = 1000;

/// `{"tasks": [envelope, …]}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkPublishBody<'a> {
    #[serde(borrow)]
    tasks: Vec<&'a RawValue>,
}

/// The envelopes of a bulk; none where the body is something else.
pub(super) fn parse_bulk(body: &Bytes) -> Option<Vec<Bytes>> {
    let bulk: BulkPublishBody<'_> = serde_json::from_slice(body).ok()?;
    Some(bulk.tasks.into_iter().map(|envelope| body.slice_ref(envelope.get().as_bytes())).collect())
}

/// `POST tasks` with `{"tasks": […]}`: each task's fate in their order. 202 when all are queued,
/// else 207.
pub(super) async fn publish_bulk(
    parts: &AdminServices,
    config: &Arc<Config>,
    envelopes: Vec<Bytes>,
) -> Result<Response, ApiProblem> {
    if envelopes.len() > MAX_BULK_TASKS {
        let detail =
            format!("at most {MAX_BULK_TASKS} tasks at once: send the rest in another request");
        return Err(ApiProblem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let each = envelopes
        .into_iter()
        .map(|envelope| enqueue_bulk_item(parts.clone(), Arc::clone(config), envelope));
    let fates: Vec<Result<Value, String>> =
        stream::iter(each).buffered(CONCURRENT_ENQUEUES).collect().await;
    let refused = fates.iter().filter(|fate| fate.is_err()).count();
    let queued = fates.len() - refused;
    let tasks: Vec<Value> = fates.into_iter().map(render_bulk_item).collect();
    let status = if refused == 0 { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(json!({"queued": queued, "refused": refused, "tasks": tasks})))
        .into_response())
}

/// What became of one task of a bulk.
#[must_use]
pub fn render_bulk_item(fate: Result<Value, String>) -> Value {
    fate.unwrap_or_else(|error| json!({"status": "refused", "error": error}))
}

async fn enqueue_bulk_item(
    parts: AdminServices,
    config: Arc<Config>,
    envelope: Bytes,
) -> Result<Value, String> {
    enqueue_envelope(&parts, &config, &envelope).await.map_err(|problem| problem.detail)
}

/// `GET tasks?topic=&status=&limit=&after=`
#[derive(Deserialize)]
pub(super) struct TaskListParams {
    topic: Option<String>,
    status: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

pub(super) async fn get_tasks(
    State(parts): State<AdminServices>,
    Query(query): Query<TaskListParams>,
) -> Result<Json<Value>, ApiProblem> {
    let bad = |detail: String| ApiProblem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let config = parts.snapshots.load().config.clone();
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let listing = TaskListRequest {
        topic: given(&query.topic)
            .map(|text| Topic::parse(&text))
            .transpose()
            .map_err(|error| bad(error.to_string()))?,
        status: given(&query.status).map(|word| parse_status(&word)).transpose().map_err(bad)?,
        limit: query.limit.unwrap_or(DEFAULT_TASK_PAGE).clamp(1, MAX_TASK_PAGE),
        after_cursor: given(&query.after),
    };
    let queues: Vec<TopicQueue> =
        config.topics.iter().map(|(topic, config)| TopicQueue::new(topic, config)).collect();
    match parts.circuit.call(parts.circuit.store().list_tasks(&queues, &listing)).await {
        Err(StoreError::Malformed(detail)) if listing.after_cursor.is_some() => Err(bad(detail)),
        page => Ok(Json(render_task_page(&page?))),
    }
}

/// A state by its word.
pub fn parse_status(word: &str) -> Result<TaskStatus, String> {
    let all = [
        TaskStatus::Queued,
        TaskStatus::Processing,
        TaskStatus::Completed,
        TaskStatus::Failed,
        TaskStatus::Cancelled,
    ];
    let words = all.map(TaskStatus::as_str).join(", ");
    all.into_iter()
        .find(|status| status.as_str() == word)
        .ok_or(format!("{word:?} is no status: use one of {words}"))
}

/// A page as the API and the command line show it.
#[must_use]
pub fn render_task_page(page: &TaskListPage) -> Value {
    let task = |task: &TaskListEntry| {
        json!({
            "task_id": task.id.as_str(),
            "topic": task.topic.as_ref().map(Topic::as_str),
            "status": task.status.as_str(),
            "attempts": task.attempts,
            "created_ms": task.created_at.map(|at| at.0),
            "finished_ms": task.finished_at.map(|at| at.0),
        })
    };
    json!({
        "tasks": page.tasks.iter().map(task).collect::<Vec<_>>(),
        "next": page.next_cursor,
        "unlisted": page.unlistable_statuses.iter().map(|status| status.as_str()).collect::<Vec<_>>(),
    })
}

/// `GET tasks/{id}`
pub(super) async fn get_task(
    State(parts): State<AdminServices>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiProblem> {
    let id = parse_task_id(&id)?;
    let life = parts
        .circuit
        .call(parts.circuit.store().load_task_details(&id))
        .await?
        .ok_or_else(no_such_task_problem)?;
    let deliveries = parts.circuit.call(parts.circuit.store().list_deliveries(&id)).await?;
    Ok(Json(render_task_details(&life, &deliveries)))
}

/// A task and its life as the API and the command line show it.
#[must_use]
pub fn render_task_details(life: &TaskDetails, deliveries: &[DeliveryRecord]) -> Value {
    let mut document = render_task(&life.record);
    let progress = life
        .record
        .progress
        .as_ref()
        .map(|progress| json!({"fraction": progress.fraction(), "note": progress.note()}));
    document["progress"] = progress.into();
    document["correlation_id"] = life.correlation_id.clone().into();
    document["trace_id"] = life.trace_id.clone().into();
    document["route"] = life.route.clone().into();
    document["next_attempt_ms"] = life.next_attempt_at.map(|at| at.0).into();
    let mut before = Some(life.record.created);
    let runs = life.attempts.iter().map(|run| {
        let waited = run.started.zip(before).map(|(began, before)| began.since(before));
        before = run.ended;
        render_attempt(run, waited.and_then(|waited| u64::try_from(waited.as_millis()).ok()))
    });
    document["history"] = runs.collect();
    document["deliveries"] = deliveries.iter().map(render_delivery).collect();
    document
}

fn render_attempt(run: &AttemptSummary, waited: Option<u64>) -> Value {
    json!({
        "attempt": run.number,
        "worker": run.worker,
        "waited_ms": waited,
        "began_ms": run.started.map(|at| at.0),
        "ended_ms": run.ended.map(|at| at.0),
        "kind": run.failure.as_ref().map(|(kind, _)| kind.as_str()),
        "error": run.failure.as_ref().map(|(_, message)| message),
    })
}

/// A target without what may be a secret: its query, and user info that a publisher of another make
/// wrote.
fn mask_target(target: &str) -> String {
    let bare = target.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else { return bare.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// How somebody is told of a task's end.
fn render_delivery(delivery: &DeliveryRecord) -> Value {
    json!({
        "kind": delivery.kind.as_str(),
        "target": mask_target(&delivery.target),
        "event": delivery.event_id,
        "status": delivery.status.as_str(),
        "attempts": delivery.attempts,
        "error": delivery.last_error,
    })
}

#[cfg(test)]
mod tests {
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
}
