//! Clients and upstreams that do what they should not: each is told what it did, and nobody else
//! notices.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::time::timeout;

use crate::support::http::client::{HttpResponse, RawConnection, exchange_raw};
use crate::support::http::fixed_response::{AfterResponse, FixedResponseServer};
use crate::support::scenario::{Scenario, scenario};
use crate::support::upstream::UpstreamRequest;
use crate::support::{TEST_DEADLINE, TestUpstream, wait_until};

/// A server with one thread before the upstream at `url`.
async fn start_before(url: &str, percent: u8) -> Scenario {
    scenario()
        .yaml("proxy.threads", 1)
        .yaml("proxy.drain", "3s")
        .upstream_url(url)
        .yaml("upstream.timeout", "2s")
        .wait("20s")
        .percent(percent)
        .workers(2)
        .yaml("workers.drain", "1s")
        .start()
        .await
}

/// The status of the answer that comes next on a connection.
async fn status(connection: &mut RawConnection) -> String {
    let head = connection.read_until(b"\r\n\r\n").await;
    String::from_utf8_lossy(&head[9..12]).into_owned()
}

#[tokio::test]
async fn a_stalled_upload_that_was_answered_holds_nobody_else_up() {
    let upstream = TestUpstream::start().await;
    let omni = start_before(&upstream.url(), 0).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut connection = RawConnection::open(&omni.data_address()).await;
        // FastAPI answers 405 without reading the body, most of which never comes.
        connection
            .send_bytes(b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nabc")
            .await;
        assert_eq!(status(&mut connection).await, "405");
        stalled.push(connection);
    }
    for _ in 0..30 {
        let answer = timeout(Duration::from_secs(2), omni.data_client().get("/echo")).await;
        assert_eq!(answer.expect("others are answered at once").status, 200);
    }
}

#[tokio::test]
async fn answers_that_could_be_read_two_ways_are_502() {
    for (what, answer) in [
        (
            "length and coding",
            &b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: \
                chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"[..],
        ),
        (
            "a coding that is not chunked",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "an unasked 101",
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: \
            foo\r\n\r\n",
        ),
        ("two lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nhello"),
        ("garbage", b"hello\r\n\r\n"),
    ] {
        let upstream = FixedResponseServer::start(answer, AfterResponse::KeepOpen).await;
        let omni = start_before(&upstream.url(), 0).await;
        let got = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
        assert_eq!(got.status, 502, "{what}: {}", got.text());
        assert_eq!(got.header("content-type"), Some("application/problem+json"), "{what}");
        assert_eq!(upstream.request_count(), 1, "{what}: a POST is sent once");
    }
}

#[tokio::test]
async fn a_clients_own_fault_is_not_the_upstreams() {
    let upstream = TestUpstream::start().await;
    let omni = start_before(&upstream.url(), 0).await;
    let head = "POST /invoke HTTP/1.1\r\nhost: x\r\ncontent-type: \
        application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    for chunk in ["zz\r\n", "5\nhello\r\n", "fffffffffffffffff\r\nx\r\n"] {
        let mut connection = RawConnection::open(&omni.data_address()).await;
        connection.send_bytes(format!("{head}{chunk}").as_bytes()).await;
        assert_eq!(status(&mut connection).await, "400", "{chunk:?}");
    }
    let code = |code| [("route", "invoke"), ("path", "sync"), ("code", code)];
    assert_eq!(omni.metric_value("omnidaemon_requests_total", &code("400")).await, 3.0);
    assert_eq!(omni.scrape_metrics().await.get("omnidaemon_requests_total", &code("502")), None);
}

#[tokio::test]
async fn the_first_byte_is_waited_for_from_the_end_of_the_upload() {
    let upstream = TestUpstream::start().await;
    let omni = start_before(&upstream.url(), 0).await;
    let mut connection = RawConnection::open(&omni.data_address()).await;
    connection.send_bytes(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n").await;
    for byte in [b"a", b"b", b"c", b"d", b"e", b"f"] {
        // 3.6 s in all, and the timeout is 2 s
        tokio::time::sleep(Duration::from_millis(600)).await;
        connection.send_bytes(byte).await;
    }
    assert_eq!(status(&mut connection).await, "200");
}

#[tokio::test]
async fn what_is_refused_closes_its_connection() {
    let upstream = TestUpstream::start().await;
    let omni = start_before(&upstream.url(), 0).await;
    for refused in [
        "GET /echo HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let request =
            format!("{refused}GET /echo/smuggled HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answers =
            String::from_utf8_lossy(&exchange_raw(&omni.data_address(), request.as_bytes()).await)
                .into_owned();
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    }
    assert_eq!(upstream.fetch_requests().await.requests.len(), 0);
}

#[tokio::test]
async fn a_stale_connection_costs_a_get_nothing_and_a_post_is_never_sent_twice() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let upstream = FixedResponseServer::start(answer, AfterResponse::CloseOnNextRequest).await;
    let omni = start_before(&upstream.url(), 0).await;
    for _ in 0..6 {
        assert_eq!(omni.data_client().get("/x").await.status, 200);
    }
    let before_posts = upstream.request_count();
    for _ in 0..6 {
        let post = omni.data_client().post("/x", &json!({})).await;
        assert!(post.status == 200 || post.status == 502, "{}", post.status);
    }
    assert_eq!(upstream.request_count() - before_posts, 6, "each POST arrived once");
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_and_its_task_goes_on() {
    let upstream = TestUpstream::start().await;
    for (percent, path) in [(0, "sync"), (100, "async")] {
        let omni = start_before(&upstream.url(), percent).await;
        upstream.clear_requests().await;
        let body = json!({"task": "t", "arguments": {"sleep_ms": 1500}}).to_string();
        let mut connection = RawConnection::open(&omni.data_address()).await;
        let head = format!(
            "POST /invoke HTTP/1.1\r\nhost: x\r\ncontent-type: \
                application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.send_bytes(format!("{head}{body}").as_bytes()).await;
        wait_until(TEST_DEADLINE, "the upstream has it", async || {
            !upstream.fetch_requests().await.requests.is_empty()
        })
        .await;
        drop(connection);
        wait_until(TEST_DEADLINE, "the client that left is counted", async || {
            let labels = [("route", "invoke"), ("path", path), ("code", "499")];
            omni.scrape_metrics().await.get("omnidaemon_requests_total", &labels) == Some(1.0)
        })
        .await;
        if path == "async" {
            wait_until(TEST_DEADLINE, "its task completes", async || {
                omni.metric_value("omnidaemon_tasks_processed_total", &[("topic", "t")]).await
                    == 1.0
            })
            .await;
        }
    }
}

#[tokio::test]
async fn strangers_say_nothing_about_where_they_come_from() {
    let upstream = TestUpstream::start().await;
    let omni = start_before(&upstream.url(), 0).await;
    let request = omni.data_client().request(Method::GET, "/echo");
    let request = request
        .header("x-real-ip", "1.1.1.1")
        .header("x-forwarded-prefix", "/x")
        .header("x_real_ip", "1.1.1.1");
    let request = request.header("x-omnidaemon-attempt", "9").header("x-omnidaemon-path", "async");
    let echo = HttpResponse::from_request(
        request.header("connection", "x-api-key").header("x-api-key", "k"),
    )
    .await
    .json();
    let names: Vec<&str> = echo["headers"]
        .as_array()
        .expect("headers")
        .iter()
        .filter_map(|pair| pair[0].as_str())
        .collect();
    for gone in [
        "x-real-ip",
        "x-forwarded-prefix",
        "x_real_ip",
        "x-omnidaemon-attempt",
        "x-omnidaemon-path",
    ] {
        assert!(!names.contains(&gone), "{gone} in {names:?}");
    }
    assert!(names.contains(&"x-api-key"), "an API key is never dropped: {names:?}");
}

#[tokio::test]
async fn cookies_that_http2_split_arrive_as_one() {
    let upstream = TestUpstream::start().await;
    let omni = start_before(&upstream.url(), 0).await;
    let client =
        reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    let request = client
        .get(omni.data_url("/echo"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("cookie", "c=3");
    let echo: serde_json::Value =
        request.send().await.expect("an answer").json().await.expect("JSON");
    let cookies: Vec<_> = echo["headers"]
        .as_array()
        .expect("headers")
        .iter()
        .filter(|pair| pair[0] == "cookie")
        .collect();
    assert_eq!(cookies, [&json!(["cookie", "a=1; b=2; c=3"])]);
}

#[tokio::test]
async fn half_a_head_on_the_admin_port_does_not_hold_up_an_exit() {
    let upstream = TestUpstream::start().await;
    let mut omni = start_before(&upstream.url(), 0).await;
    let admin = omni.admin_url("").trim_start_matches("http://").to_owned();
    let mut connection = RawConnection::open(&admin).await;
    connection.send_bytes(b"GET / HT").await;
    omni.send_sigterm();
    assert!(omni.wait_for_exit().await.success());
}

/// A complete request that must not be seen by the upstream, and that a lenient parser finds in
/// `/pay`'s body.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_request_cannot_be_smuggled_past_the_framing_check() {
    let upstream = TestUpstream::start().await;
    let pay = format!(
        "POST /pay HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{HIDDEN}",
        HIDDEN.len()
    );
    let invoke = "POST /invoke HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let chunked = format!("{invoke}transfer-encoding: chunked\r\n\r\n");
    let both = format!("{invoke}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    let reverse =
        format!("{invoke}transfer-encoding: chunked\r\ncontent-length: nonsense\r\n\r\n0\r\n\r\n");
    for percent in [0, 100] {
        let omni = start_before(&upstream.url(), percent).await;
        for start in [
            &format!("{chunked}1\r\n1\r\n0\r\n\n"),
            &format!("{chunked}1\r\n1\r\n0\r\nx-trailer: y\n\r\n"),
            &format!("{chunked}1;ext\n1\r\n0\r\n\r\n"),
            &format!("{chunked}1\r\n1\n0\r\n\r\n"),
            &both,
            &reverse,
            &format!("{invoke}x-a: b\ncontent-length: 1\r\n\r\n1"),
            &format!("{invoke}content-length: 1\r\n\n1"),
            &format!("\n{invoke}content-length: 1\r\n\r\n1"),
        ] {
            let answers =
                exchange_raw(&omni.data_address(), format!("{start}{pay}").as_bytes()).await;
            let answers = String::from_utf8_lossy(&answers).into_owned();
            assert!(answers.starts_with("HTTP/1.1 400 "), "{percent} %, {start:?}: {answers}");
            assert!(
                answers.contains("application/problem+json"),
                "{percent} %, {start:?}: {answers}"
            );
            assert_eq!(
                answers.matches("HTTP/1.1 ").count(),
                1,
                "{percent} %, {start:?}: {answers}"
            );
        }
        let counted =
            omni.scrape_metrics().await.value("omnidaemon_requests_total", &[("code", "400")]);
        assert_eq!(counted, 9.0, "each refusal is counted");
        assert_eq!(
            omni.metric_value("omnidaemon_tasks_received_total", &[("topic", "t")]).await,
            0.0
        );
    }
    // A chunked body streams through the sync path until its fault: the upstream has the head of
    // that request at most.
    let arrived = upstream.fetch_requests().await.requests;
    let incomplete =
        |request: &UpstreamRequest| request.path == "/invoke" && request.status != Some(200);
    assert!(arrived.iter().all(incomplete), "{arrived:?}");
}

#[tokio::test]
async fn a_refused_head_is_answered_after_the_requests_before_it() {
    let upstream = TestUpstream::start().await;
    let omni = start_before(&upstream.url(), 0).await;
    let good = "GET /echo HTTP/1.1\r\nhost: x\r\n\r\n";
    let answers = exchange_raw(
        &omni.data_address(),
        format!("{good}{good}GET /echo HTTP/1.1\r\nhost: x\n\r\n{good}").as_bytes(),
    )
    .await;
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let statuses: Vec<&str> =
        answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{answers}");
}

#[tokio::test]
async fn a_request_behind_a_declined_upgrade_is_checked() {
    let upstream = TestUpstream::start().await;
    let omni = start_before(&upstream.url(), 0).await;
    let ask = "GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n";
    for (next, status) in [("\r\n", "200"), ("\n", "400")] {
        let next = format!("{ask}GET /echo HTTP/1.1\r\nhost: x\r\nconnection: close{next}\r\n");
        let answers = exchange_raw(&omni.data_address(), next.as_bytes()).await;
        let answers = String::from_utf8_lossy(&answers).into_owned();
        let statuses: Vec<&str> =
            answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["200", status], "{answers}");
    }
}
