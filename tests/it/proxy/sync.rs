//! The sync path: what a client sends is what the upstream gets, and back.

use http::Method;
use serde_json::{Value, json};

use crate::support::http::client::{HttpResponse, RawConnection, exchange_raw};
use crate::support::http::websocket::WebSocketClient;
use crate::support::scenario::{Scenario, scenario};
use crate::support::{TEST_DEADLINE, TestUpstream, wait_until};

async fn start() -> Scenario {
    scenario().workers(0).start().await
}

/// The values that the upstream got for a header, in an answer of its `/echo`.
fn got<'a>(echo: &'a Value, name: &str) -> Vec<&'a str> {
    let pairs = echo["headers"].as_array().expect("headers");
    pairs.iter().filter(|pair| pair[0] == name).filter_map(|pair| pair[1].as_str()).collect()
}

#[tokio::test]
async fn answers_pass_through_as_they_are() {
    let omni = start().await;
    for (arguments, status) in [
        (
            json!({"status": 201, "headers": [["x-a", "1"], ["x-a", "2"], ["set-cookie", "a=b"]]}),
            201,
        ),
        (json!({"status": 418, "body": "teapot"}), 418),
        (json!({"status": 503}), 503),
    ] {
        let call = json!({"task": "t", "arguments": arguments});
        let (direct, through) = (
            omni.upstream().client().post("/invoke", &call).await,
            omni.data_client().post("/invoke", &call).await,
        );
        assert_eq!(through.status.as_u16(), status);
        let plain = |answer: &HttpResponse| {
            answer.text().split("execution_time_ms").next().map(str::to_owned)
        };
        assert_eq!(plain(&through), plain(&direct));
        let all = |answer: &HttpResponse, name| {
            answer.headers.get_all(name).iter().cloned().collect::<Vec<_>>()
        };
        for name in ["x-a", "set-cookie", "content-type", "server"] {
            assert_eq!(all(&through, name), all(&direct, name), "{name}");
        }
        assert_eq!(through.header("x-omnidaemon-path"), Some("sync"));
        assert!(through.header("x-request-id").is_some());
    }
    let bad = omni.data_client().post("/invoke", &json!({"no": "task"})).await;
    assert_eq!((bad.status.as_u16(), bad.header("x-omnidaemon-path")), (422, Some("sync")));
}

#[tokio::test]
async fn method_path_query_headers_and_body_arrive() {
    let omni = start().await;
    let request = omni
        .data_client()
        .request(Method::PUT, "/echo/a%20b/%C3%A9?x=1&y=%2F")
        .body(vec![0u8, 255, 10]);
    let request = request
        .header("x-custom", "1")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-request-id", "mine");
    let echo = HttpResponse::from_request(request).await.json();
    assert_eq!(
        (&echo["method"], &echo["path"], &echo["query"]),
        (&json!("PUT"), &json!("/echo/a%20b/%C3%A9"), &json!("x=1&y=%2F"))
    );
    assert_eq!(echo["body"], "AP8K");
    assert_eq!(got(&echo, "x-custom"), ["1"]);
    assert_eq!(got(&echo, "x-forwarded-for"), ["127.0.0.1"], "a stranger's claim is replaced");
    assert_eq!(got(&echo, "x-forwarded-host"), [omni.data_address()]);
    assert_eq!(got(&echo, "host"), [omni.data_address()]);
    assert_eq!(got(&echo, "x-request-id"), ["mine"]);
    assert!(got(&echo, "via")[0].starts_with("1.1 "));
    assert!(got(&echo, "forwarded")[0].starts_with("for=127.0.0.1"));
}

#[tokio::test]
async fn bodies_stream_in_both_directions() {
    let omni = start().await;
    let mut connection = RawConnection::open(&omni.data_address()).await;
    connection.send_bytes(b"GET /stream?n=3&ms=300 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    connection.read_until(b"line 0\n").await;
    let seen = omni.upstream().fetch_requests().await;
    assert_eq!(seen.requests.len(), 1, "the first line is here while the upstream still sends");
    connection.read_until(b"line 2\n").await;

    let big =
        HttpResponse::from_request(omni.data_client().request(Method::GET, "/big?bytes=5000000"))
            .await;
    assert_eq!((big.body.len(), big.header("content-length")), (5_000_000, Some("5000000")));
    let chunked = HttpResponse::from_request(
        omni.data_client().request(Method::GET, "/big?bytes=3000000&chunked=true"),
    )
    .await;
    assert_eq!(chunked.body.len(), 3_000_000);

    connection
        .send_bytes(
            b"POST /upload HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        )
        .await;
    connection.send_bytes(b"6\r\n world\r\n0\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&connection.read_until(b"}").await).contains("\"size\":11"));
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_told_apart_from_one_that_ends() {
    let omni = start().await;
    let before = omni
        .data_client()
        .post("/invoke", &json!({"task": "t", "arguments": {"die": "before"}}))
        .await;
    assert_eq!(before.status, 502);
    assert_eq!(before.header("content-type"), Some("application/problem+json"));
    assert_eq!(before.json()["type"], "urn:omnidaemon:problem:upstream-broke-off");

    let within = omni
        .data_client()
        .request(Method::POST, "/invoke")
        .json(&json!({"task": "t", "arguments": {"die": "body"}}));
    assert!(
        HttpResponse::try_from_request(within).await.is_err(),
        "half a body must not look like a whole one"
    );
    let seen = omni.upstream().fetch_requests().await;
    assert_eq!(seen.requests.len(), 2, "a POST is never sent twice");
}

#[tokio::test]
async fn timeouts_and_refusals_say_which() {
    let mut omni = scenario()
        .workers(0)
        .yaml("upstream.connect_timeout", "300ms")
        .yaml("upstream.timeout", "300ms")
        .start()
        .await;
    let slow = omni
        .data_client()
        .post("/invoke", &json!({"task": "t", "arguments": {"sleep_ms": 5000}}))
        .await;
    assert_eq!(
        (slow.status.as_u16(), slow.json()["type"].as_str()),
        (504, Some("urn:omnidaemon:problem:upstream-timeout"))
    );
    omni.upstream_mut().stop();
    let gone = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    assert_eq!(
        (gone.status.as_u16(), gone.json()["type"].as_str()),
        (502, Some("urn:omnidaemon:problem:upstream-unreachable"))
    );
}

#[tokio::test]
async fn several_servers_share_and_a_dead_one_is_skipped() {
    let (one, mut two) = (TestUpstream::start().await, TestUpstream::start().await);
    let omni = scenario().workers(0).upstreams(&[&one, &two]).start().await;
    for _ in 0..12 {
        assert_eq!(omni.data_client().post("/invoke", &json!({"task": "t"})).await.status, 200);
    }
    assert!(
        !one.fetch_requests().await.requests.is_empty()
            && !two.fetch_requests().await.requests.is_empty()
    );
    two.stop();
    for _ in 0..12 {
        assert_eq!(omni.data_client().post("/invoke", &json!({"task": "t"})).await.status, 200);
    }
}

#[tokio::test]
async fn websockets_pass_and_other_upgrades_do_not() {
    let omni = start().await;
    let (mut socket, head) = WebSocketClient::open(&omni.data_address(), "/ws").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    socket.send_text("hello").await;
    assert_eq!(socket.next_text().await, "hello");
    socket.close().await;

    let h2c =
        b"GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n\r\n";
    let answer =
        String::from_utf8_lossy(&exchange_raw(&omni.data_address(), h2c).await).into_owned();
    assert!(
        answer.starts_with("HTTP/1.1 200") && !answer.to_lowercase().contains("[\"upgrade\""),
        "{answer}"
    );
}

#[tokio::test]
async fn cleartext_http2_is_served() {
    let omni = start().await;
    let client =
        reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    let calls =
        (0..20).map(|n| client.post(omni.data_url(&format!("/echo?n={n}"))).body("x").send());
    for response in futures_util::future::join_all(calls).await {
        let response = response.expect("an answer");
        assert_eq!((response.version(), response.status().as_u16()), (http::Version::HTTP_2, 200));
        let echo: Value = response.json().await.expect("JSON");
        assert_eq!((&echo["http_version"], &echo["body"]), (&json!("1.1"), &json!("eA==")));
        assert_eq!(got(&echo, "host"), [omni.data_address()]);
    }
}

#[tokio::test]
async fn what_could_be_read_two_ways_is_refused() {
    let omni = start().await;
    for (name, request, status) in [
        (
            "two codings",
            "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "501",
        ),
        (
            "two lengths",
            "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: \
                6\r\n\r\nhello!",
            "400",
        ),
        (
            "signed length",
            "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\nhello",
            "400",
        ),
        (
            "coding on 1.0",
            "POST /echo HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("no host", "GET /echo HTTP/1.1\r\n\r\n", "400"),
        ("two hosts", "GET /echo HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        ("bad host", "GET /echo HTTP/1.1\r\nhost: a/b\r\n\r\n", "400"),
        ("connect", "CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n", "405"),
        ("asterisk", "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", "400"),
        ("null", "GET /echo/%00 HTTP/1.1\r\nhost: x\r\n\r\n", "400"),
        ("above the root", "GET /../../echo HTTP/1.1\r\nhost: x\r\n\r\n", "400"),
        ("space before colon", "GET /echo HTTP/1.1\r\nhost : x\r\n\r\n", "400"),
        ("folded", "GET /echo HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n", "400"),
    ] {
        let mut connection = RawConnection::open(&omni.data_address()).await;
        connection.send_bytes(request.as_bytes()).await;
        let head = connection.read_until(b"\r\n").await;
        assert_eq!(String::from_utf8_lossy(&head[9..12]), *status, "{name}");
    }
    let long =
        format!("GET /echo?{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "x".repeat(9000));
    assert!(exchange_raw(&omni.data_address(), long.as_bytes()).await.starts_with(b"HTTP/1.1 414"));
    let fat = format!("GET /echo HTTP/1.1\r\nhost: x\r\nx-fat: {}\r\n\r\n", "x".repeat(100_000));
    assert!(exchange_raw(&omni.data_address(), fat.as_bytes()).await.starts_with(b"HTTP/1.1 431"));
    assert_eq!(
        omni.upstream().fetch_requests().await.requests.len(),
        0,
        "none of them reached the upstream"
    );
}

#[tokio::test]
async fn length_and_coding_together_arrive_once_and_the_connection_closes() {
    let omni = start().await;
    for order in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
    ] {
        let smuggled = "GET /echo/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
        let request =
            format!("POST /echo HTTP/1.1\r\nhost: x\r\n{order}\r\n\r\n0\r\n\r\n{smuggled}");
        exchange_raw(&omni.data_address(), request.as_bytes()).await;
    }
    let seen = omni.upstream().fetch_requests().await;
    assert!(seen.requests.iter().all(|request| request.path == "/echo"), "{:?}", seen.requests);
}

#[tokio::test]
async fn the_matched_path_is_the_forwarded_path() {
    let omni = start().await;
    for (sent, arrives) in
        [("//echo", "/echo"), ("/x/../echo/./a", "/echo/a"), ("/%65cho/b", "/echo/b")]
    {
        let request = format!("GET {sent} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer =
            String::from_utf8_lossy(&exchange_raw(&omni.data_address(), request.as_bytes()).await)
                .into_owned();
        assert!(answer.contains(&format!("\"path\":\"{arrives}\"")), "{sent}: {answer}");
    }
    let call =
        "POST /x/../invoke HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let answer =
        String::from_utf8_lossy(&exchange_raw(&omni.data_address(), call.as_bytes()).await)
            .to_lowercase();
    assert!(answer.contains("x-omnidaemon-path: sync"), "{answer}");
}

#[tokio::test]
async fn a_request_that_comes_back_to_the_proxy_is_a_loop() {
    let omni = start().await;
    let echo = omni.data_client().get("/echo").await.json();
    let via = got(&echo, "via")[0].to_owned();
    let looped = HttpResponse::from_request(
        omni.data_client().request(Method::GET, "/echo").header("via", via),
    )
    .await;
    assert_eq!(
        (looped.status.as_u16(), looped.json()["type"].as_str()),
        (508, Some("urn:omnidaemon:problem:loop-detected"))
    );
}

#[tokio::test]
async fn head_and_options_are_the_upstreams() {
    let omni = scenario().workers(0).percent(100).start().await;
    let head = HttpResponse::from_request(omni.data_client().request(Method::HEAD, "/echo")).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_ne!(head.header("content-length"), Some("0"));
    let options =
        HttpResponse::from_request(omni.data_client().request(Method::OPTIONS, "/invoke")).await;
    assert_eq!(
        (options.status.as_u16(), options.header("allow")),
        (405, Some("POST")),
        "FastAPI's own answer"
    );
}

#[tokio::test]
async fn requests_are_counted_per_route_path_and_code() {
    let omni = start().await;
    for _ in 0..3 {
        omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    }
    omni.data_client().post("/invoke", &json!({})).await;
    omni.data_client().get("/echo").await;
    let metrics = omni.scrape_metrics().await;
    let count = |route, code| {
        metrics.value(
            "omnidaemon_requests_total",
            &[("route", route), ("path", "sync"), ("code", code)],
        )
    };
    assert_eq!(
        (count("invoke", "200"), count("invoke", "422"), count("_other", "200")),
        (3.0, 1.0, 1.0)
    );
    wait_until(TEST_DEADLINE, "durations are recorded", async || {
        omni.metric_value(
            "omnidaemon_request_duration_seconds_count",
            &[("route", "invoke"), ("path", "sync")],
        )
        .await
            >= 4.0
    })
    .await;
}
