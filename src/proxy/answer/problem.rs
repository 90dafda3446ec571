//! What can go wrong with a request, and the response that its client gets for it: a problem
//! document (RFC 9457).
//!
//! The document tells the client what it can do. Addresses and causes, which an operator needs, go
//! to the log. A problem's code is the last part of its type, and is stable.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::answer::task_failure::explain_failure;
use crate::proxy::http::request_body::RequestBodyError;
use crate::proxy::http::validate::RequestRejection;
use crate::proxy::upstream::error::UpstreamError;
use crate::route::{BodyError, TaskRequestError, WaitParamError};
use crate::store::{StoreError, StoreRefusal};
use crate::task::{FailureKind, TaskFailure, TaskStatus};

/// Why a request is answered by an error of this proxy.
#[derive(Debug)]
pub(crate) enum ProxyProblem {
    /// The request must not be passed on.
    Rejected(RequestRejection),
    /// `Via` shows that the request has passed through this process before.
    LoopDetected,
    /// The endpoint has other methods: those listed.
    MethodNotAllowed(&'static str),
    /// A task was submitted in another format than JSON.
    NotJson,
    /// The body is longer than `proxy.max_body`.
    BodyTooLarge { limit: usize },
    /// The thread holds as many bytes of bodies as it may.
    OverBodyBudget,
    /// The body is not a payload or an envelope.
    InvalidBody(BodyError),
    /// The body's envelope asks for what is not configured or allowed.
    InvalidTask(TaskRequestError),
    /// The task is unknown, has expired, or belongs to another API key.
    NoSuchTask,
    /// The `wait` parameter of a poll is malformed.
    BadWait(WaitParamError),
    /// The body of a progress report is malformed.
    BadProgress,
    /// The attempt that reports progress does not hold its task any more.
    AttemptEnded,
    /// This process follows as many tasks as it may.
    TooManyWatchers,
    /// A task that has ended cannot be cancelled.
    TaskAlreadyEnded(TaskStatus),
    /// The store refused or could not be reached.
    Store(StoreError),
    /// The upstream gave no response that can be passed on.
    Upstream(UpstreamError),
    /// The request body did not arrive whole.
    RequestBody(RequestBodyError),
    /// The task of a canaried request failed.
    TaskFailed(Box<TaskFailure>),
    /// The task of a canaried request was cancelled.
    TaskCancelled,
    /// The route's deprecation mode is `gone`.
    RouteGone { route: String, successor: Option<String> },
    /// Another request with the same idempotency key is in progress.
    IdempotencyKeyInUse,
    /// The idempotency key was used for a different request.
    IdempotencyKeyReused,
    /// The request was served before, and its response was too large to be stored.
    AnswerNotStored,
}

// === impl ProxyProblem ===

impl ProxyProblem {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Upstream(UpstreamError::RequestBody(error)) | Self::RequestBody(error) => {
                match error {
                    RequestBodyError::Stalled => StatusCode::REQUEST_TIMEOUT,
                    RequestBodyError::Broken | RequestBodyError::Abandoned => {
                        StatusCode::BAD_REQUEST
                    }
                }
            }
            Self::Rejected(rejection) => match rejection {
                RequestRejection::Malformed(_) | RequestRejection::BadPath(_) => {
                    StatusCode::BAD_REQUEST
                }
                RequestRejection::ConnectNotServed => StatusCode::METHOD_NOT_ALLOWED,
                RequestRejection::UnsupportedTransferCoding => StatusCode::NOT_IMPLEMENTED,
                RequestRejection::UriTooLong => StatusCode::URI_TOO_LONG,
            },
            Self::BadWait(_) | Self::BadProgress => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
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
            Self::Store(StoreError::Malformed(_)) => StatusCode::INTERNAL_SERVER_ERROR,
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

    /// The last part of the problem's type; stable, for programs.
    fn problem_code(&self) -> &'static str {
        match self {
            Self::Rejected(rejection) => match rejection {
                RequestRejection::Malformed(_) => "bad-request",
                RequestRejection::BadPath(_) => "bad-path",
                RequestRejection::ConnectNotServed => "method-not-allowed",
                RequestRejection::UnsupportedTransferCoding => "transfer-coding-not-supported",
                RequestRejection::UriTooLong => "uri-too-long",
            },
            Self::MethodNotAllowed(_) => "method-not-allowed",
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
            Self::Store(StoreError::Malformed(_)) => "unreadable-record",
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
        let text = match self {
            Self::Rejected(rejection) => return rejection_detail(rejection),
            Self::InvalidBody(error) => return error.to_string(),
            Self::InvalidTask(error) => return error.to_string(),
            Self::BadWait(error) => return error.to_string(),
            Self::Upstream(UpstreamError::RequestBody(error)) | Self::RequestBody(error) => {
                return error.to_string();
            }
            Self::TaskFailed(failure) => return explain_failure(failure),
            Self::MethodNotAllowed(allowed) => return format!("use one of: {allowed}"),
            Self::BodyTooLarge { limit } => {
                return format!("the body is over {limit} bytes (proxy.max_body)");
            }
            Self::TaskAlreadyEnded(status) => {
                return format!("the task has already ended as {}", status.as_str());
            }
            Self::RouteGone { route, successor: None } => {
                return format!("{route} is no longer served");
            }
            Self::RouteGone { route, successor: Some(successor) } => {
                return format!("{route} is no longer served: call {successor} instead");
            }
            Self::LoopDetected => {
                "this request has already passed through this proxy: its upstream leads back to it"
            }
            Self::NotJson => "send the task as application/json",
            Self::OverBodyBudget => "too many large bodies are being read at the moment: try again",
            Self::NoSuchTask => "no such task, or it has expired",
            Self::BadProgress => {
                "send {\"progress\": a number from 0 to 1, \"note\": a short text or nothing}, \
                 and nothing else"
            }
            Self::AttemptEnded => "this attempt has ended, or its task was taken over or cancelled",
            Self::TooManyWatchers => "too many tasks are being watched here: poll, or try again",
            Self::TaskCancelled => "the task was cancelled",
            Self::Store(StoreError::Refused(StoreRefusal::BacklogFull { .. })) => {
                "too many tasks are waiting: try later"
            }
            Self::Store(StoreError::Refused(_)) => {
                "the store takes no tasks at the moment: try again"
            }
            Self::Store(StoreError::Malformed(_)) => "what is stored of the task cannot be read",
            Self::Store(_) => "tasks cannot be stored or read at the moment: try again",
            Self::Upstream(UpstreamError::MalformedResponse { .. }) => {
                "the upstream's answer cannot be passed on"
            }
            Self::Upstream(UpstreamError::ConnectFailed { .. }) => {
                "the upstream cannot be connected to"
            }
            Self::Upstream(UpstreamError::ConnectTimeout { .. }) => {
                "connecting to the upstream timed out"
            }
            Self::Upstream(UpstreamError::FirstByteTimeout { .. }) => {
                "the upstream did not answer in time"
            }
            Self::Upstream(UpstreamError::ConnectionBroken { .. }) => {
                "the upstream closed the connection before it answered"
            }
            Self::IdempotencyKeyInUse => {
                "a request with this Idempotency-Key is still being served: try later"
            }
            Self::IdempotencyKeyReused => {
                "this Idempotency-Key was used with another request: \
                 use a new key for a new request"
            }
            Self::AnswerNotStored => {
                "a request with this Idempotency-Key was served, \
                 and its answer was too large to be stored"
            }
        };
        text.to_owned()
    }

    /// The response for this problem; logs what the response leaves out.
    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        match &self {
            // A client's mistake is not logged.
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
            Self::Store(error @ StoreError::Malformed(_)) => {
                tracing::warn!(%error, code = self.problem_code(), "no task was stored or read");
            }
            // The circuit breaker reports an outage, and the metrics show a backlog: a warning for
            // each request would repeat them.
            Self::Store(error) => {
                tracing::debug!(%error, code = self.problem_code(), "no task was stored or read");
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
        let mut response = Response::new(ResponseBody::from_bytes(document.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Self::MethodNotAllowed(allowed) = &self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        let is_temporary =
            matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if is_temporary || matches!(self, Self::IdempotencyKeyInUse) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn rejection_detail(rejection: &RequestRejection) -> String {
    match rejection {
        RequestRejection::Malformed(reason) => (*reason).to_owned(),
        RequestRejection::BadPath(error) => error.to_string(),
        RequestRejection::ConnectNotServed => "CONNECT is not served here".to_owned(),
        RequestRejection::UnsupportedTransferCoding => {
            "the only transfer coding served is chunked".to_owned()
        }
        RequestRejection::UriTooLong => "the path and query are too long".to_owned(),
    }
}

// === conversions ===

impl From<RequestRejection> for ProxyProblem {
    fn from(rejection: RequestRejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<StoreError> for ProxyProblem {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<UpstreamError> for ProxyProblem {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl From<RequestBodyError> for ProxyProblem {
    fn from(error: RequestBodyError) -> Self {
        Self::RequestBody(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_of_a_failed_task_has_the_handlers_message_and_no_address() {
        let text =
            "upstream http://10.0.0.7:9000: Connection refused (os error 111), topics.t.timeout";
        for (kind, code, is_shown) in [
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
                (code, is_shown),
                "{kind:?}"
            );
            assert!(
                is_shown || !problem.client_detail().contains("10.0.0.7"),
                "{kind:?}: {}",
                problem.client_detail()
            );
        }
    }

    #[test]
    fn the_detail_of_a_store_refusal_has_no_internal_reason() {
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
