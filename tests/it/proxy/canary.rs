//! The async path of a legacy call: the client gets what the upstream gave, or a 202 to poll, or
//! the sync path where the request cannot go async.

use http::Method;
use serde_json::{Value, json};

use crate::support::http::client::HttpResponse;
use crate::support::scenario::{Scenario, ScenarioBuilder, route, scenario, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::{TEST_DEADLINE, wait_for_some, wait_until};

fn canaried_routes(store: &Store) -> ScenarioBuilder {
    let canaried = |name: &str| route(name).wait("20s").percent(100);
    scenario()
        .store(store)
        .yaml("proxy.max_body", "1MiB")
        .route(
            canaried("invoke")
                .yaml("topics", json!(["build"]))
                .yaml("capture", json!({"drop_headers": ["x-dropped"]})),
        )
        .route(
            route("held")
                .path("/echo")
                .yaml("methods", json!(["POST"]))
                .yaml("topics", json!(["build"]))
                .wait("100ms")
                .yaml("on_wait_timeout", "hold")
                .percent(100),
        )
        .route(canaried("named").path("/echo/{name}"))
        .route(canaried("retried").path("/build").yaml("retry_canaried", true))
        .route(canaried("built").topic("build"))
        .topic(topic("t").retries(2).retry_delay("50ms"))
        .topic(topic("build").http("<upstream>/build"))
        .workers(4)
        .concurrency(2)
}

async fn start(store: &Store) -> Scenario {
    canaried_routes(store).start().await
}

on_both_stores!(
    the_client_gets_what_the_upstream_gave,
    the_replayed_request_is_the_one_that_was_sent,
    after_wait_it_is_202_and_the_result_is_polled,
    hold_waits_on,
    prefer_sets_the_wait,
    what_cannot_go_async_goes_sync,
    a_canaried_call_is_tried_once_unless_its_route_says_otherwise,
    failures_are_told_as_the_legacy_endpoint_would,
    a_trusted_caller_chooses_the_path_and_segments_match_any_name,
    an_envelope_chooses_its_topic,
);

async fn the_client_gets_what_the_upstream_gave(store: Store) {
    let omni = start(&store).await;
    for arguments in [
        json!({}),
        json!({"status": 201, "headers": [["x-a", "1"], ["x-a", "2"], ["set-cookie", "a=b"]]}),
        json!({"status": 404, "body": "not json \u{e9}"}),
        json!({"status": 500}),
        json!({"status": 503, "headers": [["retry-after", "7"]]}),
        json!({"bytes": 300_000}),
    ] {
        let call = json!({"task": "t", "arguments": arguments});
        let direct = omni.upstream().client().post("/invoke", &call).await;
        let through = omni.data_client().post("/invoke", &call).await;
        assert_eq!(through.header("x-omnidaemon-path"), Some("async"), "{arguments}");
        assert_eq!(through.status, direct.status, "{arguments}");
        let timeless = |answer: &HttpResponse| {
            let text = answer.text();
            let start = text.find("\"execution_time_ms\"").map_or(text.len(), |at| at);
            text[..start].to_owned()
        };
        assert_eq!(timeless(&through), timeless(&direct));
        let all = |answer: &HttpResponse, name| {
            answer.headers.get_all(name).iter().cloned().collect::<Vec<_>>()
        };
        for name in ["x-a", "set-cookie", "content-type", "server", "retry-after"] {
            assert_eq!(all(&through, name), all(&direct, name), "{name} of {arguments}");
        }
    }
    let invalid = omni.data_client().post("/invoke", &json!({"no": "task"})).await;
    assert_eq!(
        (invalid.status.as_u16(), invalid.header("x-omnidaemon-path")),
        (422, Some("async"))
    );
    let malformed = HttpResponse::from_request(
        omni.data_client()
            .request(Method::POST, "/invoke")
            .body("{")
            .header("content-type", "application/json"),
    );
    assert_eq!(malformed.await.status, 422, "FastAPI's own answer to what is not JSON");
}

async fn the_replayed_request_is_the_one_that_was_sent(store: Store) {
    let omni = start(&store).await;
    let body = vec![0u8, 159, 146, 150, b'\n'];
    let request = omni
        .data_client()
        .request(Method::POST, "/echo?x=1&y=%2F")
        .body(body)
        .header("x-custom", "1");
    let request = request
        .header("authorization", "Bearer s3cret")
        .header("cookie", "sid=1")
        .header("idempotency-key", "k1");
    let answer = HttpResponse::from_request(request).await;
    assert_eq!(answer.header("x-omnidaemon-path"), Some("async"));
    let echo = answer.json();
    assert_eq!(
        (&echo["method"], &echo["path"], &echo["query"]),
        (&json!("POST"), &json!("/echo"), &json!("x=1&y=%2F"))
    );
    assert_eq!(echo["body"], "AJ+Slgo=");
    let pairs = echo["headers"].as_array().expect("headers").clone();
    let got = |name: &str| {
        pairs
            .iter()
            .filter(|pair| pair[0] == name)
            .map(|pair| pair[1].clone())
            .collect::<Vec<Value>>()
    };
    assert_eq!(got("authorization"), ["Bearer s3cret"]);
    assert_eq!((got("cookie"), got("x-custom")), (vec![json!("sid=1")], vec![json!("1")]));
    assert_eq!(
        (got("idempotency-key"), got("x-omnidaemon-attempt")),
        (vec![json!("k1")], vec![json!("1")])
    );
    assert_eq!(got("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(got("host"), [omni.data_address()]);
}

async fn after_wait_it_is_202_and_the_result_is_polled(store: Store) {
    let omni = canaried_routes(&store).yaml("routes.invoke.wait", "100ms").start().await;
    let slow =
        omni.data_client().request(Method::POST, "/invoke").header("authorization", "Bearer mine");
    let accepted = HttpResponse::from_request(
        slow.json(&json!({"task": "later", "arguments": {"sleep_ms": 1000}})),
    )
    .await;
    assert_eq!(
        (accepted.status.as_u16(), accepted.header("x-omnidaemon-path")),
        (202, Some("async")),
        "{}",
        accepted.text()
    );
    let poll = accepted.json()["poll_url"].as_str().expect("a poll URL").to_owned();
    assert_eq!(accepted.header("location"), Some(poll.as_str()));
    assert!(accepted.header("retry-after").is_some());
    let deferred = [("route", "invoke"), ("outcome", "deferred")];
    assert_eq!(omni.metric_value("omnidaemon_task_outcomes_total", &deferred).await, 1.0);

    let mine = |path: String| {
        HttpResponse::from_request(
            omni.data_client().request(Method::GET, &path).header("authorization", "Bearer mine"),
        )
    };
    let done = wait_for_some(TEST_DEADLINE, "the task completes", async || {
        let answer = mine(poll.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("cache-control")),
            (200, Some("no-store"))
        );
        (answer.json()["status"] == "completed").then_some(answer)
    })
    .await;
    assert_eq!(
        (&done.json()["http_status"], &done.json()["result"]["result"]),
        (&json!(200), &json!("later is done"))
    );
    let others = [
        omni.data_client().get(&poll).await,
        omni.data_client().get("/task/task_00000000000000000000000000").await,
    ];
    assert!(others.iter().all(|answer| answer.status == 404));
    assert_eq!(
        others[0].text(),
        others[1].text(),
        "another key's task and an unknown one look the same"
    );
}

async fn hold_waits_on(store: Store) {
    let omni = start(&store).await;
    let held = omni.data_client().post("/echo", &json!({})).await;
    assert_eq!(held.status, 200);
    // Longer than the route's `wait` of 100 ms, on a topic whose handler sleeps.
    let slow = omni
        .data_client()
        .post("/echo", &json!({"topic": "build", "payload": {"sleep_ms": 700}}))
        .await;
    assert_eq!(
        (slow.status.as_u16(), &slow.json()["built"]),
        (200, &json!({"sleep_ms": 700})),
        "{}",
        slow.text()
    );
    assert_eq!(
        omni.metric_value(
            "omnidaemon_task_outcomes_total",
            &[("route", "held"), ("outcome", "deferred")]
        )
        .await,
        0.0
    );
}

async fn prefer_sets_the_wait(store: Store) {
    let omni = start(&store).await;
    let call = |prefer: &str| {
        let call = json!({"task": "t", "arguments": {"sleep_ms": 200}});
        HttpResponse::from_request(
            omni.data_client()
                .request(Method::POST, "/invoke")
                .header("prefer", prefer)
                .json(&call),
        )
    };
    let at_once = call("respond-async").await;
    assert_eq!(
        (at_once.status.as_u16(), at_once.header("preference-applied")),
        (202, Some("respond-async"))
    );
    let waited = call("respond-async, wait=20").await;
    assert_eq!(
        (waited.status.as_u16(), waited.header("preference-applied")),
        (200, Some("respond-async, wait=20"))
    );
    let outcomes = omni.scrape_metrics().await;
    assert_eq!(
        outcomes.value(
            "omnidaemon_task_outcomes_total",
            &[("route", "invoke"), ("outcome", "deferred")]
        ),
        0.0
    );
}

async fn what_cannot_go_async_goes_sync(store: Store) {
    let omni = start(&store).await;
    let post = |path: &str| omni.data_client().request(Method::POST, path);
    let sync = |answer: &HttpResponse| answer.header("x-omnidaemon-path") == Some("sync");

    let stream = HttpResponse::from_request(
        post("/invoke").json(&json!({"task": "t"})).header("accept", "text/event-stream"),
    )
    .await;
    assert!(stream.status == 200 && sync(&stream));
    let declared = HttpResponse::from_request(post("/echo").body(vec![b'x'; 1_500_000])).await;
    assert!(declared.status == 200 && sync(&declared));
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> =
        (0..30).map(|_| Ok(vec![b'y'; 100_000])).collect();
    let outgrown = HttpResponse::from_request(
        post("/echo").body(reqwest::Body::wrap_stream(futures_util::stream::iter(chunks))),
    )
    .await;
    assert!(outgrown.status == 200 && sync(&outgrown));
    assert_eq!(
        outgrown.json()["body"].as_str().map(str::len),
        Some(4_000_000),
        "prefix and rest arrive whole"
    );
    let text = HttpResponse::from_request(
        post("/built").body("plain").header("content-type", "text/plain"),
    )
    .await;
    assert!(text.status == 404 && sync(&text), "only an upstream handler takes what is not JSON");

    let metrics = omni.scrape_metrics().await;
    let fallbacks = |route, reason| {
        metrics.value("omnidaemon_fallback_total", &[("route", route), ("reason", reason)])
    };
    for (route, ineligible, too_large) in
        [("invoke", 1.0, 0.0), ("held", 0.0, 2.0), ("built", 1.0, 0.0)]
    {
        let counted = (fallbacks(route, "ineligible"), fallbacks(route, "body_too_large"));
        assert_eq!(counted, (ineligible, too_large), "{route}");
    }
}

async fn a_canaried_call_is_tried_once_unless_its_route_says_otherwise(store: Store) {
    let omni = start(&store).await;
    let call = |path: &str, id: &str, body: Value| {
        HttpResponse::from_request(
            omni.data_client()
                .request(Method::POST, path)
                .header("idempotency-key", id)
                .json(&body),
        )
    };
    let once = call("/invoke", "once", json!({"task": "t", "arguments": {"fail_first": 2}})).await;
    assert_eq!(
        (once.status.as_u16(), omni.upstream().fetch_requests().await.by_key["once"]),
        (503, 1)
    );
    let retried = call("/build", "many", json!({"fail_first": 2})).await;
    assert_eq!((retried.status.as_u16(), &retried.json()["attempt"]), (200, &json!("3")));
    assert_eq!(omni.upstream().fetch_requests().await.by_key["many"], 3);
}

async fn failures_are_told_as_the_legacy_endpoint_would(store: Store) {
    let mut omni = start(&store).await;
    let broken = omni
        .data_client()
        .post("/invoke", &json!({"task": "t", "arguments": {"die": "before"}}))
        .await;
    assert_eq!((broken.status.as_u16(), broken.header("x-omnidaemon-path")), (502, Some("async")));
    omni.upstream_mut().stop();
    let gone = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    assert_eq!(
        (gone.status.as_u16(), gone.json()["type"].as_str()),
        (502, Some("urn:omnidaemon:problem:upstream-unreachable"))
    );
    wait_until(TEST_DEADLINE, "both are counted as failed", async || {
        omni.metric_value(
            "omnidaemon_task_outcomes_total",
            &[("route", "invoke"), ("outcome", "failed")],
        )
        .await
            >= 2.0
    })
    .await;
}

async fn a_trusted_caller_chooses_the_path_and_segments_match_any_name(store: Store) {
    let trusting = canaried_routes(&store).yaml("proxy.trusted", json!(["127.0.0.0/8"]));
    for (server, chosen) in [(trusting, "sync"), (canaried_routes(&store), "async")] {
        let omni = server.start().await;
        let request = omni
            .data_client()
            .request(Method::POST, "/echo/any-name")
            .header("x-omnidaemon-path", "sync");
        let answer = HttpResponse::from_request(request.json(&json!({}))).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-omnidaemon-path")),
            (200, Some(chosen))
        );
        assert_eq!(answer.json()["path"], "/echo/any-name");
    }
}

async fn an_envelope_chooses_its_topic(store: Store) {
    let omni = start(&store).await;
    let built = omni
        .data_client()
        .post("/invoke", &json!({"topic": "build", "payload": {"name": "crm"}}))
        .await;
    assert_eq!(
        (built.status.as_u16(), built.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(built.json()["built"], json!({"name": "crm"}));
}
