//! The task endpoints, the handlers behind them, retries, dead letters and the TTL.

use http::Method;
use serde_json::json;

use crate::support::http::client::HttpResponse;
use crate::support::scenario::{Route, Scenario, ScenarioBuilder, route, scenario, topic};
use crate::support::stores::{Store, on_both_stores};
use crate::support::tasks::{submit_task, wait_for_task_end};
use crate::support::{TEST_DEADLINE, wait_until};

/// Prints the number of elements of its payload.
const COUNT_SCRIPT: &str = "import json,sys; task=json.load(sys.stdin); \
    print(json.dumps({\"n\": len(task[\"payload\"])}))";

/// A server with a topic for each kind of handler.
fn all_handlers(store: &Store, invoke: Route) -> ScenarioBuilder {
    scenario()
        .store(store)
        .yaml("proxy.max_body", "64KiB")
        .yaml("proxy.cors", json!({"origins": ["https://app.example"]}))
        .route(invoke.wait("20s").percent(100))
        .topic(topic("t").retries(2).retry_delay("20ms").timeout("1s"))
        .topic(topic("build").http("<upstream>/build").retries(3).retry_delay("20ms"))
        .topic(topic("count").python(COUNT_SCRIPT))
        .topic(
            topic("crash").shell("echo out of cheese >&2; exit 3").retries(1).retry_delay("20ms"),
        )
        .topic(topic("sleep").command(["sleep", "60"]).timeout("300ms").retries(0))
        .topic(topic("outside").external().max_backlog(3))
        .workers(4)
        .yaml("results.ttl", "24h")
}

async fn start(store: &Store) -> Scenario {
    all_handlers(store, route("invoke")).start().await
}

on_both_stores!(
    a_submitted_task_is_queued_run_and_polled,
    each_handler_runs_its_tasks,
    a_failing_task_is_retried_and_then_dead,
    a_queued_task_can_be_cancelled_and_an_ended_one_cannot,
    over_the_backlog_it_is_429_and_invoke_goes_sync,
    results_expire,
    bad_submissions_are_refused_by_name,
    browsers_on_a_configured_origin_may_read,
);

async fn a_submitted_task_is_queued_run_and_polled(store: Store) {
    let omni = start(&store).await;
    let accepted = omni.data_client().post("/invoke/async?x=1", &json!({"task": "write"})).await;
    let body = accepted.json();
    let id = body["task_id"].as_str().expect("an id");
    assert_eq!(accepted.status, 202);
    assert!(
        id.starts_with("task_")
            && body["status"] == "queued"
            && body["poll_url"] == format!("/task/{id}"),
        "{body}"
    );
    assert_eq!(
        (accepted.header("location"), accepted.header("retry-after")),
        (Some(format!("/task/{id}").as_str()), Some("1"))
    );

    let done = wait_for_task_end(&omni, &format!("/task/{id}")).await;
    assert_eq!(
        (&done["task_id"], &done["status"], &done["http_status"]),
        (&json!(id), &json!("completed"), &json!(200))
    );
    assert_eq!(done["result"]["result"], "write is done");
    let seen = omni.upstream().fetch_requests().await;
    assert_eq!(seen.requests.iter().filter(|request| request.path == "/invoke").count(), 1);
    assert_eq!(seen.by_key[id], 1, "the task's id is the idempotency key");
    let metrics = omni.scrape_metrics().await;
    for name in ["omnidaemon_tasks_received_total", "omnidaemon_tasks_processed_total"] {
        assert_eq!(metrics.value(name, &[("topic", "t")]), 1.0, "{name}");
    }
    assert_eq!(
        metrics.value("omnidaemon_processing_duration_seconds_count", &[("topic", "t")]),
        1.0
    );
}

async fn each_handler_runs_its_tasks(store: Store) {
    let omni = start(&store).await;
    let built = wait_for_task_end(
        &omni,
        &submit_task(&omni, "build", json!({"name": "crm", "status": 207})).await,
    )
    .await;
    assert_eq!((&built["status"], &built["http_status"]), (&json!("completed"), &json!(207)));
    assert_eq!(
        (&built["result"]["built"]["name"], &built["result"]["attempt"]),
        (&json!("crm"), &json!("1"))
    );
    let counted =
        wait_for_task_end(&omni, &submit_task(&omni, "count", json!([1, 2, 3])).await).await;
    assert_eq!((&counted["status"], &counted["result"]), (&json!("completed"), &json!({"n": 3})));
    assert_eq!(counted.get("http_status"), None);
    let late = wait_for_task_end(&omni, &submit_task(&omni, "sleep", json!({})).await).await;
    assert_eq!(late["status"], "failed");
    assert!(late["error"].as_str().is_some_and(|error| error.contains("300ms")), "{late}");
    let text =
        wait_for_task_end(&omni, &submit_task(&omni, "build", json!({"body": "plain"})).await)
            .await;
    assert_eq!(text["result"], "plain", "what is not JSON is a string");

    let waiting = submit_task(&omni, "outside", json!({})).await;
    assert_eq!(
        omni.data_client().get(&waiting).await.json()["status"],
        "queued",
        "external tasks are left to others"
    );

    let deadline = omni
        .data_client()
        .post("/invoke", &json!({"task": "t", "arguments": {"sleep_ms": 9000}}))
        .await;
    assert_eq!(
        (deadline.status.as_u16(), deadline.json()["type"].as_str()),
        (504, Some("urn:omnidaemon:problem:task-deadline"))
    );
}

async fn a_failing_task_is_retried_and_then_dead(store: Store) {
    let omni = start(&store).await;
    let healed = wait_for_task_end(
        &omni,
        &submit_task(&omni, "build", json!({"fail_first": 2, "name": "a"})).await,
    )
    .await;
    assert_eq!(
        (&healed["status"], &healed["attempts"], &healed["result"]["attempt"]),
        (&json!("completed"), &json!(3), &json!("3"))
    );

    let poll = submit_task(&omni, "crash", json!({"why": "me"})).await;
    let dead = wait_for_task_end(&omni, &poll).await;
    assert_eq!((&dead["status"], &dead["attempts"]), (&json!("failed"), &json!(2)));
    assert!(dead["error"].as_str().is_some_and(|error| error.contains("out of cheese")), "{dead}");
    let letters = omni.admin_client().get("/admin/v1/dead-letters?topic=crash").await.json();
    assert_eq!(letters.as_array().map(Vec::len), Some(1), "{letters}");
    assert_eq!(letters[0]["payload"], json!({"why": "me"}));
    assert!(
        letters[0]["error"].as_str().is_some_and(|error| error.contains("out of cheese")),
        "{letters}"
    );
    let metrics = omni.scrape_metrics().await;
    assert_eq!(metrics.value("omnidaemon_tasks_failed_total", &[("topic", "crash")]), 1.0);
    assert_eq!(
        metrics.value("omnidaemon_tasks_processed_total", &[("topic", "build")]),
        1.0,
        "once, however often retried"
    );
}

async fn a_queued_task_can_be_cancelled_and_an_ended_one_cannot(store: Store) {
    let omni = start(&store).await;
    let poll = submit_task(&omni, "outside", json!({})).await;
    let cancelled = omni.data_client().delete(&poll).await;
    assert_eq!(
        (cancelled.status.as_u16(), &cancelled.json()["status"]),
        (200, &json!("cancelled"))
    );
    assert_eq!(omni.data_client().get(&poll).await.json()["status"], "cancelled");
    let done = submit_task(&omni, "count", json!([])).await;
    wait_for_task_end(&omni, &done).await;
    assert_eq!(omni.data_client().delete(&done).await.status, 409);
    assert_eq!(omni.data_client().delete("/task/task_unknown").await.status, 404);
    assert_eq!(omni.data_client().delete("/task/..%2Fx").await.status, 404);
    assert_eq!(
        HttpResponse::from_request(omni.data_client().request(Method::PUT, &done))
            .await
            .header("allow"),
        Some("GET, HEAD, DELETE")
    );
}

async fn over_the_backlog_it_is_429_and_invoke_goes_sync(store: Store) {
    let route = route("invoke").topic("full").yaml("saturation", "queue");
    let omni = all_handlers(&store, route)
        .topic(topic("full").command(["sleep", "60"]).max_backlog(3))
        .start()
        .await;
    for busy in [1.0, 2.0, 3.0, 4.0] {
        submit_task(&omni, "full", json!({})).await;
        wait_until(TEST_DEADLINE, "another worker runs a task", async || {
            omni.metric_value("omnidaemon_workers_busy", &[]).await == busy
        })
        .await;
    }
    for _ in 0..3 {
        submit_task(&omni, "full", json!({})).await;
    }
    let full =
        omni.data_client().post("/invoke/async", &json!({"topic": "full", "payload": {}})).await;
    assert_eq!(
        (full.status.as_u16(), full.header("retry-after")),
        (429, Some("1")),
        "{}",
        full.text()
    );
    assert_eq!(full.json()["detail"], "too many tasks are waiting: try later");
    let call = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    assert_eq!((call.status.as_u16(), call.header("x-omnidaemon-path")), (200, Some("sync")));
    let metrics = omni.scrape_metrics().await;
    assert_eq!(
        metrics
            .value("omnidaemon_fallback_total", &[("route", "invoke"), ("reason", "backpressure")]),
        1.0
    );
    assert_eq!(
        metrics.value(
            "omnidaemon_task_outcomes_total",
            &[("route", "invoke"), ("outcome", "refused")]
        ),
        1.0
    );
    wait_until(TEST_DEADLINE, "the depth shows", async || {
        omni.metric_value("omnidaemon_queue_depth", &[("topic", "full")]).await == 3.0
    })
    .await;
}

async fn results_expire(store: Store) {
    let omni = all_handlers(&store, route("invoke")).yaml("results.ttl", "1s").start().await;
    let poll = submit_task(&omni, "count", json!([])).await;
    wait_until(TEST_DEADLINE, "the result has expired", async || {
        omni.data_client().get(&poll).await.status == 404
    })
    .await;
}

async fn bad_submissions_are_refused_by_name(store: Store) {
    let omni = start(&store).await;
    let post = |body: String, kind: &str| {
        HttpResponse::from_request(
            omni.data_client()
                .request(Method::POST, "/invoke/async")
                .body(body)
                .header("content-type", kind),
        )
    };
    let json_type = "application/json";
    for (what, body, kind, status, says) in [
        ("malformed", "{\"a\":".to_owned(), json_type, 400, "not JSON"),
        ("empty", String::new(), json_type, 400, "not JSON"),
        ("deep", "[".repeat(50_000), json_type, 400, "deep"),
        ("twice", "{\"a\":1,\"a\":2}".into(), json_type, 400, "twice"),
        (
            "unknown topic",
            json!({"topic": "nope", "payload": 1}).to_string(),
            json_type,
            422,
            "nope",
        ),
        ("topic's type", json!({"topic": 7, "payload": 1}).to_string(), json_type, 422, "topic"),
        (
            "topic's letters",
            json!({"topic": "a\r\nb", "payload": 1}).to_string(),
            json_type,
            422,
            "topic",
        ),
        (
            "correlation id",
            json!({"topic": "t", "payload": 1, "correlation_id": 5}).to_string(),
            json_type,
            422,
            "correlation_id",
        ),
        (
            "a host",
            json!({"topic": "t", "payload": 1, "webhook": "http://x"}).to_string(),
            json_type,
            422,
            "webhooks.hosts",
        ),
        (
            "a reply",
            json!({"topic": "t", "payload": 1, "reply_to": "nope"}).to_string(),
            json_type,
            422,
            "nope",
        ),
        (
            "a delay",
            json!({"topic": "t", "payload": 1, "delay": "soon"}).to_string(),
            json_type,
            422,
            "delay",
        ),
        ("a form", "a=b".into(), "application/x-www-form-urlencoded", 415, "application/json"),
        ("too large", format!("\"{}\"", "x".repeat(70_000)), json_type, 413, "max_body"),
    ] {
        let answer = post(body, kind).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        assert!(answer.text().contains(says), "{what}: {}", answer.text());
    }
    let chunks: Vec<Result<String, std::io::Error>> =
        (0..100).map(|_| Ok("x".repeat(1000))).collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    let endless = omni
        .data_client()
        .request(Method::POST, "/invoke/async")
        .body(stream)
        .header("content-type", json_type);
    assert_eq!(HttpResponse::from_request(endless).await.status, 413);
    assert_eq!(omni.data_client().get("/invoke/async").await.status, 405);
    assert_eq!(omni.metric_value("omnidaemon_tasks_received_total", &[("topic", "t")]).await, 0.0);
}

async fn browsers_on_a_configured_origin_may_read(store: Store) {
    let omni = start(&store).await;
    let asked = |origin: &str| {
        let request =
            omni.data_client().request(Method::OPTIONS, "/task/task_1").header("origin", origin);
        HttpResponse::from_request(request.header("access-control-request-method", "DELETE"))
    };
    let allowed = asked("https://app.example").await;
    assert_eq!(
        (allowed.status.as_u16(), allowed.header("access-control-allow-origin")),
        (204, Some("https://app.example"))
    );
    assert_eq!(asked("https://evil.example").await.header("access-control-allow-origin"), None);
    let read = omni
        .data_client()
        .request(Method::GET, "/task/task_1")
        .header("origin", "https://app.example");
    assert_eq!(
        HttpResponse::from_request(read).await.header("access-control-allow-origin"),
        Some("https://app.example")
    );
}
