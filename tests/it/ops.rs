//! What operators rely on: health, metrics, an ordered drain, messages that say the way out, no secrets in logs.

use http::Method;
use serde_json::json;

use crate::harness::client::Answer;
use crate::harness::{Omnidaemon, PATIENCE, Upstream, eventually};

const CONFIG: &str = "
proxy: {listen: 127.0.0.1:0, expose: [metrics], drain: 20s}
admin: {listen: 127.0.0.1:0, token: <token>, read_token: canary-l00k}
upstream: {url: <upstream>}
store: {url: 'sqlite:<dir>/omnidaemon.db'}
routes:
  invoke: {path: /invoke, topic: t, wait: 20s, rollout: {percent: 50, mode: manual}}
topics:
  t: {handler: upstream}
workers: {count: 3}
";

async fn start(upstream: &Upstream) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG).upstream(upstream).set("token", "canary-t0ken").start().await
}

#[tokio::test]
async fn every_metric_exists_from_the_start_on_both_ports() {
    let upstream = Upstream::start().await;
    let omni = start(&upstream).await;
    let admin = omni.admin_client().get("/metrics").await.text();
    let data = omni.client().get("/metrics").await.text();
    for name in omnidaemon::metrics::names::ALL {
        assert!(admin.contains(&format!("# TYPE {name} ")), "{name}");
        assert!(data.contains(&format!("# TYPE {name} ")), "{name}");
    }
    let metrics = omni.metrics().await;
    assert_eq!(metrics.value("omnidaemon_rollout_percent", &[("route", "invoke")]), 50.0);
    eventually(PATIENCE, "the workers are counted", async || {
        omni.metric("omnidaemon_workers_active", &[]).await == 3.0
    })
    .await;
}

#[tokio::test]
async fn labels_come_from_the_config_whatever_is_asked() {
    let upstream = Upstream::start().await;
    let omni = start(&upstream).await;
    let series = async || omni.admin_client().get("/metrics").await.text().lines().count();
    omni.client().get("/warm-up").await;
    let before = series().await;
    for n in 0..200 {
        let method = Method::from_bytes(format!("M{n}").as_bytes()).expect("a method");
        Answer::to(omni.client().request(method, &format!("/nowhere/{n}"))).await;
    }
    assert!(series().await <= before + 2, "a new status code at the most");
}

#[tokio::test]
async fn the_admin_api_asks_for_its_token_and_knows_its_hosts() {
    let upstream = Upstream::start().await;
    let omni = start(&upstream).await;
    let get = |path: &str| omni.admin_client().request(Method::GET, path);
    assert_eq!(Answer::to(get("/livez")).await.status, 200);
    assert_eq!(Answer::to(get("/admin/v1/status")).await.status, 401);
    let status = Answer::to(get("/admin/v1/status").bearer_auth("canary-t0ken")).await;
    assert_eq!((status.status.as_u16(), status.json()["status"].as_str()), (200, Some("healthy")), "{}", status.text());
    assert_eq!(
        Answer::to(get("/admin/v1/status").bearer_auth("canary-t0ken").header("host", "evil")).await.status,
        421
    );
    let post = omni.admin_client().request(Method::POST, "/admin/v1/tasks").bearer_auth("canary-t0ken");
    let foreign = post.header("origin", "http://evil").json(&json!({"topic": "t", "payload": {}}));
    assert_eq!(Answer::to(foreign).await.status, 403);
    assert_eq!(Answer::to(get("/admin/v1/rollouts").bearer_auth("canary-l00k")).await.status, 200);
    let abort = omni.admin_client().request(Method::POST, "/admin/v1/rollouts/invoke/abort").json(&json!({}));
    let refused = Answer::to(abort.bearer_auth("canary-l00k")).await;
    assert_eq!((refused.status.as_u16(), refused.text().contains("may only look")), (403, true), "{}", refused.text());
}

#[tokio::test]
async fn an_upstream_that_is_down_is_degraded_and_stays_in_the_balancer() {
    let mut upstream = Upstream::start().await;
    let omni = start(&upstream).await;
    assert_eq!(omni.admin_client().get("/readyz").await.json()["status"], "ready");
    upstream.stop();
    let ready = omni.admin_client().get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["status"].as_str()), (200, Some("degraded")));
    assert!(ready.json()["checks"]["upstream"].as_str().is_some_and(|why| why.contains(&upstream.url())));
}

#[tokio::test]
async fn sigterm_finishes_what_runs_and_refuses_what_is_new() {
    let upstream = Upstream::start().await;
    let mut omni = start(&upstream).await;
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let client = omni.client();
            let call = json!({"task": "t", "arguments": {"sleep_ms": 1500}});
            tokio::spawn(async move { client.post("/invoke", &call).await })
        })
        .collect();
    eventually(PATIENCE, "the upstream has them", async || upstream.seen().await.requests.len() >= 6).await;
    omni.sigterm();
    let client = omni.client();
    let refused = async || Answer::try_to(client.request(Method::GET, "/echo")).await.is_err();
    eventually(PATIENCE, "new connections are refused", refused).await;
    for call in slow {
        let answer = call.await.expect("a call");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(omni.wait_exit().await.success());
    let text = omni.logs().text();
    assert!(text.contains("draining") && text.contains("drained"), "{text}");
}

#[tokio::test]
async fn a_task_that_outlives_the_drain_is_given_back_and_runs_again() {
    let upstream = Upstream::start().await;
    let config = CONFIG.replace("drain: 20s", "drain: 2s").replace("count: 3", "count: 3, drain: 500ms");
    let mut omni = Omnidaemon::with_config(&config).upstream(&upstream).set("token", "x").start().await;
    let call = json!({"task": "t", "arguments": {"sleep_ms": 4000}});
    let accepted = omni.client().post("/invoke/async", &call).await;
    let id = accepted.json()["task_id"].as_str().expect("an id").to_owned();
    eventually(PATIENCE, "it runs", async || upstream.seen().await.by_key.contains_key(&id)).await;
    omni.sigterm();
    assert!(omni.wait_exit().await.success());
    omni.restart().await;
    eventually(PATIENCE, "it completes", async || {
        omni.client().get(&format!("/task/{id}")).await.json()["status"] == "completed"
    })
    .await;
    let attempts = omni.client().get(&format!("/task/{id}")).await.json()["attempts"].clone();
    assert_eq!(attempts, json!(1), "a release is no attempt");
}

#[tokio::test]
async fn no_secret_is_logged_or_counted() {
    let upstream = Upstream::start().await;
    let config = CONFIG.replace("percent: 50", "percent: 100");
    let launch = Omnidaemon::with_config(&config).upstream(&upstream).set("token", "canary-t0ken");
    let omni = launch.env("RUST_LOG", "debug").start().await;
    let request =
        omni.client().request(Method::POST, "/invoke").bearer_auth("canary-bearer").header("cookie", "s=canary-cookie");
    let answer = Answer::to(request.json(&json!({"task": "canary-body"}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let failing = json!({"task": "t", "arguments": {"status": 500, "body": "canary-answer"}});
    assert_eq!(omni.client().post("/invoke", &failing).await.status, 500);
    eventually(PATIENCE, "the failure is logged", async || omni.logs().contain("attempt failed")).await;
    let (logs, metrics) = (omni.logs().text(), omni.admin_client().get("/metrics").await.text());
    assert!(!logs.contains("canary-") && !metrics.contains("canary-"), "{logs}");
}
