//! Replays the captured request to the legacy upstream, and keeps the answer as it was.
//!
//! The upstream sees what it would have seen on the sync path (method, target, end-to-end headers, body),
//! plus an idempotency key and the attempt's number. A task without a request is posted to its route's path.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use super::client::{Client, Trouble, end_to_end, judge, send};
use super::{Attempt, Handler, IDEMPOTENCY_KEY};
use crate::config::UpstreamUrl;
use crate::task::{Answer, Failure, FailureKind};

/// The `upstream` handler.
pub(super) struct Upstream {
    pub(super) client: Client,
    /// The servers, the first to be tried first.
    pub(super) urls: Vec<UpstreamUrl>,
    /// The longest until the first byte of an answer.
    pub(super) timeout: Option<Duration>,
    /// The largest answer that is read, bytes; one over `results.max_result` is not kept.
    pub(super) largest: usize,
    /// Where a task without a captured request goes; else the pattern that names no single path.
    pub(super) path: Result<String, String>,
}

/// What is sent, whichever server gets it.
struct Replay<'a> {
    method: Method,
    target: &'a str,
    headers: HeaderMap,
    body: Bytes,
}

// === impl Upstream ===

#[async_trait]
impl Handler for Upstream {
    async fn handle(&self, attempt: &Attempt) -> Result<Answer, Failure> {
        let replay = self.replay(attempt)?;
        attempt.within(self.send(&replay)).await
    }
}

impl Upstream {
    fn replay<'a>(&'a self, attempt: &'a Attempt) -> Result<Replay<'a>, Failure> {
        let mut replay = match &attempt.task.request {
            Some(request) => Replay {
                method: request.method.clone(),
                target: &request.target,
                headers: end_to_end(&request.headers),
                body: request.body.clone(),
            },
            None => Replay {
                method: Method::POST,
                target: self.path.as_ref().map_err(|pattern| no_single_path(attempt, pattern))?,
                headers: HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]),
                body: attempt.task.payload.clone(),
            },
        };
        if !replay.body.is_empty() || replay.method == Method::POST {
            replay.headers.insert(header::CONTENT_LENGTH, replay.body.len().into());
        }
        replay.headers.insert(IDEMPOTENCY_KEY, attempt.idempotency_key());
        replay.headers.insert("x-omnidaemon-attempt", attempt.number.into());
        Ok(replay)
    }

    /// Sends to each server in turn until one was reached.
    async fn send(&self, replay: &Replay<'_>) -> Result<Answer, Failure> {
        let mut unreached = Vec::new();
        for url in &self.urls {
            match send(&self.client, replay.to(url)?, self.timeout).await {
                Ok(response) => return judge(response, self.largest, verbatim).await.map_err(|f| named(url, f)),
                Err(Trouble::Failed(failure)) => return Err(named(url, failure)),
                Err(Trouble::NotSent(reason)) => {
                    tracing::debug!(%url, reason, "upstream not reached");
                    unreached.push(format!("{url}: {reason}"));
                }
            }
        }
        Err(Failure::new(FailureKind::Unreachable, format!("cannot reach the upstream {}", unreached.join(", "))))
    }
}

fn no_single_path(attempt: &Attempt, pattern: &str) -> Failure {
    let topic = &attempt.task.topic;
    let message = format!(
        "a task of {topic} that no request was captured for has no single path to go to: its route's is {pattern}; \
         give the topic a route without {{segments}}, or an http handler"
    );
    Failure::new(FailureKind::Malformed, message)
}

/// Says whose failure it is, but where the message goes on to clients as it is.
fn named(url: &UpstreamUrl, failure: Failure) -> Failure {
    if matches!(failure.kind, FailureKind::Deadline | FailureKind::Result) {
        tracing::info!(%url, error = failure.message, "no usable answer from the upstream");
        return failure;
    }
    Failure { message: format!("upstream {url}: {}", failure.message), ..failure }
}

fn verbatim(head: &http::response::Parts, body: Bytes) -> Answer {
    Answer { status: Some(head.status), headers: end_to_end(&head.headers), body, verbatim: true }
}

// === impl Replay ===

impl Replay<'_> {
    /// The request for one server. The client's own Host goes along, as on the sync path.
    fn to(&self, url: &UpstreamUrl) -> Result<Request<Full<Bytes>>, Failure> {
        let unsendable = |error: http::Error| {
            Failure::new(FailureKind::Malformed, format!("{} is no request target: {error}", self.target))
        };
        let uri = Uri::builder()
            .scheme(if url.tls { "https" } else { "http" })
            .authority(url.authority())
            .path_and_query(self.target)
            .build()
            .map_err(unsendable)?;
        let mut request =
            Request::builder().method(&self.method).uri(uri).body(Full::new(self.body.clone())).map_err(unsendable)?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{CapturedRequest, Task};
    use crate::worker::handler::client::Clients;
    use crate::worker::testing::{Server, attempt, closed_port, task};
    use axum::body::Body;
    use axum::response::Response;
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::sync::CancellationToken;

    fn handler(urls: Vec<UpstreamUrl>) -> Upstream {
        let client = Clients::default().get(Duration::from_secs(5));
        Upstream { client, urls, timeout: None, largest: 1024, path: Ok("/invoke".into()) }
    }

    fn at(port: u16) -> UpstreamUrl {
        UpstreamUrl { tls: false, host: "127.0.0.1".into(), port }
    }

    fn captured(headers: &[(&'static str, &str)]) -> Task {
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
        Task { request: Some(request), ..task(1, "t", "{}") }
    }

    fn answer(status: u16, body: impl Into<Body>) -> Response {
        Response::builder().status(status).body(body.into()).expect("a response")
    }

    #[tokio::test]
    async fn the_captured_request_is_replayed_as_it_was() {
        let server = Server::start(|_| async { answer(200, "ok") }).await;
        let given = captured(&[
            ("host", "legacy.example"),
            ("authorization", "Bearer s"),
            ("x-twice", "1"),
            ("x-twice", "2"),
            ("content-length", "10"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ]);
        let id = given.id.clone();
        let attempt = Attempt { number: 2, ..attempt(given) };
        handler(vec![server.url()]).handle(&attempt).await.expect("completed");
        let seen = server.seen().remove(0);
        assert_eq!((seen.head.method.as_str(), seen.head.uri.to_string().as_str()), ("PUT", "/legacy/x%20y?a=1&a=2"));
        assert_eq!(seen.body, Bytes::from_static(b"\xff not json"));
        let header = |name: &str| {
            let values = seen.head.headers.get_all(name).iter().map(|value| value.to_str().expect("text"));
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
        let server = Server::start(|_| async { answer(200, "ok") }).await;
        let attempt = attempt(captured(&[("idempotency-key", "mine")]));
        handler(vec![server.url()]).handle(&attempt).await.expect("completed");
        let keys = server.seen().remove(0).head.headers.get_all("idempotency-key").iter().cloned().collect::<Vec<_>>();
        assert_eq!(keys, ["mine"]);
    }

    #[tokio::test]
    async fn a_task_without_a_request_is_posted_to_the_routes_path_or_fails_by_the_patterns_name() {
        let server = Server::start(|_| async { answer(200, "ok") }).await;
        let attempt = attempt(task(1, "t", "{\"a\":1}"));
        let mut handler = handler(vec![server.url()]);
        handler.handle(&attempt).await.expect("completed");
        let seen = server.seen().remove(0);
        assert_eq!(format!("{} {}", seen.head.method, seen.head.uri), "POST /invoke");
        assert_eq!(
            (seen.head.headers["content-type"].as_bytes(), seen.body),
            (&b"application/json"[..], "{\"a\":1}".into())
        );
        handler.path = Err("/agents/{agent}/invoke".into());
        let failure = handler.handle(&attempt).await.expect_err("no path");
        assert!(failure.message.contains("/agents/{agent}/invoke") && !failure.is_retryable(), "{failure:?}");
    }

    #[tokio::test]
    async fn an_answer_is_kept_as_it_was_and_no_redirect_is_followed() {
        for status in [201, 302, 404] {
            let server = Server::start(move |_| async move {
                let head = Response::builder().status(status).header("location", "/next").header("set-cookie", "a=1");
                let head = head.header("set-cookie", "b=2").header("connection", "x-hop").header("x-hop", "1");
                head.body(Body::from(&b"\x00\xff"[..])).expect("a response")
            })
            .await;
            let kept = handler(vec![server.url()]).handle(&attempt(captured(&[]))).await.expect("completed");
            assert_eq!((kept.status.map(|s| s.as_u16()), kept.verbatim), (Some(status), true));
            assert_eq!(kept.body, Bytes::from_static(b"\x00\xff"));
            assert_eq!(kept.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
            assert!(!kept.headers.contains_key("x-hop") && !kept.headers.contains_key("content-length"));
            assert_eq!(server.seen().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_failed_status_keeps_its_answer_and_says_what_the_upstream_said() {
        let server = Server::start(|_| async { answer(503, "{\"detail\": \"down\"}") }).await;
        let failure = handler(vec![server.url()]).handle(&attempt(captured(&[]))).await.expect_err("failed");
        assert_eq!(failure.kind, FailureKind::Status);
        assert!(failure.message.contains("503") && failure.message.contains("\"down\""), "{}", failure.message);
        let kept = failure.answer.expect("the answer");
        assert_eq!(
            (kept.status, kept.body.as_ref()),
            (Some(StatusCode::SERVICE_UNAVAILABLE), &b"{\"detail\": \"down\"}"[..])
        );
    }

    #[tokio::test]
    async fn a_server_that_refuses_the_connection_is_passed_over() {
        let server = Server::start(|_| async { answer(200, "ok") }).await;
        let closed = at(closed_port());
        handler(vec![closed.clone(), server.url()]).handle(&attempt(captured(&[]))).await.expect("completed");
        assert_eq!(server.seen().len(), 1);
        let failure = handler(vec![closed.clone()]).handle(&attempt(captured(&[]))).await.expect_err("nobody there");
        assert_eq!(failure.kind, FailureKind::Unreachable);
        assert!(failure.message.contains(&closed.to_string()), "{}", failure.message);
    }

    #[tokio::test]
    async fn an_answer_over_the_limit_is_a_result_failure_that_names_the_key() {
        for chunked in [false, true] {
            let server = Server::start(move |_| async move {
                let pieces = (0..3).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 500])));
                if chunked {
                    answer(200, Body::from_stream(futures_util::stream::iter(pieces)))
                } else {
                    answer(200, vec![b'x'; 1500])
                }
            })
            .await;
            let failure = handler(vec![server.url()]).handle(&attempt(captured(&[]))).await.expect_err("too large");
            assert_eq!(failure.kind, FailureKind::Result);
            assert!(failure.message.contains("1024") && failure.message.contains("results.max_result"), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_after_sending_is_a_failed_attempt_and_nothing_is_sent_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let connections = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.expect("a connection");
            let _ = peer.read(&mut [0; 4096]).await;
            drop(peer);
            let again = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
            1 + u32::from(again.is_ok())
        });
        let server = Server::start(|_| async { answer(200, "ok") }).await;
        let failure = handler(vec![at(port), server.url()]).handle(&attempt(captured(&[]))).await.expect_err("broken");
        assert_eq!(failure.kind, FailureKind::Broken, "{failure:?}");
        assert_eq!((connections.await.expect("joined"), server.seen().len()), (1, 0));
    }

    /// Answers one connection with these bytes, and then leaves it open.
    async fn saying(answer: String) -> UpstreamUrl {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.expect("a connection");
            let _ = peer.read(&mut [0; 4096]).await;
            let _ = peer.write_all(answer.as_bytes()).await;
            let _ = peer.read(&mut [0; 1]).await;
        });
        at(port)
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
            let url = saying(format!("{head}{chunks}")).await;
            let failure = handler(vec![url]).handle(&attempt(captured(&[]))).await.expect_err(head);
            assert_eq!((failure.kind, &failure.answer), (FailureKind::Broken, &None), "{head}: {failure:?}");
        }
        let url = saying(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked{chunks}")).await;
        let kept = handler(vec![url]).handle(&attempt(captured(&[]))).await.expect("a plain chunked answer");
        assert_eq!(kept.body, "abc");
    }

    #[tokio::test]
    async fn some_informational_answers_are_passed_over_and_a_flood_of_them_is_a_failed_attempt() {
        let hints = |count| "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(count);
        let url = saying(format!("{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", hints(20))).await;
        let kept = handler(vec![url]).handle(&attempt(captured(&[]))).await.expect("completed");
        assert_eq!(kept.body, "ok");
        // No final answer comes: without a limit the attempt would wait for its deadline.
        let failure =
            handler(vec![saying(hints(1000)).await]).handle(&attempt(captured(&[]))).await.expect_err("a flood");
        assert_eq!(failure.kind, FailureKind::Broken, "{failure:?}");
        assert!(failure.message.contains("informational"), "{}", failure.message);
    }

    #[tokio::test]
    async fn deadlines_and_cancellation_end_an_attempt_that_hangs() {
        let server = Server::start(|_| std::future::pending()).await;
        let short = Duration::from_millis(50);
        let mut handler = handler(vec![server.url()]);
        let late = Attempt::new(captured(&[]), 1, short, CancellationToken::new());
        let failure = handler.handle(&late).await.expect_err("late");
        assert_eq!(failure.kind, FailureKind::Deadline);
        assert!(failure.message.contains("topics.t.timeout"), "{}", failure.message);
        let cancelled = attempt(captured(&[]));
        cancelled.cancelled.cancel();
        assert!(handler.handle(&cancelled).await.is_err());
        handler.timeout = Some(short);
        let failure = handler.handle(&attempt(captured(&[]))).await.expect_err("no first byte");
        assert_eq!(failure.kind, FailureKind::Deadline);
        assert!(failure.message.contains("upstream.timeout"), "{}", failure.message);
    }
}
