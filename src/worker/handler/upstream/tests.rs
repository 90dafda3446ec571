//! The upstream handler against real servers.

use super::*;
use crate::task::{CapturedRequest, Task};
use crate::worker::handler::http_client::HandlerClientCache;
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
        default_path: DefaultPath::Single("/invoke".into()),
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
    let mut attempt = test_attempt(given);
    attempt.number = 2;
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
async fn a_task_without_a_request_is_posted_to_its_routes_path_or_the_failure_names_the_pattern() {
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
    handler.default_path = DefaultPath::Pattern("/agents/{agent}/invoke".into());
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
            let head =
                head.header("set-cookie", "b=2").header("connection", "x-hop").header("x-hop", "1");
            head.body(Body::from(&b"\x00\xff"[..])).expect("a response")
        })
        .await;
        let kept = test_upstream_handler(vec![server.url()])
            .handle(&test_attempt(captured_task(&[])))
            .await
            .expect("completed");
        assert_eq!((kept.status.map(|s| s.as_u16()), kept.verbatim), (Some(status), true));
        assert_eq!(kept.body, Bytes::from_static(b"\x00\xff"));
        assert_eq!(kept.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert!(
            !kept.headers.contains_key("x-hop") && !kept.headers.contains_key("content-length")
        );
        assert_eq!(server.received_requests().len(), 1);
    }
}

#[tokio::test]
async fn a_failed_status_keeps_its_answer_and_quotes_it() {
    let server =
        RecordingServer::start(|_| async { test_response(503, "{\"detail\": \"down\"}") }).await;
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
        .expect_err("no server is there");
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
    let server = RecordingServer::start(|_| async { test_response(200, "ok") }).await;
    let failure = test_upstream_handler(vec![local_url(port), server.url()])
        .handle(&test_attempt(captured_task(&[])))
        .await
        .expect_err("broken");
    assert_eq!(failure.kind, FailureKind::BrokenExchange, "{failure:?}");
    assert_eq!((connections.await.expect("joined"), server.received_requests().len()), (1, 0));
}

/// Answers one connection with these bytes, and keeps it open.
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
async fn an_answer_with_an_ambiguous_end_is_refused() {
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
