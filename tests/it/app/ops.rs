//! What operators rely on: health, metrics, an ordered drain, messages that say the way out, no
//! secrets in logs.

use http::Method;
use serde_json::json;

use crate::support::http::client::HttpResponse;
use crate::support::scenario::{Scenario, ScenarioBuilder, scenario};
use crate::support::{TEST_DEADLINE, TestUpstream, wait_until};

/// A server with both tokens, half of whose calls go onto the queue.
fn with_tokens() -> ScenarioBuilder {
    scenario()
        .yaml("proxy.expose", json!(["metrics"]))
        .yaml("proxy.drain", "20s")
        .yaml("admin.token", "canary-t0ken")
        .yaml("admin.read_token", "canary-l00k")
        .percent(50)
        .wait("20s")
        .workers(3)
}

async fn start() -> Scenario {
    with_tokens().start().await
}

#[tokio::test]
async fn every_metric_exists_from_the_start_on_both_ports() {
    let omni = start().await;
    let admin = omni.admin_client().get("/metrics").await.text();
    let data = omni.data_client().get("/metrics").await.text();
    for name in omnidaemon::metrics::names::ALL_METRICS {
        assert!(admin.contains(&format!("# TYPE {name} ")), "{name}");
        assert!(data.contains(&format!("# TYPE {name} ")), "{name}");
    }
    let metrics = omni.scrape_metrics().await;
    assert_eq!(metrics.value("omnidaemon_rollout_percent", &[("route", "invoke")]), 50.0);
    wait_until(TEST_DEADLINE, "the workers are counted", async || {
        omni.metric_value("omnidaemon_workers_active", &[]).await == 3.0
    })
    .await;
}

#[tokio::test]
async fn labels_come_from_the_config_whatever_is_asked() {
    let omni = start().await;
    let series = async || omni.admin_client().get("/metrics").await.text().lines().count();
    omni.data_client().get("/warm-up").await;
    let before = series().await;
    for n in 0..200 {
        let method = Method::from_bytes(format!("M{n}").as_bytes()).expect("a method");
        HttpResponse::from_request(omni.data_client().request(method, &format!("/nowhere/{n}")))
            .await;
    }
    assert!(series().await <= before + 2, "a new status code at the most");
}

#[tokio::test]
async fn the_admin_api_asks_for_its_token_and_knows_its_hosts() {
    let omni = start().await;
    let get = |path: &str| omni.admin_client().request(Method::GET, path);
    assert_eq!(HttpResponse::from_request(get("/livez")).await.status, 200);
    assert_eq!(HttpResponse::from_request(get("/admin/v1/status")).await.status, 401);
    let status =
        HttpResponse::from_request(get("/admin/v1/status").bearer_auth("canary-t0ken")).await;
    assert_eq!(
        (status.status.as_u16(), status.json()["status"].as_str()),
        (200, Some("healthy")),
        "{}",
        status.text()
    );
    assert_eq!(
        HttpResponse::from_request(
            get("/admin/v1/status").bearer_auth("canary-t0ken").header("host", "evil")
        )
        .await
        .status,
        421
    );
    let post =
        omni.admin_client().request(Method::POST, "/admin/v1/tasks").bearer_auth("canary-t0ken");
    let foreign = post.header("origin", "http://evil").json(&json!({"topic": "t", "payload": {}}));
    assert_eq!(HttpResponse::from_request(foreign).await.status, 403);
    assert_eq!(
        HttpResponse::from_request(get("/admin/v1/rollouts").bearer_auth("canary-l00k"))
            .await
            .status,
        200
    );
    let abort = omni
        .admin_client()
        .request(Method::POST, "/admin/v1/rollouts/invoke/abort")
        .json(&json!({}));
    let refused = HttpResponse::from_request(abort.bearer_auth("canary-l00k")).await;
    assert_eq!(
        (refused.status.as_u16(), refused.text().contains("may only read")),
        (403, true),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn an_upstream_that_is_down_is_degraded_and_stays_in_the_balancer() {
    let mut omni = start().await;
    assert_eq!(omni.admin_client().get("/readyz").await.json()["status"], "ready");
    omni.upstream_mut().stop();
    let ready = omni.admin_client().get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["status"].as_str()), (200, Some("degraded")));
    assert!(
        ready.json()["checks"]["upstream"]
            .as_str()
            .is_some_and(|why| why.contains(&omni.upstream().url()))
    );
}

#[tokio::test]
async fn sigterm_finishes_what_runs_and_refuses_what_is_new() {
    let mut omni = start().await;
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let client = omni.data_client();
            let call = json!({"task": "t", "arguments": {"sleep_ms": 1500}});
            tokio::spawn(async move { client.post("/invoke", &call).await })
        })
        .collect();
    wait_until(TEST_DEADLINE, "the upstream has them", async || {
        omni.upstream().fetch_requests().await.requests.len() >= 6
    })
    .await;
    omni.send_sigterm();
    let client = omni.data_client();
    let refused = async || {
        HttpResponse::try_from_request(client.request(Method::GET, "/echo")).await.is_err()
    };
    wait_until(TEST_DEADLINE, "new connections are refused", refused).await;
    for call in slow {
        let answer = call.await.expect("a call");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(omni.wait_for_exit().await.success());
    let text = omni.logs().to_text();
    assert!(text.contains("draining") && text.contains("drained"), "{text}");
}

#[tokio::test]
async fn a_task_that_outlives_the_drain_is_given_back_and_runs_again() {
    let upstream = TestUpstream::start().await;
    let mut omni = with_tokens()
        .upstream(&upstream)
        .yaml("proxy.drain", "2s")
        .yaml("workers.drain", "500ms")
        .start()
        .await;
    let call = json!({"task": "t", "arguments": {"sleep_ms": 4000}});
    let accepted = omni.data_client().post("/invoke/async", &call).await;
    let id = accepted.json()["task_id"].as_str().expect("an id").to_owned();
    wait_until(TEST_DEADLINE, "it runs", async || {
        upstream.fetch_requests().await.by_key.contains_key(&id)
    })
    .await;
    omni.send_sigterm();
    assert!(omni.wait_for_exit().await.success());
    omni.restart().await;
    wait_until(TEST_DEADLINE, "it completes", async || {
        omni.data_client().get(&format!("/task/{id}")).await.json()["status"] == "completed"
    })
    .await;
    let attempts = omni.data_client().get(&format!("/task/{id}")).await.json()["attempts"].clone();
    assert_eq!(attempts, json!(1), "a release is no attempt");
}

#[tokio::test]
async fn no_secret_is_logged_or_counted() {
    let omni = with_tokens()
        .yaml("routes.invoke.rollout.percent", 100)
        .env("RUST_LOG", "debug")
        .start()
        .await;
    let request = omni
        .data_client()
        .request(Method::POST, "/invoke")
        .bearer_auth("canary-bearer")
        .header("cookie", "s=canary-cookie");
    let answer = HttpResponse::from_request(request.json(&json!({"task": "canary-body"}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let failing = json!({"task": "t", "arguments": {"status": 500, "body": "canary-answer"}});
    assert_eq!(omni.data_client().post("/invoke", &failing).await.status, 500);
    wait_until(TEST_DEADLINE, "the failure is logged", async || {
        omni.logs().contains("attempt failed")
    })
    .await;
    let (logs, metrics) = (omni.logs().to_text(), omni.admin_client().get("/metrics").await.text());
    assert!(!logs.contains("canary-") && !metrics.contains("canary-"), "{logs}");
}
