//! `/admin/v1`: parse, one call, render.

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{AdminServices, health, rollouts, tasks};
use crate::config::{Config, HandlerConfig};
use crate::route::{build_task, parse_body};
use crate::snapshot::Snapshot;
use crate::store::{
    CancelResult, QueueDepth, ServerAdvice, StoreError, StoreRefusal, TopicQueue, WorkerHeartbeat,
    body_as_json,
};
use crate::task::{Task, TaskId, TaskRecord, TaskStatus, UnixMs};

/// An error as a problem document.
pub(super) struct ApiProblem {
    pub(super) status: StatusCode,
    pub(super) detail: String,
}

// === impl Problem ===

impl ApiProblem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

impl From<StoreError> for ApiProblem {
    fn from(error: StoreError) -> Self {
        let status = match error {
            StoreError::Refused(StoreRefusal::BacklogFull { .. }) => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let document = json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        let kind = [
            (header::CONTENT_TYPE, "application/problem+json"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        let later =
            matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let mut response = (self.status, kind, document.to_string()).into_response();
        if later {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(super) type ApiResult = Result<Json<Value>, ApiProblem>;

/// `GET status`
pub(super) async fn get_status(State(parts): State<AdminServices>) -> ApiResult {
    let report = health::collect_health(&parts).await;
    let snapshot = parts.snapshots.load();
    let (queues, depths) = load_queue_depths(&parts, &snapshot).await;
    let beats = parts.circuit.call(parts.circuit.store().list_heartbeats()).await;
    let advice =
        parts.circuit.call(parts.circuit.store().check_server_settings()).await.unwrap_or_default();
    let (mut status, mut checks) =
        (if report.status == "ready" { "healthy" } else { report.status }, report.checks);
    if let Ok(beats) = &beats {
        let workers = check_workers(&snapshot.config, beats);
        checks["workers"] = workers.unwrap_or("ok").into();
        if workers.is_some() && status == "healthy" {
            status = "degraded";
        }
    }
    let (beats, started) = (beats.unwrap_or_default(), parts.started_at);
    Ok(Json(json!({
        "status": status,
        "checks": checks,
        "version": env!("CARGO_PKG_VERSION"),
        "store": snapshot.config.store.url.to_string(),
        "store_advice": advice.iter().map(render_advice).collect::<Vec<_>>(),
        "uptime_seconds": UnixMs::from(jiff::Timestamp::now()).since(started).as_secs(),
        "active_workers": beats.iter().map(|beat| beat.active_slots).sum::<u32>(),
        "busy_workers": beats.iter().map(|beat| beat.busy_slots).sum::<u32>(),
        "queue_depth": depths.iter().map(|depth| depth.queued).sum::<u64>(),
        "topics": queues.iter().zip(&depths).map(|(queue, depth)| render_topic(queue, depth)).collect::<Vec<_>>(),
        "rollouts": rollouts::render_rollout_summaries(&parts, &snapshot),
    })))
}

/// What is wrong with the workers: tasks are left lying where a topic needs one and none is live.
#[must_use]
pub fn check_workers(config: &Config, beats: &[WorkerHeartbeat]) -> Option<&'static str> {
    let needed = config.topics.values().any(|topic| topic.handler != HandlerConfig::External);
    (needed && beats.iter().all(|beat| beat.active_slots == 0)).then_some("none is running")
}

/// Advice as the API and the command line show it.
#[must_use]
pub fn render_advice(advice: &ServerAdvice) -> Value {
    json!({"server": advice.server, "about": advice.setting, "problem": advice.problem, "run": advice.commands})
}

/// `GET topics`
pub(super) async fn get_topics(State(parts): State<AdminServices>) -> Json<Value> {
    let snapshot = parts.snapshots.load();
    let (queues, depths) = load_queue_depths(&parts, &snapshot).await;
    Json(queues.iter().zip(&depths).map(|(queue, depth)| render_topic(queue, depth)).collect())
}

/// How a queue stands, as the API and the command line show it.
#[must_use]
pub fn render_topic(queue: &TopicQueue, depth: &QueueDepth) -> Value {
    json!({
        "topic": queue.topic.as_str(),
        "queued": depth.queued,
        "processing": depth.processing,
        "dead_letters": depth.dead_letters,
        "oldest_seconds": depth.oldest_age.as_secs_f64(),
    })
}

/// All queues and how they stand; nothing known while the store is gone.
async fn load_queue_depths(
    parts: &AdminServices,
    snapshot: &Snapshot,
) -> (Vec<TopicQueue>, Vec<QueueDepth>) {
    let queues: Vec<TopicQueue> = snapshot
        .config
        .topics
        .iter()
        .map(|(topic, config)| TopicQueue::new(topic, config))
        .collect();
    let depths = parts
        .circuit
        .call(parts.circuit.store().load_queue_depths(&queues))
        .await
        .unwrap_or_default();
    (queues, depths)
}

/// `GET workers`
pub(super) async fn get_workers(State(parts): State<AdminServices>) -> ApiResult {
    let beats = parts.circuit.call(parts.circuit.store().list_heartbeats()).await?;
    Ok(Json(beats.iter().map(render_worker).collect()))
}

/// A worker process as the API and the command line show it.
#[must_use]
pub fn render_worker(beat: &WorkerHeartbeat) -> Value {
    json!({"process": beat.process, "active": beat.active_slots, "busy": beat.busy_slots, "started_ms": beat.started_at.0})
}

/// `POST tasks`: `{"topic", "payload"}` and whatever else an envelope may have, or many of these as
/// `{"tasks": […]}`
pub(super) async fn post_tasks(
    State(parts): State<AdminServices>,
    request: Request,
) -> Result<Response, ApiProblem> {
    let config = parts.snapshots.load().config.clone();
    // Read by our own limit: the framework's is 2 MB, and says so without a problem document.
    let too_large =
        |_| ApiProblem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is over proxy.max_body");
    let body =
        to_bytes(request.into_body(), config.proxy.max_body_bytes).await.map_err(too_large)?;
    if let Some(envelopes) = tasks::parse_bulk(&body) {
        return tasks::publish_bulk(&parts, &config, envelopes).await;
    }
    Ok((StatusCode::ACCEPTED, Json(enqueue_envelope(&parts, &config, &body).await?))
        .into_response())
}

/// Queues the task of an envelope, and says so. One whose fate is unknown is cancelled: it was not
/// said to be queued.
pub(super) async fn enqueue_envelope(
    parts: &AdminServices,
    config: &Config,
    envelope: &Bytes,
) -> Result<Value, ApiProblem> {
    let bad = |detail| ApiProblem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let (task, queue) = prepare_task(config, envelope).map_err(bad)?;
    parts.circuit.enqueue(&task, &queue).await?;
    parts.metrics.count_task_received(task.topic.as_str());
    Ok(render_accepted(config, &task.id))
}

/// The task of an envelope, or what is wrong with it.
fn prepare_task(config: &Config, envelope: &Bytes) -> Result<(Task, TopicQueue), String> {
    let parsed = parse_body(envelope).map_err(|error| error.to_string())?;
    let now = UnixMs::from(jiff::Timestamp::now());
    let ordered = build_task(parsed, None, config, TaskId::new(now, rand::random()), now);
    let (task, known) = ordered.map_err(|why| why.to_string())?;
    let queue = TopicQueue::new(&task.topic, known);
    Ok((task, queue))
}

/// What is said of a queued task.
fn render_accepted(config: &Config, id: &TaskId) -> Value {
    json!({
        "task_id": id.as_str(),
        "status": TaskStatus::Queued.as_str(),
        "poll_url": format!("{}/{id}", config.proxy.task_path),
    })
}

/// A task as the API and the command line show it.
#[must_use]
pub fn render_task(record: &TaskRecord) -> Value {
    let result = record
        .answer
        .as_ref()
        .and_then(|answer| serde_json::from_slice::<Value>(&body_as_json(&answer.body)).ok());
    json!({
        "task_id": record.id.as_str(),
        "topic": record.topic.as_str(),
        "status": record.status.as_str(),
        "attempts": record.attempts,
        "created_ms": record.created.0,
        "due_at": record.due.and_then(UnixMs::to_rfc3339),
        "finished_ms": record.finished.map(|at| at.0),
        "http_status": record.answer.as_ref().and_then(|answer| answer.status).map(|status| status.as_u16()),
        "result": result,
        "error": record.failure.as_ref().map(|failure| &failure.message),
    })
}

/// `POST tasks/{id}/cancel`
pub(super) async fn post_cancel(
    State(parts): State<AdminServices>,
    Path(id): Path<String>,
) -> ApiResult {
    let id = parse_task_id(&id)?;
    let ttl = parts.snapshots.load().config.results.ttl;
    match parts.circuit.call(parts.circuit.store().cancel(&id, ttl)).await? {
        CancelResult::Cancelled | CancelResult::WasRunning => {
            Ok(Json(json!({"task_id": id.as_str(), "status": TaskStatus::Cancelled.as_str()})))
        }
        CancelResult::AlreadyEnded(status) => {
            let detail = format!("the task has already ended as {}", status.as_str());
            Err(ApiProblem::new(StatusCode::CONFLICT, detail))
        }
        CancelResult::NoSuchTask => Err(no_such_task_problem()),
    }
}

pub(super) fn parse_task_id(text: &str) -> Result<TaskId, ApiProblem> {
    TaskId::parse(text).map_err(|_| no_such_task_problem())
}

pub(super) fn no_such_task_problem() -> ApiProblem {
    ApiProblem::new(StatusCode::NOT_FOUND, "no such task, or it has expired")
}

/// Anything else.
pub(super) async fn respond_not_found() -> ApiProblem {
    ApiProblem::new(
        StatusCode::NOT_FOUND,
        "there is nothing here: try /readyz, /metrics or /admin/v1/status",
    )
}
