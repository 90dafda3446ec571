//! Replays the captured request to the legacy upstream, and keeps the answer as it was.
//!
//! The upstream sees what it would have seen on the sync path (method, target, end-to-end headers,
//! body), plus an idempotency key and the attempt's number. A task without a request is posted to
//! its route's path.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use super::client::{
    ExchangeError, HandlerHttpClient, end_to_end_headers, read_answer, send_request,
};
use super::{Handler, IDEMPOTENCY_KEY_HEADER, TaskAttempt};
use crate::config::UpstreamUrl;
use crate::task::{FailureKind, TaskAnswer, TaskFailure};

/// The `upstream` handler.
pub(super) struct UpstreamHandler {
    pub(super) client: HandlerHttpClient,
    /// The servers, the first to be tried first.
    pub(super) urls: Vec<UpstreamUrl>,
    /// The longest until the first byte of an answer.
    pub(super) first_byte_timeout: Option<Duration>,
    /// The largest answer that is read, bytes; one over `results.max_result` is not kept.
    pub(super) max_answer: usize,
    /// Where a task without a captured request goes; else the pattern that names no single path.
    pub(super) default_path: Result<String, String>,
}

/// What is sent, whichever server gets it.
struct ReplayRequest<'a> {
    method: Method,
    target: &'a str,
    headers: HeaderMap,
    body: Bytes,
}

// === impl Upstream ===

#[async_trait]
impl Handler for UpstreamHandler {
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        let replay = self.build_replay(attempt)?;
        attempt.run_until_interrupted(self.send_replay(&replay)).await
    }
}

impl UpstreamHandler {
    fn build_replay<'a>(
        &'a self,
        attempt: &'a TaskAttempt,
    ) -> Result<ReplayRequest<'a>, TaskFailure> {
        let mut replay = match &attempt.task.request {
            Some(request) => ReplayRequest {
                method: request.method.clone(),
                target: &request.target,
                headers: end_to_end_headers(&request.headers),
                body: request.body.clone(),
            },
            None => ReplayRequest {
                method: Method::POST,
                target: self
                    .default_path
                    .as_ref()
                    .map_err(|pattern| no_single_path_failure(attempt, pattern))?,
                headers: HeaderMap::from_iter([(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                )]),
                body: attempt.task.payload.clone(),
            },
        };
        if !replay.body.is_empty() || replay.method == Method::POST {
            replay.headers.insert(header::CONTENT_LENGTH, replay.body.len().into());
        }
        replay.headers.insert(IDEMPOTENCY_KEY_HEADER, attempt.idempotency_key());
        replay.headers.insert("x-omnidaemon-attempt", attempt.number.into());
        Ok(replay)
    }

    /// Sends to each server in turn until one was reached.
    async fn send_replay(&self, replay: &ReplayRequest<'_>) -> Result<TaskAnswer, TaskFailure> {
        let mut unreached = Vec::new();
        for url in &self.urls {
            match send_request(
                &self.client,
                replay.build_request_for(url)?,
                self.first_byte_timeout,
            )
            .await
            {
                Ok(response) => {
                    return read_answer(response, self.max_answer, verbatim_answer)
                        .await
                        .map_err(|f| attribute_failure(url, f));
                }
                Err(ExchangeError::Failed(failure)) => return Err(attribute_failure(url, failure)),
                Err(ExchangeError::NotSent(reason)) => {
                    tracing::debug!(%url, reason, "upstream not reached");
                    unreached.push(format!("{url}: {reason}"));
                }
            }
        }
        Err(TaskFailure::new(
            FailureKind::Unreachable,
            format!("cannot reach the upstream {}", unreached.join(", ")),
        ))
    }
}

fn no_single_path_failure(attempt: &TaskAttempt, pattern: &str) -> TaskFailure {
    let topic = &attempt.task.topic;
    let message = format!(
        "a task of {topic} that no request was captured for has no single path to go to: its route's is {pattern}; \
         give the topic a route without {{segments}}, or an http handler"
    );
    TaskFailure::new(FailureKind::Malformed, message)
}

/// Says whose failure it is, but where the message goes on to clients as it is.
fn attribute_failure(url: &UpstreamUrl, failure: TaskFailure) -> TaskFailure {
    if matches!(failure.kind, FailureKind::Deadline | FailureKind::UnusableResult) {
        tracing::info!(%url, error = failure.message, "no usable answer from the upstream");
        return failure;
    }
    TaskFailure { message: format!("upstream {url}: {}", failure.message), ..failure }
}

fn verbatim_answer(head: &http::response::Parts, body: Bytes) -> TaskAnswer {
    TaskAnswer {
        status: Some(head.status),
        headers: end_to_end_headers(&head.headers),
        body,
        verbatim: true,
    }
}

// === impl Replay ===

impl ReplayRequest<'_> {
    /// The request for one server. The client's own Host goes along, as on the sync path.
    fn build_request_for(&self, url: &UpstreamUrl) -> Result<Request<Full<Bytes>>, TaskFailure> {
        let unsendable = |error: http::Error| {
            TaskFailure::new(
                FailureKind::Malformed,
                format!("{} is no request target: {error}", self.target),
            )
        };
        let uri = Uri::builder()
            .scheme(if url.tls { "https" } else { "http" })
            .authority(url.authority())
            .path_and_query(self.target)
            .build()
            .map_err(unsendable)?;
        let mut request = Request::builder()
            .method(&self.method)
            .uri(uri)
            .body(Full::new(self.body.clone()))
            .map_err(unsendable)?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{CapturedRequest, Task};
    use crate::worker::handler::client::HandlerClientCache;
    use crate::worker::testing::{RecordingServer, closed_port, test_attempt, test_task};
    use axum::body::Body;
    use axum::response::Response;
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::sync::CancellationToken;

    fn test_upstream_handler(urls: Vec<UpstreamUrl>) -> UpstreamHandler {
        let client = HandlerClientCache::default().get(Duration::from_secs(5));
        UpstreamHandler {
            client,
            urls,
            first_byte_timeout: None,
            max_answer: 1024,
            default_path: Ok("/invoke".into()),
        }
    }

    fn local_url(port: u16) -> UpstreamUrl {
        UpstreamUrl { tls: false, host: "127.0.0.1".into(), port }
    }

    fn captured_task(headers: &[(&'static str, &str)]) -> Task {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header value"));
        }
        let request = CapturedRequest {
            method: Method::PUT,
            target: "/legacy/x%20y?a=1&a=2".into(),
            headers: map,
            body: Bytes::from_static(b"\xff not json"),
        };
        Task { request: Some(request), ..test_task(1, "t", "{}") }
    }

    fn test_response(status: u16, body: impl Into<Body>) -> Response {
        Response::builder().status(status).body(body.into()).expect("a response")
    }

    #[tokio::test]
    async fn the_captured_request_is_replayed_as_it_was() {
        let server = RecordingServer::start(|_| async { test_response(200, "ok") }).await;
        let given = captured_task(&[
            ("host", "legacy.example"),
            ("authorization", "Bearer s"),
            ("x-twice", "1"),
            ("x-twice", "2"),
            ("content-length", "10"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ]);
        let id = given.id.clone();
        let attempt = TaskAttempt { number: 2, ..test_attempt(given) };
        test_upstream_handler(vec![server.url()]).handle(&attempt).await.expect("completed");
        let seen = server.received_requests().remove(0);
        assert_eq!(
            (seen.head.method.as_str(), seen.head.uri.to_string().as_str()),
            ("PUT", "/legacy/x%20y?a=1&a=2")
        );
        assert_eq!(seen.body, Bytes::from_static(b"\xff not json"));
        let header = |name: &str| {
            let values =
                seen.head.headers.get_all(name).iter().map(|value| value.to_str().expect("text"));
            values.collect::<Vec<_>>().join("|")
        };
        for (name, value) in [
            ("host", "legacy.example"),
            ("authorization", "Bearer s"),
            ("x-twice", "1|2"),
            ("x-hop", ""),
            ("content-length", "10"),
            ("idempotency-key", id.as_str()),
            ("x-omnidaemon-attempt", "2"),
        ] {
            assert_eq!(header(name), value, "{name}");
        }
    }

    #[tokio::test]
    async fn the_clients_own_idempotency_key_goes_along() {
        let server = RecordingServer::start(|_| async { test_response(200, "ok") }).await;
        let attempt = test_attempt(captured_task(&[("idempotency-key", "mine")]));
        test_upstream_handler(vec![server.url()]).handle(&attempt).await.expect("completed");
        let keys = server
            .received_requests()
            .remove(0)
            .head
            .headers
            .get_all("idempotency-key")
            .iter()
            .cloned()
            .collect::<Vec<_>>();
        assert_eq!(keys, ["mine"]);
    }

    #[tokio::test]
    async fn a_task_without_a_request_is_posted_to_the_routes_path_or_fails_by_the_patterns_name() {
        let server = RecordingServer::start(|_| async { test_response(200, "ok") }).await;
        let attempt = test_attempt(test_task(1, "t", "{\"a\":1}"));
        let mut handler = test_upstream_handler(vec![server.url()]);
        handler.handle(&attempt).await.expect("completed");
        let seen = server.received_requests().remove(0);
        assert_eq!(format!("{} {}", seen.head.method, seen.head.uri), "POST /invoke");
        assert_eq!(
            (seen.head.headers["content-type"].as_bytes(), seen.body),
            (&b"application/json"[..], "{\"a\":1}".into())
        );
        handler.default_path = Err("/agents/{agent}/invoke".into());
        let failure = handler.handle(&attempt).await.expect_err("no path");
        assert!(
            failure.message.contains("/agents/{agent}/invoke") && !failure.is_retryable(),
            "{failure:?}"
        );
    }

    #[tokio::test]
    async fn an_answer_is_kept_as_it_was_and_no_redirect_is_followed() {
        for status in [201, 302, 404] {
            let server = RecordingServer::start(move |_| async move {
                let head = Response::builder()
                    .status(status)
                    .header("location", "/next")
                    .header("set-cookie", "a=1");
                let head = head
                    .header("set-cookie", "b=2")
                    .header("connection", "x-hop")
                    .header("x-hop", "1");
                head.body(Body::from(&b"\x00\xff"[..])).expect("a response")
            })
            .await;
            let kept = test_upstream_handler(vec![server.url()])
                .handle(&test_attempt(captured_task(&[])))
                .await
                .expect("completed");
            assert_eq!((kept.status.map(|s| s.as_u16()), kept.verbatim), (Some(status), true));
            assert_eq!(kept.body, Bytes::from_static(b"\x00\xff"));
            assert_eq!(
                kept.headers.get_all("set-cookie").iter().collect::<Vec<_>>(),
                ["a=1", "b=2"]
            );
            assert!(
                !kept.headers.contains_key("x-hop") && !kept.headers.contains_key("content-length")
            );
            assert_eq!(server.received_requests().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_failed_status_keeps_its_answer_and_says_what_the_upstream_said() {
        let server =
            RecordingServer::start(|_| async { test_response(503, "{\"detail\": \"down\"}") })
                .await;
        let failure = test_upstream_handler(vec![server.url()])
            .handle(&test_attempt(captured_task(&[])))
            .await
            .expect_err("failed");
        assert_eq!(failure.kind, FailureKind::FailedStatus);
        assert!(
            failure.message.contains("503") && failure.message.contains("\"down\""),
            "{}",
            failure.message
        );
        let kept = failure.answer.expect("the answer");
        assert_eq!(
            (kept.status, kept.body.as_ref()),
            (Some(StatusCode::SERVICE_UNAVAILABLE), &b"{\"detail\": \"down\"}"[..])
        );
    }

    #[tokio::test]
    async fn a_server_that_refuses_the_connection_is_passed_over() {
        let server = RecordingServer::start(|_| async { test_response(200, "ok") }).await;
        let closed = local_url(closed_port());
        test_upstream_handler(vec![closed.clone(), server.url()])
            .handle(&test_attempt(captured_task(&[])))
            .await
            .expect("completed");
        assert_eq!(server.received_requests().len(), 1);
        let failure = test_upstream_handler(vec![closed.clone()])
            .handle(&test_attempt(captured_task(&[])))
            .await
            .expect_err("nobody there");
        assert_eq!(failure.kind, FailureKind::Unreachable);
        assert!(failure.message.contains(&closed.to_string()), "{}", failure.message);
    }

    #[tokio::test]
    async fn an_answer_over_the_limit_is_a_result_failure_that_names_the_key() {
        for chunked in [false, true] {
            let server = RecordingServer::start(move |_| async move {
                let pieces = (0..3).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 500])));
                if chunked {
                    test_response(200, Body::from_stream(futures_util::stream::iter(pieces)))
                } else {
                    test_response(200, vec![b'x'; 1500])
                }
            })
            .await;
            let failure = test_upstream_handler(vec![server.url()])
                .handle(&test_attempt(captured_task(&[])))
                .await
                .expect_err("too large");
            assert_eq!(failure.kind, FailureKind::UnusableResult);
            assert!(
                failure.message.contains("1024") && failure.message.contains("results.max_result"),
                "{failure:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_after_sending_is_a_failed_attempt_and_nothing_is_sent_again()
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let connections = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.expect("a connection");
            let _ = peer.read(&mut [0; 4096]).await;
            drop(peer);
            let again = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
            1 + u32::from(again.is_ok())
        });
        let server = RecordingServer::start(|_| async { test_response(200, "ok") }).await;
        let failure = test_upstream_handler(vec![local_url(port), server.url()])
            .handle(&test_attempt(captured_task(&[])))
            .await
            .expect_err("broken");
        assert_eq!(failure.kind, FailureKind::BrokenExchange, "{failure:?}");
        assert_eq!((connections.await.expect("joined"), server.received_requests().len()), (1, 0));
    }

    /// Answers one connection with these bytes, and then leaves it open.
    async fn serve_raw_bytes(answer: String) -> UpstreamUrl {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.expect("a connection");
            let _ = peer.read(&mut [0; 4096]).await;
            let _ = peer.write_all(answer.as_bytes()).await;
            let _ = peer.read(&mut [0; 1]).await;
        });
        local_url(port)
    }

    #[tokio::test]
    async fn an_answer_whose_end_is_in_doubt_is_none() {
        let chunks = "\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for head in [
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked",
            "HTTP/1.1 503 Down\r\ntransfer-encoding: chunked\r\ncontent-length: 3",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket",
        ] {
            let url = serve_raw_bytes(format!("{head}{chunks}")).await;
            let failure = test_upstream_handler(vec![url])
                .handle(&test_attempt(captured_task(&[])))
                .await
                .expect_err(head);
            assert_eq!(
                (failure.kind, &failure.answer),
                (FailureKind::BrokenExchange, &None),
                "{head}: {failure:?}"
            );
        }
        let url =
            serve_raw_bytes(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked{chunks}")).await;
        let kept = test_upstream_handler(vec![url])
            .handle(&test_attempt(captured_task(&[])))
            .await
            .expect("a plain chunked answer");
        assert_eq!(kept.body, "abc");
    }

    #[tokio::test]
    async fn some_informational_answers_are_passed_over_and_a_flood_of_them_is_a_failed_attempt() {
        let hints = |count| "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(count);
        let url =
            serve_raw_bytes(format!("{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", hints(20)))
                .await;
        let kept = test_upstream_handler(vec![url])
            .handle(&test_attempt(captured_task(&[])))
            .await
            .expect("completed");
        assert_eq!(kept.body, "ok");
        // No final answer comes: without a limit the attempt would wait for its deadline.
        let failure = test_upstream_handler(vec![serve_raw_bytes(hints(1000)).await])
            .handle(&test_attempt(captured_task(&[])))
            .await
            .expect_err("a flood");
        assert_eq!(failure.kind, FailureKind::BrokenExchange, "{failure:?}");
        assert!(failure.message.contains("informational"), "{}", failure.message);
    }

    #[tokio::test]
    async fn deadlines_and_cancellation_end_an_attempt_that_hangs() {
        let server = RecordingServer::start(|_| std::future::pending()).await;
        let short = Duration::from_millis(50);
        let mut handler = test_upstream_handler(vec![server.url()]);
        let late = TaskAttempt::new(captured_task(&[]), 1, short, CancellationToken::new());
        let failure = handler.handle(&late).await.expect_err("late");
        assert_eq!(failure.kind, FailureKind::Deadline);
        assert!(failure.message.contains("topics.t.timeout"), "{}", failure.message);
        let cancelled = test_attempt(captured_task(&[]));
        cancelled.cancelled.cancel();
        assert!(handler.handle(&cancelled).await.is_err());
        handler.first_byte_timeout = Some(short);
        let failure =
            handler.handle(&test_attempt(captured_task(&[]))).await.expect_err("no first byte");
        assert_eq!(failure.kind, FailureKind::Deadline);
        assert!(failure.message.contains("upstream.timeout"), "{}", failure.message);
    }
}
