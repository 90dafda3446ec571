//! Posts the payload to a URL, and keeps the answer as JSON.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::Full;

use super::client::{Client, Trouble, judge, send};
use super::{Attempt, Handler, IDEMPOTENCY_KEY, as_json};
use crate::task::{Answer, Failure, FailureKind, SHADOW};

/// The `http` handler.
pub(super) struct Http {
    pub(super) client: Client,
    pub(super) url: Uri,
    pub(super) max_result: usize,
}

// === impl Http ===

#[async_trait]
impl Handler for Http {
    async fn handle(&self, attempt: &Attempt) -> Result<Answer, Failure> {
        let request = self.request(attempt)?;
        attempt.within(self.send(request)).await.map_err(|failure| self.named(attempt, failure))
    }
}

impl Http {
    fn request(&self, attempt: &Attempt) -> Result<Request<Full<Bytes>>, Failure> {
        let task = &attempt.task;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*;q=0.5")
            .header(IDEMPOTENCY_KEY, attempt.idempotency_key())
            .header("x-omnidaemon-attempt", attempt.number)
            .header("x-omnidaemon-task-id", task.id.as_str());
        if let Some(url) = &attempt.progress_url {
            request = request.header("x-omnidaemon-progress-url", url);
        }
        if task.is_shadow() {
            request = request.header(SHADOW, "1");
        }
        request
            .body(Full::new(task.payload.clone()))
            .map_err(|error| Failure::new(FailureKind::Malformed, format!("the task cannot be posted: {error}")))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        match send(&self.client, request, None).await {
            Ok(response) => judge(response, self.max_result, |head, body| json(head, &body)).await,
            Err(Trouble::Failed(failure)) => Err(failure),
            Err(Trouble::NotSent(reason)) => {
                Err(Failure::new(FailureKind::Unreachable, format!("cannot be reached: {reason}")))
            }
        }
    }

    /// Says whose failure it is, without what a URL can hide in its user info and query.
    fn named(&self, attempt: &Attempt, failure: Failure) -> Failure {
        if matches!(failure.kind, FailureKind::Deadline | FailureKind::Result) || attempt.cancelled.is_cancelled() {
            return failure;
        }
        let host = self.url.host().unwrap_or_default();
        let port = self.url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        Failure { message: format!("http handler {host}{port}{}: {}", self.url.path(), failure.message), ..failure }
    }
}

fn json(head: &http::response::Parts, body: &Bytes) -> Answer {
    Answer { status: Some(head.status), headers: HeaderMap::new(), body: as_json(body), verbatim: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::handler::client::Clients;
    use crate::worker::testing::{Server, attempt, closed_port, task};
    use axum::response::{IntoResponse, Response};
    use http::StatusCode;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn handler(url: &str) -> Http {
        let client = Clients::default().get(Duration::from_secs(5));
        Http { client, url: url.parse().expect("a URL"), max_result: 1024 }
    }

    async fn answering(status: u16, body: &'static str) -> (Server, Http) {
        let status = StatusCode::from_u16(status).expect("a status");
        let reply = move |_| async move { (status, [("x-not-kept", "1")], body).into_response() };
        let server = Server::start(reply).await;
        let handler = handler(&format!("{}/build?q=1", server.url()));
        (server, handler)
    }

    #[tokio::test]
    async fn the_payload_is_posted_and_the_answer_is_json_with_its_status() {
        let (server, handler) = answering(201, "{\"n\": 1.0}\n").await;
        let attempt = attempt(task(1, "t", "{\"a\": [1]}"));
        let answer = handler.handle(&attempt).await.expect("completed");
        let expected = Answer { status: Some(StatusCode::CREATED), ..Answer::json("{\"n\": 1.0}") };
        assert_eq!(answer, expected);
        let seen = server.seen().remove(0);
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
    async fn text_becomes_a_string_and_nothing_becomes_null() {
        for (body, kept) in [("done\n", "\"done\""), ("", "null")] {
            let (_server, handler) = answering(200, body).await;
            let answer = handler.handle(&attempt(task(1, "t", "{}"))).await.expect("completed");
            assert_eq!(answer.body, kept);
        }
    }

    #[tokio::test]
    async fn failures_name_the_handler_and_hide_its_secrets() {
        let (server, _) = answering(429, "slow down").await;
        let busy = handler(&format!("http://user:pw@127.0.0.1:{}/b?key=s3cret", server.port));
        let failure = busy.handle(&attempt(task(1, "t", "{}"))).await.expect_err("failed");
        assert_eq!(failure.kind, FailureKind::Status);
        assert!(failure.message.contains("/b: answered 429"), "{}", failure.message);
        assert_eq!(failure.answer.map(|answer| answer.body), Some(Bytes::from("\"slow down\"")));
        let gone = handler(&format!("http://user:pw@127.0.0.1:{}/b?key=s3cret", closed_port()));
        let failure = gone.handle(&attempt(task(1, "t", "{}"))).await.expect_err("failed");
        assert_eq!(failure.kind, FailureKind::Unreachable);
        assert!(!failure.message.contains("s3cret") && !failure.message.contains("pw"), "{}", failure.message);
    }

    #[tokio::test]
    async fn a_handler_that_hangs_meets_the_deadline() {
        let server = Server::start(|_| std::future::pending::<Response>()).await;
        let short = Attempt::new(task(1, "t", "{}"), 1, Duration::from_millis(50), CancellationToken::new());
        let failure = handler(&server.url().to_string()).handle(&short).await.expect_err("late");
        assert_eq!(failure.kind, FailureKind::Deadline);
    }
}
