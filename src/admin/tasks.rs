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

use super::Parts;
use super::api::{Problem, known_id, no_such_task, queue, task_view};
use crate::config::Config;
use crate::store::{DeliveryRecord, Listed, Listing, Page, Queue, StoreError};
use crate::task::{Life, Run, Status, Topic};

/// Tasks of a bulk that are on their way to the store at a time.
const AT_ONCE: usize = 64;
/// The most tasks in one bulk.
const MOST: usize = 10_000;
/// Tasks of a page, where nothing is said, and at most.
const PAGE: usize = 100;
const LONGEST_PAGE: usize = 1000;

/// `{"tasks": [envelope, …]}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bulk<'a> {
    #[serde(borrow)]
    tasks: Vec<&'a RawValue>,
}

/// The envelopes of a bulk; none where the body is something else.
pub(super) fn bulk_of(body: &Bytes) -> Option<Vec<Bytes>> {
    let bulk: Bulk<'_> = serde_json::from_slice(body).ok()?;
    Some(bulk.tasks.into_iter().map(|envelope| body.slice_ref(envelope.get().as_bytes())).collect())
}

/// `POST tasks` with `{"tasks": […]}`: each task's fate in their order. 202 when all are queued, else 207.
pub(super) async fn publish_all(
    parts: &Parts,
    config: &Arc<Config>,
    envelopes: Vec<Bytes>,
) -> Result<Response, Problem> {
    if envelopes.len() > MOST {
        let detail = format!("at most {MOST} tasks at once: send the rest in another request");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let each = envelopes.into_iter().map(|envelope| queue_one(parts.clone(), Arc::clone(config), envelope));
    let fates: Vec<Result<Value, String>> = stream::iter(each).buffered(AT_ONCE).collect().await;
    let refused = fates.iter().filter(|fate| fate.is_err()).count();
    let queued = fates.len() - refused;
    let tasks: Vec<Value> = fates.into_iter().map(fate_view).collect();
    let status = if refused == 0 { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(json!({"queued": queued, "refused": refused, "tasks": tasks}))).into_response())
}

/// What became of one task of a bulk.
#[must_use]
pub fn fate_view(fate: Result<Value, String>) -> Value {
    fate.unwrap_or_else(|error| json!({"status": "refused", "error": error}))
}

async fn queue_one(parts: Parts, config: Arc<Config>, envelope: Bytes) -> Result<Value, String> {
    queue(&parts, &config, &envelope).await.map_err(|problem| problem.detail)
}

/// `GET tasks?topic=&status=&limit=&after=`
#[derive(Deserialize)]
pub(super) struct ListQuery {
    topic: Option<String>,
    status: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

pub(super) async fn list(State(parts): State<Parts>, Query(query): Query<ListQuery>) -> Result<Json<Value>, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let config = parts.snapshots.load().config.clone();
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let listing = Listing {
        topic: given(&query.topic)
            .map(|text| Topic::parse(&text))
            .transpose()
            .map_err(|error| bad(error.to_string()))?,
        status: given(&query.status).map(|word| status(&word)).transpose().map_err(bad)?,
        limit: query.limit.unwrap_or(PAGE).clamp(1, LONGEST_PAGE),
        after: given(&query.after),
    };
    let queues: Vec<Queue> = config.topics.iter().map(|(topic, config)| Queue::new(topic, config)).collect();
    match parts.circuit.call(parts.circuit.store().list(&queues, &listing)).await {
        Err(StoreError::Malformed(detail)) if listing.after.is_some() => Err(bad(detail)),
        page => Ok(Json(page_view(&page?))),
    }
}

/// A state by its word.
pub fn status(word: &str) -> Result<Status, String> {
    let all = [Status::Queued, Status::Processing, Status::Completed, Status::Failed, Status::Cancelled];
    let words = all.map(Status::as_str).join(", ");
    all.into_iter().find(|status| status.as_str() == word).ok_or(format!("{word:?} is no status: use one of {words}"))
}

/// A page as the API and the command line show it.
#[must_use]
pub fn page_view(page: &Page) -> Value {
    let task = |task: &Listed| {
        json!({
            "task_id": task.id.as_str(),
            "topic": task.topic.as_ref().map(Topic::as_str),
            "status": task.status.as_str(),
            "attempts": task.attempts,
            "created_ms": task.created.map(|at| at.0),
            "finished_ms": task.finished.map(|at| at.0),
        })
    };
    json!({
        "tasks": page.tasks.iter().map(task).collect::<Vec<_>>(),
        "next": page.next,
        "unlisted": page.unlisted.iter().map(|status| status.as_str()).collect::<Vec<_>>(),
    })
}

/// `GET tasks/{id}`
pub(super) async fn life(State(parts): State<Parts>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let id = known_id(&id)?;
    let life = parts.circuit.call(parts.circuit.store().life(&id)).await?.ok_or_else(no_such_task)?;
    let deliveries = parts.circuit.call(parts.circuit.store().deliveries(&id)).await?;
    Ok(Json(life_view(&life, &deliveries)))
}

/// A task and its life as the API and the command line show it.
#[must_use]
pub fn life_view(life: &Life, deliveries: &[DeliveryRecord]) -> Value {
    let mut document = task_view(&life.record);
    let progress =
        life.record.progress.as_ref().map(|progress| json!({"fraction": progress.fraction(), "note": progress.note()}));
    document["progress"] = progress.into();
    document["correlation_id"] = life.correlation_id.clone().into();
    document["trace_id"] = life.trace_id.clone().into();
    document["route"] = life.route.clone().into();
    document["next_attempt_ms"] = life.due.map(|at| at.0).into();
    let mut before = Some(life.record.created);
    let runs = life.runs.iter().map(|run| {
        let waited = run.began.zip(before).map(|(began, before)| began.since(before));
        before = run.ended;
        run_view(run, waited.and_then(|waited| u64::try_from(waited.as_millis()).ok()))
    });
    document["history"] = runs.collect();
    document["deliveries"] = deliveries.iter().map(delivery_view).collect();
    document
}

fn run_view(run: &Run, waited: Option<u64>) -> Value {
    json!({
        "attempt": run.number,
        "worker": run.worker,
        "waited_ms": waited,
        "began_ms": run.began.map(|at| at.0),
        "ended_ms": run.ended.map(|at| at.0),
        "kind": run.failure.as_ref().map(|(kind, _)| kind.as_str()),
        "error": run.failure.as_ref().map(|(_, message)| message),
    })
}

/// A target without what may be a secret: its query, and user info that a publisher of another make wrote.
fn shown(target: &str) -> String {
    let bare = target.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else { return bare.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// How somebody is told of a task's end.
fn delivery_view(delivery: &DeliveryRecord) -> Value {
    json!({
        "kind": delivery.kind.as_str(),
        "target": shown(&delivery.target),
        "event": delivery.event,
        "status": delivery.status.as_str(),
        "attempts": delivery.attempts,
        "error": delivery.error,
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
            assert_eq!(shown(target), expected);
        }
    }
}
