//! Every status that the proxy itself chooses, and nothing else chooses one.
//!
//! Errors are problem documents (RFC 9457). What a client reads says what it can do; what an operator
//! needs besides (addresses, causes) goes to the log.

use std::fmt::Write as _;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{Fault, Reply};
use super::pool::UpstreamError;
use crate::route::{BadBody, BadOrder, BadPath, BadWait};
use crate::store::{Refusal, StoreError};
use crate::task::{Answer, Failure, FailureKind, Progress, Status, TaskId, TaskRecord, UnixMs};

/// What a request can run into, as a client sees it.
#[derive(Debug)]
pub(super) enum Problem {
    BadRequest(&'static str),
    BadPath(BadPath),
    ConnectMethod,
    TransferCoding,
    UriTooLong,
    Loop,
    MethodNotAllowed(&'static str),
    NotJson,
    TooLarge { limit: usize },
    Busy,
    Body(BadBody),
    Order(BadOrder),
    NoSuchTask,
    BadWait(BadWait),
    BadProgress,
    AttemptOver,
    TooManyWatchers,
    AlreadyEnded(Status),
    Store(StoreError),
    Upstream(UpstreamError),
    Request(Fault),
    TaskFailed(Box<Failure>),
    TaskCancelled,
    Gone { route: String, successor: Option<String> },
    KeyInUse,
    KeyReused,
    AnswerNotKept,
}

// === impl Problem ===

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::Upstream(UpstreamError::Request(fault)) | Self::Request(fault) => match fault {
                Fault::Stalled => StatusCode::REQUEST_TIMEOUT,
                Fault::Broken | Fault::Abandoned => StatusCode::BAD_REQUEST,
            },
            Self::BadRequest(_) | Self::BadPath(_) | Self::BadWait(_) | Self::BadProgress => StatusCode::BAD_REQUEST,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::ConnectMethod | Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BadBody::WrongType { .. }) | Self::Order(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::NoSuchTask => StatusCode::NOT_FOUND,
            Self::AlreadyEnded(_) | Self::TaskCancelled | Self::AttemptOver => StatusCode::CONFLICT,
            Self::Store(StoreError::Refused(Refusal::Backlog { .. })) => StatusCode::TOO_MANY_REQUESTS,
            Self::Store(_) | Self::Busy | Self::TooManyWatchers => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(UpstreamError::ConnectTimeout { .. } | UpstreamError::FirstByte { .. }) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::TaskFailed(failure) if failure.kind == FailureKind::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::TaskFailed(_) => StatusCode::BAD_GATEWAY,
            Self::Gone { .. } => StatusCode::GONE,
            Self::KeyInUse | Self::AnswerNotKept => StatusCode::CONFLICT,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// The last part of the problem's type: stable, for programs.
    fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad-request",
            Self::BadPath(_) => "bad-path",
            Self::ConnectMethod | Self::MethodNotAllowed(_) => "method-not-allowed",
            Self::TransferCoding => "transfer-coding-not-supported",
            Self::UriTooLong => "uri-too-long",
            Self::Loop => "loop-detected",
            Self::NotJson => "not-json",
            Self::TooLarge { .. } => "body-too-large",
            Self::Busy => "busy",
            Self::Body(_) => "bad-body",
            Self::Order(BadOrder::Webhook(_)) => "webhook-refused",
            Self::Order(_) => "unknown-topic",
            Self::NoSuchTask => "no-such-task",
            Self::BadWait(_) => "bad-wait",
            Self::BadProgress => "bad-progress",
            Self::AttemptOver => "attempt-over",
            Self::TooManyWatchers => "too-many-watchers",
            Self::AlreadyEnded(_) => "task-already-ended",
            Self::TaskCancelled => "task-cancelled",
            Self::Store(StoreError::Refused(Refusal::Backlog { .. })) => "backlog-full",
            Self::Store(StoreError::Refused(_)) => "store-refused",
            Self::Store(_) => "store-unavailable",
            Self::Upstream(UpstreamError::Request(_)) | Self::Request(_) => "request-broke-off",
            Self::Upstream(UpstreamError::Answer { .. }) => "upstream-answer-malformed",
            Self::Upstream(UpstreamError::Connect { .. }) => "upstream-unreachable",
            Self::Upstream(UpstreamError::ConnectTimeout { .. }) => "upstream-connect-timeout",
            Self::Upstream(UpstreamError::FirstByte { .. }) => "upstream-timeout",
            Self::Upstream(UpstreamError::Broken { .. }) => "upstream-broke-off",
            Self::TaskFailed(failure) => match failure.kind {
                FailureKind::Deadline => "task-deadline",
                FailureKind::Unreachable => "upstream-unreachable",
                FailureKind::Broken => "upstream-broke-off",
                _ => "task-failed",
            },
            Self::Gone { .. } => "gone",
            Self::KeyInUse => "idempotency-key-in-use",
            Self::KeyReused => "idempotency-key-reused",
            Self::AnswerNotKept => "idempotent-answer-not-kept",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::BadRequest(what) => (*what).to_owned(),
            Self::BadPath(why) => why.to_string(),
            Self::ConnectMethod => "CONNECT is not served here".to_owned(),
            Self::TransferCoding => "the only transfer coding served is chunked".to_owned(),
            Self::UriTooLong => "the path and query are too long".to_owned(),
            Self::Loop => {
                "this request has already passed through this proxy: its upstream leads back to it".to_owned()
            }
            Self::MethodNotAllowed(allowed) => format!("use one of: {allowed}"),
            Self::NotJson => "send the task as application/json".to_owned(),
            Self::TooLarge { limit } => format!("the body is over {limit} bytes (proxy.max_body)"),
            Self::Busy => "too many large bodies are being read at the moment: try again".to_owned(),
            Self::Body(why) => why.to_string(),
            Self::Order(why) => why.to_string(),
            Self::NoSuchTask => "no such task, or it has expired".to_owned(),
            Self::BadWait(why) => why.to_string(),
            Self::BadProgress => {
                "send {\"progress\": a number from 0 to 1, \"note\": a short text or nothing}, and nothing else"
                    .to_owned()
            }
            Self::AttemptOver => "this attempt has ended, or its task was taken over or cancelled".to_owned(),
            Self::TooManyWatchers => "too many tasks are being watched here: poll, or try again".to_owned(),
            Self::AlreadyEnded(status) => format!("the task has already ended as {}", status.as_str()),
            Self::TaskCancelled => "the task was cancelled".to_owned(),
            Self::Store(StoreError::Refused(Refusal::Backlog { .. })) => {
                "too many tasks are waiting: try later".to_owned()
            }
            Self::Store(StoreError::Refused(_)) => "the store takes no tasks at the moment: try again".to_owned(),
            Self::Store(_) => "tasks cannot be stored or read at the moment: try again".to_owned(),
            Self::Upstream(UpstreamError::Request(fault)) | Self::Request(fault) => fault.to_string(),
            Self::Upstream(UpstreamError::Answer { .. }) => "the upstream's answer cannot be passed on".to_owned(),
            Self::Upstream(UpstreamError::Connect { .. }) => "the upstream cannot be connected to".to_owned(),
            Self::Upstream(UpstreamError::ConnectTimeout { .. }) => "connecting to the upstream timed out".to_owned(),
            Self::Upstream(UpstreamError::FirstByte { .. }) => "the upstream did not answer in time".to_owned(),
            Self::Upstream(UpstreamError::Broken { .. }) => "the upstream broke off before it answered".to_owned(),
            Self::TaskFailed(failure) => reason(failure),
            Self::Gone { route, successor } => {
                let then = successor.as_ref().map_or(String::new(), |to| format!(": call {to} instead"));
                format!("{route} is no longer served{then}")
            }
            Self::KeyInUse => "a request with this Idempotency-Key is still being served: try later".to_owned(),
            Self::KeyReused => {
                "this Idempotency-Key was used with another request: use a new key for a new request".to_owned()
            }
            Self::AnswerNotKept => {
                "a request with this Idempotency-Key was served, and its answer was too large to be kept".to_owned()
            }
        }
    }

    /// The problem as an answer.
    pub(super) fn into_response(self) -> Response<Reply> {
        match &self {
            // The client's own fault is nobody's to look into.
            Self::Upstream(UpstreamError::Request(_)) => {}
            Self::Upstream(error) => tracing::warn!(%error, code = self.code(), "no answer from the upstream"),
            Self::Store(error @ StoreError::Refused(Refusal::Full(_) | Refusal::ReadOnly(_))) => {
                tracing::warn!(%error, code = self.code(), "the store refused a task");
            }
            // An outage is the circuit's to report, and a backlog shows in the metrics: neither once per request.
            Self::Store(error) => tracing::debug!(%error, code = self.code(), "no task stored or read"),
            _ => {}
        }
        let status = self.status();
        let document = json!({
            "type": format!("urn:omnidaemon:problem:{}", self.code()),
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": self.detail(),
        });
        let mut response = json_response(status, &document);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Self::MethodNotAllowed(allowed) = &self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        let later = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if later || matches!(self, Self::KeyInUse) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// 202: the task is durable, and where to ask for it.
pub(super) fn accepted(id: &TaskId, task_path: &str) -> Response<Reply> {
    let poll_url = format!("{task_path}/{id}");
    let document = json!({"task_id": id.as_str(), "status": Status::Queued.as_str(), "poll_url": poll_url});
    let mut response = json_response(StatusCode::ACCEPTED, &document);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::from_str(&poll_url) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// Why a task failed, as a client may know it: a handler's own words and the configuration's keys, but no address
/// and no error of the system. The whole message is in the admin API and the log.
fn reason(failure: &Failure) -> String {
    match failure.kind {
        FailureKind::Deadline | FailureKind::Result | FailureKind::Handler | FailureKind::Lost => {
            failure.message.clone()
        }
        FailureKind::Unreachable => "the task's handler cannot be reached".to_owned(),
        FailureKind::Broken => "the task's handler broke off before it had answered".to_owned(),
        FailureKind::Status => match failure.answer.as_ref().and_then(|answer| answer.status) {
            Some(status) => format!("the task's handler answered {status}"),
            None => "the task's handler answered with an error".to_owned(),
        },
        FailureKind::Crash => "the workers that ran the task died".to_owned(),
        FailureKind::Malformed => "the task cannot be run as it was queued".to_owned(),
    }
}

/// The end of a canaried request's task, as the legacy endpoint would have given it: a failure's answer goes out
/// only where it is that endpoint's own.
pub(super) fn outcome(record: &TaskRecord) -> Response<Reply> {
    match (record.status, &record.answer, &record.failure) {
        (Status::Completed, Some(answer), _) => given(answer),
        (Status::Failed, _, Some(Failure { answer: Some(answer), .. })) if answer.verbatim => given(answer),
        (Status::Failed, _, Some(failure)) => Problem::TaskFailed(Box::new(failure.clone())).into_response(),
        _ => Problem::TaskCancelled.into_response(),
    }
}

/// An answer as it was given.
pub(super) fn given(answer: &Answer) -> Response<Reply> {
    if !answer.verbatim {
        let mut response = Response::new(Reply::whole(crate::store::json_of(&answer.body)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return response;
    }
    let mut response = Response::new(Reply::whole(answer.body.clone()));
    *response.status_mut() = answer.status.unwrap_or(StatusCode::OK);
    *response.headers_mut() = answer.headers.clone();
    response
}

/// What is said of progress.
pub(super) fn progress(progress: &Progress) -> Value {
    let mut document = json!({"fraction": progress.fraction()});
    if let Some(note) = progress.note() {
        document["note"] = note.into();
    }
    document
}

/// The document of `GET /task/<id>`.
pub(super) fn document(record: &TaskRecord) -> String {
    let mut document = json!({
        "task_id": record.id.as_str(),
        "status": record.status.as_str(),
        "topic": record.topic.as_str(),
        "attempts": record.attempts,
    });
    if let Some(failure) = record.failure.as_ref().filter(|_| record.status == Status::Failed) {
        document["error"] = reason(failure).into();
    }
    if let Some(due) = record.due.filter(|_| record.status == Status::Queued).and_then(UnixMs::rfc3339) {
        document["due_at"] = due.into();
    }
    if let Some(said) = &record.progress {
        document["progress"] = progress(said);
    }
    let mut text = document.to_string();
    if let Some(answer) = record.answer.as_ref().filter(|_| record.status == Status::Completed) {
        text.pop(); // the closing brace: the result goes in as it is, unread
        if let Some(status) = answer.status {
            let _ = write!(text, ",\"http_status\":{}", status.as_u16()); // a String takes everything
        }
        text.push_str(",\"result\":");
        text.push_str(&String::from_utf8_lossy(&crate::store::json_of(&answer.body)));
        text.push('}');
    }
    text
}

/// `GET /task/<id>`
pub(super) fn task(record: &TaskRecord) -> Response<Reply> {
    let mut response = Response::new(Reply::whole(document(record)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !record.status.is_final() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// `DELETE /task/<id>`, done.
pub(super) fn cancelled(id: &TaskId) -> Response<Reply> {
    let document = json!({"task_id": id.as_str(), "status": Status::Cancelled.as_str()});
    let mut response = json_response(StatusCode::OK, &document);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A report of progress, taken.
pub(super) fn noted() -> Response<Reply> {
    let mut response = Response::new(Reply::whole(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A task's events.
pub(super) fn events(body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would keep them until it has a buffer full
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// There are no more events: a browser does not come again.
pub(super) fn no_more_events() -> Response<Reply> {
    let mut response = noted();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A redirect to a configured place: 307, or 308 when it is permanent.
pub(super) fn redirect(location: &HeaderValue, permanent: bool) -> Response<Reply> {
    let mut response = Response::new(Reply::whole(""));
    *response.status_mut() = if permanent { StatusCode::PERMANENT_REDIRECT } else { StatusCode::TEMPORARY_REDIRECT };
    response.headers_mut().insert(header::LOCATION, location.clone());
    response
}

/// The metrics page.
pub(super) fn metrics(text: String) -> Response<Reply> {
    let mut response = Response::new(Reply::whole(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The answer to a browser's preflight on an own path.
pub(super) fn preflight() -> Response<Reply> {
    let mut response = Response::new(Reply::whole(""));
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

fn json_response(status: StatusCode, document: &Value) -> Response<Reply> {
    let mut response = Response::new(Reply::whole(document.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_a_handlers_own_words_and_no_address() {
        let text = "upstream http://10.0.0.7:9000: Connection refused (os error 111), topics.t.timeout";
        for (kind, code, own_words) in [
            (FailureKind::Deadline, "task-deadline", true),
            (FailureKind::Handler, "task-failed", true),
            (FailureKind::Result, "task-failed", true),
            (FailureKind::Unreachable, "upstream-unreachable", false),
            (FailureKind::Broken, "upstream-broke-off", false),
            (FailureKind::Status, "task-failed", false),
            (FailureKind::Crash, "task-failed", false),
            (FailureKind::Malformed, "task-failed", false),
            (FailureKind::Lost, "task-failed", true),
        ] {
            let problem = Problem::TaskFailed(Box::new(Failure::new(kind, text)));
            assert_eq!((problem.code(), problem.detail() == text), (code, own_words), "{kind:?}");
            assert!(own_words || !problem.detail().contains("10.0.0.7"), "{kind:?}: {}", problem.detail());
        }
    }

    #[test]
    fn a_refusals_reason_is_for_operators() {
        let refused = |refusal| Problem::Store(StoreError::Refused(refusal)).detail();
        for refusal in [Refusal::Full("OOM on 10.0.0.7".into()), Refusal::ReadOnly("replica of 10.0.0.7".into())] {
            assert_eq!(refused(refusal), "the store takes no tasks at the moment: try again");
        }
        let topic = crate::task::Topic::parse("inner").expect("a topic");
        assert_eq!(refused(Refusal::Backlog { topic, depth: 9, max: 9 }), "too many tasks are waiting: try later");
    }
}
