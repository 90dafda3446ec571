//! No `/invoke` fails because the store does: Redis killed and brought back under load, refusing,
//! or not there from the start.

use std::fs;

use serde_json::json;

use crate::support::http::client::HttpResponse;
use crate::support::http::fault::FaultProxy;
use crate::support::load::{Load, scenario_under_load};
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{Scenario, ScenarioBuilder, topic};
use crate::support::{TEST_DEADLINE, wait_until};

#[tokio::test]
async fn redis_killed_and_restarted_under_load_fails_no_call() {
    let mut redis = RedisServer::start().await;
    let omni = scenario_under_load(redis.url()).start().await;
    let load = Load::start(&omni, 8);
    load.wait_for_more("calls go async", &load.async_calls, 50).await;
    for _ in 0..2 {
        redis.kill();
        load.wait_for_more("calls go sync while redis is down", &load.sync_calls, 50).await;
        let ready = omni.admin_client().get("/readyz").await;
        assert_eq!(
            (ready.status.as_u16(), ready.json()["status"].as_str()),
            (200, Some("degraded"))
        );
        redis.restart().await;
        load.wait_for_more("calls go async again", &load.async_calls, 50).await;
    }
    load.finish().await;
    assert!(
        omni.metric_value(
            "omnidaemon_fallback_total",
            &[("route", "invoke"), ("reason", "store_unavailable")]
        )
        .await
            > 0.0
    );
    assert_eq!(
        omni.metric_value("omnidaemon_rollout_weight", &[("route", "invoke")]).await,
        100.0,
        "the weight stays"
    );
    let failed = omni
        .metric_value(
            "omnidaemon_task_outcomes_total",
            &[("route", "invoke"), ("outcome", "failed")],
        )
        .await;
    assert_eq!(failed, 0.0, "an outage is no failure of the async path");
}

#[tokio::test]
async fn a_store_that_hangs_costs_a_call_its_timeout_once() {
    let redis = RedisServer::start().await;
    let fault = FaultProxy::start(&redis.addr()).await;
    let omni = scenario_under_load(format!("redis://{}", fault.addr())).start().await;
    let load = Load::start(&omni, 4);
    load.wait_for_more("calls go async", &load.async_calls, 20).await;
    fault.blackhole();
    load.wait_for_more("calls go sync while redis hangs", &load.sync_calls, 50).await;
    fault.pass_through();
    load.wait_for_more("calls go async again", &load.async_calls, 50).await;
    load.finish().await;
}

/// Four calls at once, when redis has just stopped answering: none knows whether its task is there.
async fn call_while_redis_hangs(
    change: impl FnOnce(ScenarioBuilder) -> ScenarioBuilder,
) -> (Scenario, RedisServer, FaultProxy, Vec<HttpResponse>) {
    let redis = RedisServer::start().await;
    let fault = FaultProxy::start(&redis.addr()).await;
    let url = format!("redis://{}", fault.addr());
    let omni = change(scenario_under_load(url)).start().await;
    assert_eq!(omni.data_client().post("/invoke", &json!({"task": "t"})).await.status, 200);
    omni.upstream().clear_requests().await;
    fault.blackhole();
    let calls = (0..4).map(|n| {
        let request = omni
            .data_client()
            .request(http::Method::POST, "/invoke")
            .header("x-test-id", format!("call-{n}"));
        HttpResponse::from_request(request.json(&json!({"task": "t"})))
    });
    let answers = futures_util::future::join_all(calls).await;
    (omni, redis, fault, answers)
}

#[tokio::test]
async fn a_call_whose_enqueue_was_never_answered_is_served_sync_and_its_task_never_runs() {
    let (omni, _redis, fault, answers) = call_while_redis_hangs(|scenario| scenario).await;
    for answer in &answers {
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-omnidaemon-path")),
            (200, Some("sync"))
        );
    }
    let metrics = omni.scrape_metrics().await;
    let unknown = metrics.value("omnidaemon_unknown_enqueues_total", &[("route", "invoke")]);
    let fallen = |reason| {
        metrics.value("omnidaemon_fallback_total", &[("route", "invoke"), ("reason", reason)])
    };
    // what was to go with the next call was not sent, and is known not to be there
    assert!((1.0..=4.0).contains(&unknown), "{unknown}");
    assert_eq!(
        (fallen("unknown"), fallen("unknown") + fallen("store_unavailable")),
        (unknown, 4.0)
    );
    fault.pass_through();
    wait_until(TEST_DEADLINE, "calls go async again", async || {
        let answer = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
        answer.header("x-omnidaemon-path") == Some("async")
    })
    .await;
    // What lay in the pipe has arrived by now, behind its cancel.
    let by_id = omni.upstream().fetch_requests().await.by_id;
    assert!((0..4).all(|n| by_id[&format!("call-{n}")] == 1), "each ran once: {by_id:?}");
}

#[tokio::test]
async fn with_on_unknown_refuse_such_a_call_is_503_and_does_not_run() {
    let refusing = |scenario: ScenarioBuilder| scenario.yaml("routes.invoke.on_unknown", "refuse");
    let (omni, _redis, fault, answers) = call_while_redis_hangs(refusing).await;
    let refused =
        |answer: &HttpResponse| answer.status == 503 && answer.header("retry-after") == Some("1");
    let count: f64 = answers.iter().filter(|answer| refused(answer)).map(|_| 1.0).sum();
    assert!(count > 0.0);
    let told = omni
        .metric_value(
            "omnidaemon_task_outcomes_total",
            &[("route", "invoke"), ("outcome", "refused")],
        )
        .await;
    assert_eq!(told, count, "each is a failure of the async path");
    for answer in &answers {
        assert!(
            refused(answer) || answer.header("x-omnidaemon-path") == Some("sync"),
            "{}",
            answer.text()
        );
    }
    fault.pass_through();
    wait_until(TEST_DEADLINE, "calls go async again", async || {
        let answer = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
        answer.header("x-omnidaemon-path") == Some("async")
    })
    .await;
    let by_id = omni.upstream().fetch_requests().await.by_id;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(
            by_id.contains_key(&format!("call-{n}")),
            !refused(answer),
            "what was refused never ran"
        );
    }
}

#[tokio::test]
async fn what_an_operator_publishes_is_503_and_never_runs_if_its_enqueue_was_never_answered() {
    let recording =
        |scenario: ScenarioBuilder| scenario.topic(topic("t").shell("cat >> ran; echo 1"));
    let (omni, _redis, fault, _) = call_while_redis_hangs(recording).await;
    fault.pass_through();
    let publish = async |payload: &str| {
        omni.admin_client()
            .post("/admin/v1/tasks", &json!({"topic": "t", "payload": payload}))
            .await
            .status
            .as_u16()
    };
    let ran = async |payload: &str| {
        fs::read_to_string(omni.dir().join("ran")).is_ok_and(|ran| ran.contains(payload))
    };
    wait_until(TEST_DEADLINE, "tasks are taken again", async || publish("before").await == 202)
        .await;
    wait_until(TEST_DEADLINE, "and run", async || ran("before").await).await;
    fault.blackhole();
    assert_eq!(publish("into the void").await, 503);
    fault.pass_through();
    wait_until(TEST_DEADLINE, "tasks are taken again", async || publish("after").await == 202)
        .await;
    wait_until(TEST_DEADLINE, "and run", async || ran("after").await).await;
    assert!(!ran("into the void").await);
}

#[tokio::test]
async fn a_store_that_refuses_is_a_failure_of_the_async_path_and_of_no_call() {
    let redis = RedisServer::start().await;
    let omni = scenario_under_load(redis.url()).start().await;
    redis.run_command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let call = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    assert_eq!((call.status.as_u16(), call.header("x-omnidaemon-path")), (200, Some("sync")));
    let metrics = omni.scrape_metrics().await;
    assert_eq!(
        metrics.value(
            "omnidaemon_fallback_total",
            &[("route", "invoke"), ("reason", "store_refused")]
        ),
        1.0
    );
    assert_eq!(
        metrics.value(
            "omnidaemon_task_outcomes_total",
            &[("route", "invoke"), ("outcome", "refused")]
        ),
        1.0
    );
    let submitted = omni.data_client().post("/invoke/async", &json!({"task": "t"})).await;
    assert_eq!(submitted.status, 503, "never a 202 for what is not durable");
    assert_eq!(submitted.json()["detail"], "the store takes no tasks at the moment: try again");
    assert!(omni.logs().contains("maxmemory"), "the store's own words are in the log");
    redis.run_command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    wait_until(TEST_DEADLINE, "calls go async again", async || {
        omni.data_client().post("/invoke", &json!({"task": "t"})).await.header("x-omnidaemon-path")
            == Some("async")
    })
    .await;
}

#[tokio::test]
async fn without_a_store_at_start_sync_works_and_async_comes_alive_with_it() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let omni = scenario_under_load(redis.url()).start().await;
    let ready = omni.admin_client().get("/readyz").await.json();
    assert_eq!(ready["status"], "degraded");
    assert!(
        ready["checks"]["store"].as_str().is_some_and(|why| why.contains("unreachable")),
        "{ready}"
    );
    let call = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    assert_eq!((call.status.as_u16(), call.header("x-omnidaemon-path")), (200, Some("sync")));
    let submitted = omni.data_client().post("/invoke/async", &json!({"task": "t"})).await;
    assert_eq!((submitted.status.as_u16(), submitted.header("retry-after")), (503, Some("1")));
    redis.restart().await;
    wait_until(TEST_DEADLINE, "calls go async", async || {
        let answer: HttpResponse = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
        assert_eq!(answer.status, 200);
        answer.header("x-omnidaemon-path") == Some("async")
    })
    .await;
    assert_eq!(omni.admin_client().get("/readyz").await.json()["status"], "ready");
}
