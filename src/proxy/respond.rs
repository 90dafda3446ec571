//! Every status that the proxy itself chooses, and nothing else chooses one.
//!
//! Errors are problem documents (RFC 9457). What a client reads says what it can do; what an
//! operator needs besides (addresses, causes) goes to the log.

use std::fmt::Write as _;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{RequestBodyError, ResponseBody};
use super::pool::UpstreamError;
use crate::route::{BodyError, PathError, TaskRequestError, WaitParamError};
use crate::store::{StoreError, StoreRefusal};
use crate::task::{
    FailureKind, TaskAnswer, TaskFailure, TaskId, TaskProgress, TaskRecord, TaskStatus, UnixMs,
};

/// What a request can run into, as a client sees it.
#[derive(Debug)]
pub(super) enum ProxyProblem {
    BadRequest(&'static str),
    BadPath(PathError),
    ConnectNotServed,
    UnsupportedTransferCoding,
    UriTooLong,
    LoopDetected,
    MethodNotAllowed(&'static str),
    NotJson,
    BodyTooLarge { limit: usize },
    OverBodyBudget,
    InvalidBody(BodyError),
    InvalidTask(TaskRequestError),
    NoSuchTask,
    BadWait(WaitParamError),
    BadProgress,
    AttemptEnded,
    TooManyWatchers,
    TaskAlreadyEnded(TaskStatus),
    Store(StoreError),
    Upstream(UpstreamError),
    RequestBody(RequestBodyError),
    TaskFailed(Box<TaskFailure>),
    TaskCancelled,
    RouteGone { route: String, successor: Option<String> },
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    AnswerNotStored,
}

// === impl Problem ===

impl ProxyProblem {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Upstream(UpstreamError::RequestBody(fault)) | Self::RequestBody(fault) => {
                match fault {
                    RequestBodyError::Stalled => StatusCode::REQUEST_TIMEOUT,
                    RequestBodyError::Broken | RequestBodyError::Abandoned => {
                        StatusCode::BAD_REQUEST
                    }
                }
            }
            Self::BadRequest(_) | Self::BadPath(_) | Self::BadWait(_) | Self::BadProgress => {
                StatusCode::BAD_REQUEST
            }
            Self::UnsupportedTransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::ConnectNotServed | Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::LoopDetected => StatusCode::LOOP_DETECTED,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InvalidBody(BodyError::WrongType { .. }) | Self::InvalidTask(_) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::InvalidBody(_) => StatusCode::BAD_REQUEST,
            Self::NoSuchTask => StatusCode::NOT_FOUND,
            Self::TaskAlreadyEnded(_) | Self::TaskCancelled | Self::AttemptEnded => {
                StatusCode::CONFLICT
            }
            Self::Store(StoreError::Refused(StoreRefusal::BacklogFull { .. })) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Store(_) | Self::OverBodyBudget | Self::TooManyWatchers => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Upstream(
                UpstreamError::ConnectTimeout { .. } | UpstreamError::FirstByteTimeout { .. },
            ) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::TaskFailed(failure) if failure.kind == FailureKind::Deadline => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::TaskFailed(_) => StatusCode::BAD_GATEWAY,
            Self::RouteGone { .. } => StatusCode::GONE,
            Self::IdempotencyKeyInUse | Self::AnswerNotStored => StatusCode::CONFLICT,
            Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// The last part of the problem's type: stable, for programs.
    fn problem_code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad-request",
            Self::BadPath(_) => "bad-path",
            Self::ConnectNotServed | Self::MethodNotAllowed(_) => "method-not-allowed",
            Self::UnsupportedTransferCoding => "transfer-coding-not-supported",
            Self::UriTooLong => "uri-too-long",
            Self::LoopDetected => "loop-detected",
            Self::NotJson => "not-json",
            Self::BodyTooLarge { .. } => "body-too-large",
            Self::OverBodyBudget => "busy",
            Self::InvalidBody(_) => "bad-body",
            Self::InvalidTask(TaskRequestError::Webhook(_)) => "webhook-refused",
            Self::InvalidTask(_) => "unknown-topic",
            Self::NoSuchTask => "no-such-task",
            Self::BadWait(_) => "bad-wait",
            Self::BadProgress => "bad-progress",
            Self::AttemptEnded => "attempt-over",
            Self::TooManyWatchers => "too-many-watchers",
            Self::TaskAlreadyEnded(_) => "task-already-ended",
            Self::TaskCancelled => "task-cancelled",
            Self::Store(StoreError::Refused(StoreRefusal::BacklogFull { .. })) => "backlog-full",
            Self::Store(StoreError::Refused(_)) => "store-refused",
            Self::Store(_) => "store-unavailable",
            Self::Upstream(UpstreamError::RequestBody(_)) | Self::RequestBody(_) => {
                "request-broke-off"
            }
            Self::Upstream(UpstreamError::MalformedResponse { .. }) => "upstream-answer-malformed",
            Self::Upstream(UpstreamError::ConnectFailed { .. }) => "upstream-unreachable",
            Self::Upstream(UpstreamError::ConnectTimeout { .. }) => "upstream-connect-timeout",
            Self::Upstream(UpstreamError::FirstByteTimeout { .. }) => "upstream-timeout",
            Self::Upstream(UpstreamError::ConnectionBroken { .. }) => "upstream-broke-off",
            Self::TaskFailed(failure) => match failure.kind {
                FailureKind::Deadline => "task-deadline",
                FailureKind::Unreachable => "upstream-unreachable",
                FailureKind::BrokenExchange => "upstream-broke-off",
                _ => "task-failed",
            },
            Self::RouteGone { .. } => "gone",
            Self::IdempotencyKeyInUse => "idempotency-key-in-use",
            Self::IdempotencyKeyReused => "idempotency-key-reused",
            Self::AnswerNotStored => "idempotent-answer-not-kept",
        }
    }

    fn client_detail(&self) -> String {
        match self {
            Self::BadRequest(what) => (*what).to_owned(),
            Self::BadPath(why) => why.to_string(),
            Self::ConnectNotServed => "CONNECT is not served here".to_owned(),
            Self::UnsupportedTransferCoding => "the only transfer coding served is chunked".to_owned(),
            Self::UriTooLong => "the path and query are too long".to_owned(),
            Self::LoopDetected => {
                "this request has already passed through this proxy: its upstream leads back to it".to_owned()
            }
            Self::MethodNotAllowed(allowed) => format!("use one of: {allowed}"),
            Self::NotJson => "send the task as application/json".to_owned(),
            Self::BodyTooLarge { limit } => format!("the body is over {limit} bytes (proxy.max_body)"),
            Self::OverBodyBudget => "too many large bodies are being read at the moment: try again".to_owned(),
            Self::InvalidBody(why) => why.to_string(),
            Self::InvalidTask(why) => why.to_string(),
            Self::NoSuchTask => "no such task, or it has expired".to_owned(),
            Self::BadWait(why) => why.to_string(),
            Self::BadProgress => {
                "send {\"progress\": a number from 0 to 1, \"note\": a short text or nothing}, and nothing else"
                    .to_owned()
            }
            Self::AttemptEnded => "this attempt has ended, or its task was taken over or cancelled".to_owned(),
            Self::TooManyWatchers => "too many tasks are being watched here: poll, or try again".to_owned(),
            Self::TaskAlreadyEnded(status) => format!("the task has already ended as {}", status.as_str()),
            Self::TaskCancelled => "the task was cancelled".to_owned(),
            Self::Store(StoreError::Refused(StoreRefusal::BacklogFull { .. })) => {
                "too many tasks are waiting: try later".to_owned()
            }
            Self::Store(StoreError::Refused(_)) => "the store takes no tasks at the moment: try again".to_owned(),
            Self::Store(_) => "tasks cannot be stored or read at the moment: try again".to_owned(),
            Self::Upstream(UpstreamError::RequestBody(fault)) | Self::RequestBody(fault) => fault.to_string(),
            Self::Upstream(UpstreamError::MalformedResponse { .. }) => {
                "the upstream's answer cannot be passed on".to_owned()
            }
            Self::Upstream(UpstreamError::ConnectFailed { .. }) => "the upstream cannot be connected to".to_owned(),
            Self::Upstream(UpstreamError::ConnectTimeout { .. }) => "connecting to the upstream timed out".to_owned(),
            Self::Upstream(UpstreamError::FirstByteTimeout { .. }) => "the upstream did not answer in time".to_owned(),
            Self::Upstream(UpstreamError::ConnectionBroken { .. }) => {
                "the upstream broke off before it answered".to_owned()
            }
            Self::TaskFailed(failure) => explain_failure(failure),
            Self::RouteGone { route, successor } => {
                let then = successor.as_ref().map_or(String::new(), |to| format!(": call {to} instead"));
                format!("{route} is no longer served{then}")
            }
            Self::IdempotencyKeyInUse => {
                "a request with this Idempotency-Key is still being served: try later".to_owned()
            }
            Self::IdempotencyKeyReused => {
                "this Idempotency-Key was used with another request: use a new key for a new request".to_owned()
            }
            Self::AnswerNotStored => {
                "a request with this Idempotency-Key was served, and its answer was too large to be kept".to_owned()
            }
        }
    }

    /// The problem as an answer.
    pub(super) fn into_response(self) -> Response<ResponseBody> {
        match &self {
            // The client's own fault is nobody's to look into.
            Self::Upstream(UpstreamError::RequestBody(_)) => {}
            Self::Upstream(error) => {
                tracing::warn!(%error, code = self.problem_code(), "no answer from the upstream");
            }
            Self::Store(
                error @ StoreError::Refused(
                    StoreRefusal::StorageFull(_) | StoreRefusal::ReadOnly(_),
                ),
            ) => {
                tracing::warn!(%error, code = self.problem_code(), "the store refused a task");
            }
            // An outage is the circuit's to report, and a backlog shows in the metrics: neither
            // once per request.
            Self::Store(error) => {
                tracing::debug!(%error, code = self.problem_code(), "no task stored or read");
            }
            _ => {}
        }
        let status = self.status_code();
        let document = json!({
            "type": format!("urn:omnidaemon:problem:{}", self.problem_code()),
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": self.client_detail(),
        });
        let mut response = respond_json(status, &document);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Self::MethodNotAllowed(allowed) = &self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        let later =
            matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if later || matches!(self, Self::IdempotencyKeyInUse) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// 202: the task is durable, and where to ask for it.
pub(super) fn respond_accepted(id: &TaskId, task_path: &str) -> Response<ResponseBody> {
    let poll_url = format!("{task_path}/{id}");
    let document = json!({"task_id": id.as_str(), "status": TaskStatus::Queued.as_str(), "poll_url": poll_url});
    let mut response = respond_json(StatusCode::ACCEPTED, &document);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::from_str(&poll_url) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// Why a task failed, as a client may know it: a handler's own words and the configuration's keys,
/// but no address and no error of the system. The whole message is in the admin API and the log.
fn explain_failure(failure: &TaskFailure) -> String {
    match failure.kind {
        FailureKind::Deadline
        | FailureKind::UnusableResult
        | FailureKind::HandlerError
        | FailureKind::LostFromQueue => failure.message.clone(),
        FailureKind::Unreachable => "the task's handler cannot be reached".to_owned(),
        FailureKind::BrokenExchange => {
            "the task's handler broke off before it had answered".to_owned()
        }
        FailureKind::FailedStatus => match failure.answer.as_ref().and_then(|answer| answer.status)
        {
            Some(status) => format!("the task's handler answered {status}"),
            None => "the task's handler answered with an error".to_owned(),
        },
        FailureKind::WorkerCrash => "the workers that ran the task died".to_owned(),
        FailureKind::Malformed => "the task cannot be run as it was queued".to_owned(),
    }
}

/// The end of a canaried request's task, as the legacy endpoint would have given it: a failure's
/// answer goes out only where it is that endpoint's own.
pub(super) fn respond_with_outcome(record: &TaskRecord) -> Response<ResponseBody> {
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

/// An answer as it was given.
pub(super) fn respond_with_answer(answer: &TaskAnswer) -> Response<ResponseBody> {
    if !answer.verbatim {
        let mut response =
            Response::new(ResponseBody::from_bytes(crate::store::body_as_json(&answer.body)));
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

/// What is said of progress.
pub(super) fn render_progress(progress: &TaskProgress) -> Value {
    let mut document = json!({"fraction": progress.fraction()});
    if let Some(note) = progress.note() {
        document["note"] = note.into();
    }
    document
}

/// The document of `GET /task/<id>`.
pub(super) fn render_task_document(record: &TaskRecord) -> String {
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
    if let Some(said) = &record.progress {
        document["progress"] = render_progress(said);
    }
    let mut text = document.to_string();
    if let Some(answer) = record.answer.as_ref().filter(|_| record.status == TaskStatus::Completed)
    {
        text.pop(); // the closing brace: the result goes in as it is, unread
        if let Some(status) = answer.status {
            let _ = write!(text, ",\"http_status\":{}", status.as_u16()); // a String takes everything
        }
        text.push_str(",\"result\":");
        text.push_str(&String::from_utf8_lossy(&crate::store::body_as_json(&answer.body)));
        text.push('}');
    }
    text
}

/// `GET /task/<id>`
pub(super) fn respond_with_task(record: &TaskRecord) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(render_task_document(record)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !record.status.is_final() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// `DELETE /task/<id>`, done.
pub(super) fn respond_cancelled(id: &TaskId) -> Response<ResponseBody> {
    let document = json!({"task_id": id.as_str(), "status": TaskStatus::Cancelled.as_str()});
    let mut response = respond_json(StatusCode::OK, &document);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A report of progress, taken.
pub(super) fn respond_no_content() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A task's events.
pub(super) fn respond_with_events(body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would keep them until it has a buffer full
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// There are no more events: a browser does not come again.
pub(super) fn respond_no_more_events() -> Response<ResponseBody> {
    let mut response = respond_no_content();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A redirect to a configured place: 307, or 308 when it is permanent.
pub(super) fn respond_redirect(location: &HeaderValue, permanent: bool) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(""));
    *response.status_mut() =
        if permanent { StatusCode::PERMANENT_REDIRECT } else { StatusCode::TEMPORARY_REDIRECT };
    response.headers_mut().insert(header::LOCATION, location.clone());
    response
}

/// The metrics page.
pub(super) fn respond_with_metrics(text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The answer to a browser's preflight on an own path.
pub(super) fn respond_preflight() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from_bytes(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_a_handlers_own_words_and_no_address() {
        let text =
            "upstream http://10.0.0.7:9000: Connection refused (os error 111), topics.t.timeout";
        for (kind, code, own_words) in [
            (FailureKind::Deadline, "task-deadline", true),
            (FailureKind::HandlerError, "task-failed", true),
            (FailureKind::UnusableResult, "task-failed", true),
            (FailureKind::Unreachable, "upstream-unreachable", false),
            (FailureKind::BrokenExchange, "upstream-broke-off", false),
            (FailureKind::FailedStatus, "task-failed", false),
            (FailureKind::WorkerCrash, "task-failed", false),
            (FailureKind::Malformed, "task-failed", false),
            (FailureKind::LostFromQueue, "task-failed", true),
        ] {
            let problem = ProxyProblem::TaskFailed(Box::new(TaskFailure::new(kind, text)));
            assert_eq!(
                (problem.problem_code(), problem.client_detail() == text),
                (code, own_words),
                "{kind:?}"
            );
            assert!(
                own_words || !problem.client_detail().contains("10.0.0.7"),
                "{kind:?}: {}",
                problem.client_detail()
            );
        }
    }

    #[test]
    fn a_refusals_reason_is_for_operators() {
        let refused = |refusal| ProxyProblem::Store(StoreError::Refused(refusal)).client_detail();
        for refusal in [
            StoreRefusal::StorageFull("OOM on 10.0.0.7".into()),
            StoreRefusal::ReadOnly("replica of 10.0.0.7".into()),
        ] {
            assert_eq!(refused(refusal), "the store takes no tasks at the moment: try again");
        }
        let topic = crate::task::Topic::parse("inner").expect("a topic");
        assert_eq!(
            refused(StoreRefusal::BacklogFull { topic, depth: 9, max: 9 }),
            "too many tasks are waiting: try later"
        );
    }
}
