//! `tasks`: publish one or many, list, show and cancel.

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::admin::problem::{ApiProblem, ApiResult, parse_task_id};
use crate::admin::services::AdminServices;
use crate::admin::views::{
    AcceptedDocument, BulkDocument, BulkItemDocument, CancelledDocument, TaskDetailsDocument,
    TaskPageDocument,
};
use crate::config::Config;
use crate::operations::{
    PublishedTask, cancel_task, list_tasks, load_task, parse_task_status, publish_bulk,
    publish_task,
};
use crate::store::TaskListRequest;
use crate::task::Topic;

/// Tasks of one bulk at most.
const MAX_BULK_TASKS: usize = 10_000;
/// Tasks of a page, by default and at most.
const DEFAULT_TASK_PAGE: usize = 100;
const MAX_TASK_PAGE: usize = 1000;

/// The body of a bulk, `{"tasks": [envelope, …]}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkPublishBody<'a> {
    #[serde(borrow)]
    tasks: Vec<&'a RawValue>,
}

/// The query of `GET tasks`; an empty text is as good as none.
#[derive(Deserialize)]
pub(crate) struct TaskListParams {
    topic: Option<String>,
    status: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

/// `POST tasks`: an envelope, `{"topic", "payload", …}`, or many as `{"tasks": [envelope, …]}`.
pub(crate) async fn post_tasks(
    State(services): State<AdminServices>,
    request: Request,
) -> Result<Response, ApiProblem> {
    let config = services.config();
    // Read here rather than by an extractor of axum: its limit is 2 MB, and its refusal is no
    // problem document.
    let too_large =
        |_| ApiProblem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is over proxy.max_body");
    let body =
        to_bytes(request.into_body(), config.proxy.max_body_bytes).await.map_err(too_large)?;
    if let Some(envelopes) = parse_bulk(&body) {
        return post_bulk(&services, &config, envelopes).await;
    }
    let published = publish_task(services.store_access(), &config, body).await?;
    let document = accept_published(&services, &config, &published);
    Ok((StatusCode::ACCEPTED, Json(document)).into_response())
}

/// The envelopes of a bulk; none when the body is not a bulk.
fn parse_bulk(body: &Bytes) -> Option<Vec<Bytes>> {
    let bulk: BulkPublishBody<'_> = serde_json::from_slice(body).ok()?;
    Some(bulk.tasks.into_iter().map(|envelope| body.slice_ref(envelope.get().as_bytes())).collect())
}

/// Publishes a bulk: 202 when all tasks are queued, else 207.
async fn post_bulk(
    services: &AdminServices,
    config: &Config,
    envelopes: Vec<Bytes>,
) -> Result<Response, ApiProblem> {
    if envelopes.len() > MAX_BULK_TASKS {
        let detail =
            format!("at most {MAX_BULK_TASKS} tasks at once: send the rest in another request");
        return Err(ApiProblem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let items = publish_bulk(services.store_access(), config, envelopes)
        .map(|result| match result {
            Ok(published) => {
                BulkItemDocument::Accepted(accept_published(services, config, &published))
            }
            Err(error) => BulkItemDocument::refused(ApiProblem::from(error).detail),
        })
        .collect()
        .await;
    let document = BulkDocument::new(items);
    let status =
        if document.refused == 0 { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(document)).into_response())
}

/// Counts a published task, and renders it.
fn accept_published(
    services: &AdminServices,
    config: &Config,
    published: &PublishedTask,
) -> AcceptedDocument {
    services.metrics.count_task_received(published.topic.as_str());
    AcceptedDocument::new(&published.id, &config.proxy.task_path)
}

/// `GET tasks?topic=&status=&limit=&after=`
pub(crate) async fn get_tasks(
    State(services): State<AdminServices>,
    Query(params): Query<TaskListParams>,
) -> ApiResult<TaskPageDocument> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let topic = given(&params.topic).map(|name| Topic::parse(&name)).transpose();
    let status = given(&params.status).map(|word| parse_task_status(&word)).transpose();
    let request = TaskListRequest {
        topic: topic.map_err(|error| ApiProblem::unprocessable(error.to_string()))?,
        status: status.map_err(ApiProblem::unprocessable)?,
        limit: params.limit.unwrap_or(DEFAULT_TASK_PAGE).clamp(1, MAX_TASK_PAGE),
        after_cursor: given(&params.after),
    };
    let page = list_tasks(services.store_access(), &services.config(), &request).await;
    let page =
        page.map_err(|error| ApiProblem::from_page_error(error, request.after_cursor.as_deref()))?;
    Ok(Json(TaskPageDocument::from(&page)))
}

/// `GET tasks/{id}`
pub(crate) async fn get_task(
    State(services): State<AdminServices>,
    Path(id): Path<String>,
) -> ApiResult<TaskDetailsDocument> {
    let id = parse_task_id(&id)?;
    let task = load_task(services.store_access(), &id).await?;
    let task = task.ok_or_else(ApiProblem::no_such_task)?;
    Ok(Json(TaskDetailsDocument::from(&task)))
}

/// `POST tasks/{id}/cancel`
pub(crate) async fn post_cancel(
    State(services): State<AdminServices>,
    Path(id): Path<String>,
) -> ApiResult<CancelledDocument> {
    let id = parse_task_id(&id)?;
    cancel_task(services.store_access(), &id, services.config().results.ttl).await?;
    Ok(Json(CancelledDocument::new(&id)))
}
