//! `/admin/v1`: parse, one call, render.

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Parts, health, rollouts, tasks};
use crate::config::{Config, HandlerConfig};
use crate::route::{order, parse_body};
use crate::snapshot::Snapshot;
use crate::store::{Advice, Cancelled, Depth, Heartbeat, Queue, Refusal, StoreError, json_of};
use crate::task::{Status, Task, TaskId, TaskRecord, UnixMs};

/// An error as a problem document.
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) detail: String,
}

// === impl Problem ===

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match error {
            StoreError::Refused(Refusal::Backlog { .. }) => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let document =
            json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        let kind = [(header::CONTENT_TYPE, "application/problem+json"), (header::CACHE_CONTROL, "no-store")];
        let later = matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let mut response = (self.status, kind, document.to_string()).into_response();
        if later {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(super) type Answer = Result<Json<Value>, Problem>;

/// `GET status`
pub(super) async fn status(State(parts): State<Parts>) -> Answer {
    let report = health::report(&parts).await;
    let snapshot = parts.snapshots.load();
    let (queues, depths) = depths(&parts, &snapshot).await;
    let beats = parts.circuit.call(parts.circuit.store().heartbeats()).await;
    let advice = parts.circuit.call(parts.circuit.store().advice()).await.unwrap_or_default();
    let (mut status, mut checks) = (if report.status == "ready" { "healthy" } else { report.status }, report.checks);
    if let Ok(beats) = &beats {
        let workers = workers_check(&snapshot.config, beats);
        checks["workers"] = workers.unwrap_or("ok").into();
        if workers.is_some() && status == "healthy" {
            status = "degraded";
        }
    }
    let (beats, started) = (beats.unwrap_or_default(), parts.started);
    Ok(Json(json!({
        "status": status,
        "checks": checks,
        "version": env!("CARGO_PKG_VERSION"),
        "store": snapshot.config.store.url.to_string(),
        "store_advice": advice.iter().map(advice_view).collect::<Vec<_>>(),
        "uptime_seconds": UnixMs::from(jiff::Timestamp::now()).since(started).as_secs(),
        "active_workers": beats.iter().map(|beat| beat.active).sum::<u32>(),
        "busy_workers": beats.iter().map(|beat| beat.busy).sum::<u32>(),
        "queue_depth": depths.iter().map(|depth| depth.queued).sum::<u64>(),
        "topics": queues.iter().zip(&depths).map(|(queue, depth)| topic_view(queue, depth)).collect::<Vec<_>>(),
        "rollouts": rollouts::briefs(&parts, &snapshot),
    })))
}

/// What is wrong with the workers: tasks are left lying where a topic needs one and none is live.
#[must_use]
pub fn workers_check(config: &Config, beats: &[Heartbeat]) -> Option<&'static str> {
    let needed = config.topics.values().any(|topic| topic.handler != HandlerConfig::External);
    (needed && beats.iter().all(|beat| beat.active == 0)).then_some("none is running")
}

/// Advice as the API and the command line show it.
#[must_use]
pub fn advice_view(advice: &Advice) -> Value {
    json!({"server": advice.server, "about": advice.about, "problem": advice.problem, "run": advice.run})
}

/// `GET topics`
pub(super) async fn topics(State(parts): State<Parts>) -> Json<Value> {
    let snapshot = parts.snapshots.load();
    let (queues, depths) = depths(&parts, &snapshot).await;
    Json(queues.iter().zip(&depths).map(|(queue, depth)| topic_view(queue, depth)).collect())
}

/// How a queue stands, as the API and the command line show it.
#[must_use]
pub fn topic_view(queue: &Queue, depth: &Depth) -> Value {
    json!({
        "topic": queue.topic.as_str(),
        "queued": depth.queued,
        "processing": depth.processing,
        "dead_letters": depth.dead,
        "oldest_seconds": depth.oldest.as_secs_f64(),
    })
}

/// All queues and how they stand; nothing known while the store is gone.
async fn depths(parts: &Parts, snapshot: &Snapshot) -> (Vec<Queue>, Vec<Depth>) {
    let queues: Vec<Queue> = snapshot.config.topics.iter().map(|(topic, config)| Queue::new(topic, config)).collect();
    let depths = parts.circuit.call(parts.circuit.store().depths(&queues)).await.unwrap_or_default();
    (queues, depths)
}

/// `GET workers`
pub(super) async fn workers(State(parts): State<Parts>) -> Answer {
    let beats = parts.circuit.call(parts.circuit.store().heartbeats()).await?;
    Ok(Json(beats.iter().map(worker_view).collect()))
}

/// A worker process as the API and the command line show it.
#[must_use]
pub fn worker_view(beat: &Heartbeat) -> Value {
    json!({"process": beat.process, "active": beat.active, "busy": beat.busy, "started_ms": beat.started.0})
}

/// `POST tasks`: `{"topic", "payload"}` and whatever else an envelope may have, or many of these as `{"tasks": […]}`
pub(super) async fn publish(State(parts): State<Parts>, request: Request) -> Result<Response, Problem> {
    let config = parts.snapshots.load().config.clone();
    // Read by our own limit: the framework's is 2 MB, and says so without a problem document.
    let too_large = |_| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is over proxy.max_body");
    let body = to_bytes(request.into_body(), config.proxy.max_body).await.map_err(too_large)?;
    if let Some(envelopes) = tasks::bulk_of(&body) {
        return tasks::publish_all(&parts, &config, envelopes).await;
    }
    Ok((StatusCode::ACCEPTED, Json(queue(&parts, &config, &body).await?)).into_response())
}

/// Queues the task of an envelope, and says so. One whose fate is unknown is cancelled: it was not said to be queued.
pub(super) async fn queue(parts: &Parts, config: &Config, envelope: &Bytes) -> Result<Value, Problem> {
    let bad = |detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let (task, queue) = prepare(config, envelope).map_err(bad)?;
    parts.circuit.enqueue(&task, &queue).await?;
    parts.metrics.task_received(task.topic.as_str());
    Ok(accepted(config, &task.id))
}

/// The task of an envelope, or what is wrong with it.
fn prepare(config: &Config, envelope: &Bytes) -> Result<(Task, Queue), String> {
    let parsed = parse_body(envelope).map_err(|error| error.to_string())?;
    let now = UnixMs::from(jiff::Timestamp::now());
    let ordered = order(parsed, None, config, TaskId::new(now, rand::random()), now);
    let (task, known) = ordered.map_err(|why| why.to_string())?;
    let queue = Queue::new(&task.topic, known);
    Ok((task, queue))
}

/// What is said of a queued task.
fn accepted(config: &Config, id: &TaskId) -> Value {
    json!({
        "task_id": id.as_str(),
        "status": Status::Queued.as_str(),
        "poll_url": format!("{}/{id}", config.proxy.task_path),
    })
}

/// A task as the API and the command line show it.
#[must_use]
pub fn task_view(record: &TaskRecord) -> Value {
    let result = record.answer.as_ref().and_then(|answer| serde_json::from_slice::<Value>(&json_of(&answer.body)).ok());
    json!({
        "task_id": record.id.as_str(),
        "topic": record.topic.as_str(),
        "status": record.status.as_str(),
        "attempts": record.attempts,
        "created_ms": record.created.0,
        "due_at": record.due.and_then(UnixMs::rfc3339),
        "finished_ms": record.finished.map(|at| at.0),
        "http_status": record.answer.as_ref().and_then(|answer| answer.status).map(|status| status.as_u16()),
        "result": result,
        "error": record.failure.as_ref().map(|failure| &failure.message),
    })
}

/// `POST tasks/{id}/cancel`
pub(super) async fn cancel(State(parts): State<Parts>, Path(id): Path<String>) -> Answer {
    let id = known_id(&id)?;
    let ttl = parts.snapshots.load().config.results.ttl;
    match parts.circuit.call(parts.circuit.store().cancel(&id, ttl)).await? {
        Cancelled::Done | Cancelled::Running => {
            Ok(Json(json!({"task_id": id.as_str(), "status": Status::Cancelled.as_str()})))
        }
        Cancelled::Ended(status) => {
            let detail = format!("the task has already ended as {}", status.as_str());
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        Cancelled::Unknown => Err(no_such_task()),
    }
}

pub(super) fn known_id(text: &str) -> Result<TaskId, Problem> {
    TaskId::parse(text).map_err(|_| no_such_task())
}

pub(super) fn no_such_task() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no such task, or it has expired")
}

/// Anything else.
pub(super) async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing here: try /readyz, /metrics or /admin/v1/status")
}
