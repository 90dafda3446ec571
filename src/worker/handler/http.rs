//! The `http` handler: posts the payload to a URL, and returns the answer with its status and the
//! headers that describe its content.

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{Method, Request, Uri};
use http_body_util::Full;

use super::Handler;
use super::attempt::{ATTEMPT_HEADER, IDEMPOTENCY_KEY_HEADER, TaskAttempt};
use super::http_answer::read_answer;
use super::http_client::{ExchangeError, HandlerHttpClient, send_request};
use crate::task::{FailureKind, SHADOW_HEADER, TaskAnswer, TaskFailure};

/// The headers of an answer that describe its content, and reach the client with it. All others
/// concern the exchange between worker and handler.
const CONTENT_HEADERS: [HeaderName; 5] = [
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::CONTENT_TYPE,
];

/// The `http` handler of one attempt.
pub(super) struct HttpHandler {
    pub(super) client: HandlerHttpClient,
    pub(super) url: Uri,
    /// The largest result, bytes.
    pub(super) max_result: usize,
}

// === impl HttpHandler ===

#[async_trait]
impl Handler for HttpHandler {
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        let request = self.build_request(attempt)?;
        attempt
            .run_until_interrupted(self.send_payload(request))
            .await
            .map_err(|failure| self.attribute_failure(attempt, failure))
    }
}

impl HttpHandler {
    fn build_request(&self, attempt: &TaskAttempt) -> Result<Request<Full<Bytes>>, TaskFailure> {
        let task = &attempt.task;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*;q=0.5")
            .header(IDEMPOTENCY_KEY_HEADER, attempt.idempotency_key())
            .header(ATTEMPT_HEADER, attempt.number)
            .header("x-omnidaemon-task-id", task.id.as_str());
        if let Some(url) = &attempt.progress_url {
            request = request.header("x-omnidaemon-progress-url", url);
        }
        if task.is_shadow() {
            request = request.header(SHADOW_HEADER, "1");
        }
        request.body(Full::new(task.payload.clone())).map_err(|error| {
            TaskFailure::new(FailureKind::Malformed, format!("the task cannot be posted: {error}"))
        })
    }

    async fn send_payload(&self, request: Request<Full<Bytes>>) -> Result<TaskAnswer, TaskFailure> {
        match send_request(&self.client, request, None).await {
            Ok(response) => read_answer(response, self.max_result, content_answer).await,
            Err(ExchangeError::Failed(failure)) => Err(failure),
            Err(ExchangeError::NotSent(reason)) => Err(TaskFailure::new(
                FailureKind::Unreachable,
                format!("cannot be reached: {reason}"),
            )),
        }
    }

    /// Prefixes the message of a failure with the URL, without user info and query, which can
    /// contain secrets. Messages that are shown to clients unchanged are left as they are.
    fn attribute_failure(&self, attempt: &TaskAttempt, failure: TaskFailure) -> TaskFailure {
        if matches!(failure.kind, FailureKind::Deadline | FailureKind::UnusableResult)
            || attempt.cancelled.is_cancelled()
        {
            return failure;
        }
        let host = self.url.host().unwrap_or_default();
        let port = self.url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        TaskFailure {
            message: format!("http handler {host}{port}{}: {}", self.url.path(), failure.message),
            ..failure
        }
    }
}

/// The answer with its status, its body, and its [`CONTENT_HEADERS`].
fn content_answer(head: &http::response::Parts, body: Bytes) -> TaskAnswer {
    let is_content = |(name, _): &(&HeaderName, _)| CONTENT_HEADERS.contains(name);
    let content = head.headers.iter().filter(is_content);
    TaskAnswer {
        status: Some(head.status),
        headers: content.map(|(name, value)| (name.clone(), value.clone())).collect(),
        body,
        verbatim: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::handler::http_client::HandlerClientCache;
    use crate::worker::testing::{RecordingServer, closed_port, test_attempt, test_task};
    use axum::response::{IntoResponse, Response};
    use http::{HeaderMap, HeaderValue, StatusCode};
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn test_http_handler(url: &str) -> HttpHandler {
        let client = HandlerClientCache::default().get(Duration::from_secs(5));
        HttpHandler { client, url: url.parse().expect("a URL"), max_result: 1024 }
    }

    async fn start_answering_server(
        status: u16,
        body: &'static str,
    ) -> (RecordingServer, HttpHandler) {
        let status = StatusCode::from_u16(status).expect("a status");
        let reply = move |_| async move { (status, [("x-not-kept", "1")], body).into_response() };
        let server = RecordingServer::start(reply).await;
        let handler = test_http_handler(&format!("{}/build?q=1", server.url()));
        (server, handler)
    }

    #[tokio::test]
    async fn the_payload_is_posted_and_the_answer_keeps_its_status_and_content_headers() {
        let (server, handler) = start_answering_server(201, "{\"n\": 1.0}\n").await;
        let attempt = test_attempt(test_task(1, "t", "{\"a\": [1]}"));
        let answer = handler.handle(&attempt).await.expect("completed");
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        let expected = TaskAnswer {
            status: Some(StatusCode::CREATED),
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, text)]),
            verbatim: true,
            ..TaskAnswer::from_json("{\"n\": 1.0}\n")
        };
        assert_eq!(answer, expected);
        let seen = server.received_requests().remove(0);
        assert_eq!(format!("{} {}", seen.head.method, seen.head.uri), "POST /build?q=1");
        assert_eq!(seen.body, "{\"a\": [1]}");
        for (name, value) in [
            ("content-type", "application/json"),
            ("idempotency-key", attempt.task.id.as_str()),
            ("x-omnidaemon-task-id", attempt.task.id.as_str()),
            ("x-omnidaemon-attempt", "1"),
        ] {
            assert_eq!(seen.head.headers[name], value, "{name}");
        }
    }

    #[tokio::test]
    async fn failures_name_the_handler_and_hide_its_secrets() {
        let (server, _) = start_answering_server(429, "slow down").await;
        let busy =
            test_http_handler(&format!("http://user:pw@127.0.0.1:{}/b?key=s3cret", server.port));
        let failure =
            busy.handle(&test_attempt(test_task(1, "t", "{}"))).await.expect_err("failed");
        assert_eq!(failure.kind, FailureKind::FailedStatus);
        assert!(failure.message.contains("/b: answered 429"), "{}", failure.message);
        assert_eq!(failure.answer.map(|answer| answer.body), Some(Bytes::from("slow down")));
        let gone =
            test_http_handler(&format!("http://user:pw@127.0.0.1:{}/b?key=s3cret", closed_port()));
        let failure =
            gone.handle(&test_attempt(test_task(1, "t", "{}"))).await.expect_err("failed");
        assert_eq!(failure.kind, FailureKind::Unreachable);
        assert!(
            !failure.message.contains("s3cret") && !failure.message.contains("pw"),
            "{}",
            failure.message
        );
    }

    #[tokio::test]
    async fn a_handler_that_hangs_meets_the_deadline() {
        let server = RecordingServer::start(|_| std::future::pending::<Response>()).await;
        let short = TaskAttempt::new(
            test_task(1, "t", "{}"),
            1,
            Duration::from_millis(50),
            CancellationToken::new(),
        );
        let failure =
            test_http_handler(&server.url().to_string()).handle(&short).await.expect_err("late");
        assert_eq!(failure.kind, FailureKind::Deadline);
    }
}
