//! The responses that the proxy makes itself, other than problems: of tasks, redirects, metrics and
//! CORS preflights.
//!
//! A client sees a task's id, status and result here; the reasons of failures are shortened by
//! `task_failure`.

use std::fmt::Write as _;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::answer::task_failure::explain_failure;
use crate::task::{TaskAnswer, TaskFailure, TaskId, TaskProgress, TaskRecord, TaskStatus, UnixMs};

/// `x-omnidaemon-task`: the task of a legacy call that took the async path.
static TASK_ID_HEADER: HeaderName = HeaderName::from_static("x-omnidaemon-task");

/// 202 with the URL to poll: the task is durable, and `status` is its state.
pub(crate) fn respond_accepted(
    id: &TaskId,
    status: TaskStatus,
    task_path: &str,
) -> Response<ResponseBody> {
    let poll_url = format!("{task_path}/{id}");
    let document = json!({
        "task_id": id.as_str(),
        "status": status.as_str(),
        "poll_url": poll_url,
    });
    let mut response = respond_json(StatusCode::ACCEPTED, &document);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::from_str(&poll_url) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// 303 with the relative URL at which the legacy answer of a task is waited for, in request number
/// `hop`.
pub(crate) fn respond_see_response(
    id: &TaskId,
    task_path: &str,
    hop: u32,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(""));
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(url) = HeaderValue::from_str(&format!("{task_path}/{id}/response?hop={hop}")) {
        headers.insert(header::LOCATION, url);
    }
    response
}

/// Names the task of a legacy call in its response.
pub(crate) fn add_task_id(response: &mut Response<ResponseBody>, id: &TaskId) {
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(&TASK_ID_HEADER, id);
    }
}

/// The response for a canaried request whose task has ended: what the legacy endpoint would have
/// answered. The answer of a failed task is passed on only if it is the endpoint's own.
pub(crate) fn respond_with_outcome(record: &TaskRecord) -> Response<ResponseBody> {
    match (record.status, &record.answer, &record.failure) {
        (TaskStatus::Completed, Some(answer), _) => respond_with_answer(answer),
        (TaskStatus::Failed, _, Some(TaskFailure { answer: Some(answer), .. }))
            if answer.verbatim =>
        {
            respond_with_answer(answer)
        }
        (TaskStatus::Failed, _, Some(failure)) => {
            ProxyProblem::TaskFailed(Box::new(failure.clone())).into_response()
        }
        _ => ProxyProblem::TaskCancelled.into_response(),
    }
}

/// A stored answer: verbatim with its status and headers, else with its status and its body as
/// JSON.
pub(crate) fn respond_with_answer(answer: &TaskAnswer) -> Response<ResponseBody> {
    if !answer.verbatim {
        let mut response =
            Response::new(ResponseBody::from_bytes(crate::store::body_as_json(&answer.body)));
        *response.status_mut() = answer.status.unwrap_or(StatusCode::OK);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return response;
    }
    let mut response = Response::new(ResponseBody::from_bytes(answer.body.clone()));
    *response.status_mut() = answer.status.unwrap_or(StatusCode::OK);
    *response.headers_mut() = answer.headers.clone();
    response
}

/// The `progress` of a task, as JSON. `note` is left out if there is none.
pub(crate) fn render_progress(progress: &TaskProgress) -> Value {
    let mut document = json!({"fraction": progress.fraction()});
    if let Some(note) = progress.note() {
        document["note"] = note.into();
    }
    document
}

/// The document of `GET /task/<id>`. The result is inserted as stored, without parsing it.
pub(crate) fn render_task_document(record: &TaskRecord) -> String {
    let mut document = json!({
        "task_id": record.id.as_str(),
        "status": record.status.as_str(),
        "topic": record.topic.as_str(),
        "attempts": record.attempts,
    });
    if let Some(failure) = record.failure.as_ref().filter(|_| record.status == TaskStatus::Failed) {
        document["error"] = explain_failure(failure).into();
    }
    if let Some(due) =
        record.due.filter(|_| record.status == TaskStatus::Queued).and_then(UnixMs::to_rfc3339)
    {
        document["due_at"] = due.into();
    }
    if let Some(note) = &record.note {
        document["note"] = note.as_str().into();
    }
    if let Some(progress) = &record.progress {
        document["progress"] = render_progress(progress);
    }
    let mut text = document.to_string();
    if let Some(answer) = record.answer.as_ref().filter(|_| record.status == TaskStatus::Completed)
    {
        text.pop(); // the closing brace
        if let Some(status) = answer.status {
            // Writing to a String cannot fail.
            let _ = write!(text, ",\"http_status\":{}", status.as_u16());
        }
        text.push_str(",\"result\":");
        text.push_str(&String::from_utf8_lossy(&crate::store::body_as_json(&answer.body)));
        text.push('}');
    }
    text
}

/// 200 for `GET /task/<id>`; asks the client to poll again while the task has not ended.
pub(crate) fn respond_with_task(record: &TaskRecord) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(render_task_document(record)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !record.status.is_final() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// 200 for `DELETE /task/<id>`: the task is cancelled.
pub(crate) fn respond_cancelled(id: &TaskId) -> Response<ResponseBody> {
    let document = json!({"task_id": id.as_str(), "status": TaskStatus::Cancelled.as_str()});
    let mut response = respond_json(StatusCode::OK, &document);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 204, for an accepted progress report.
pub(crate) fn respond_no_content() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// 200 with a stream of a task's events.
pub(crate) fn respond_with_events(body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Without this, nginx holds events back until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// 204 for a client that has seen a task's last event: a browser does not reconnect.
pub(crate) fn respond_no_more_events() -> Response<ResponseBody> {
    let mut response = respond_no_content();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A redirect to a configured URL: 307, or 308 if it is permanent.
pub(crate) fn respond_redirect(location: &HeaderValue, permanent: bool) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(""));
    *response.status_mut() =
        if permanent { StatusCode::PERMANENT_REDIRECT } else { StatusCode::TEMPORARY_REDIRECT };
    response.headers_mut().insert(header::LOCATION, location.clone());
    response
}

/// The metrics page, in the text format of Prometheus.
pub(crate) fn respond_with_metrics(text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(text));
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// 204 for a browser's CORS preflight on a path of this proxy.
pub(crate) fn respond_preflight() -> Response<ResponseBody> {
    let mut response = respond_no_content();
    let fields: [(HeaderName, &str); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, idempotency-key, last-event-id, prefer, x-api-key",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn respond_json(status: StatusCode, document: &Value) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(document.to_string()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
