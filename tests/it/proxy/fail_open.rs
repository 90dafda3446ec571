//! No `/invoke` fails because the store does: Redis killed and brought back under load, refusing,
//! or not there from the start.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::http::client::HttpResponse;
use crate::support::http::fault::FaultProxy;
use crate::support::redis::server::RedisServer;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>', timeout: 500ms}
routes:
  invoke: {path: /invoke, topic: t, wait: 3s, rollout: {percent: 100, mode: manual}}
topics:
  t: {handler: upstream}
workers: {count: 4, concurrency: 4}
";

pub(crate) async fn start(upstream: &TestUpstream, store: &str) -> Omnidaemon {
    Omnidaemon::with_config(CONFIG)
        .with_upstream(upstream)
        .set_placeholder("store", store)
        .start()
        .await
}

/// Clients that call one after the other until they are stopped, and count what they got.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    pub(crate) sync: Arc<AtomicUsize>,
    pub(crate) through: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(omni: &Omnidaemon, clients: usize) -> Self {
        let (stop, sync, through) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicUsize>::default(),
            Arc::<AtomicUsize>::default(),
        );
        let tasks = (0..clients)
            .map(|_| {
                let (client, stop, sync, through) =
                    (omni.data_client(), stop.clone(), sync.clone(), through.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = client.post("/invoke", &json!({"task": "t"})).await;
                        // 202 where the task was queued and could not be run before `wait` was
                        // over: deferred, not failed.
                        assert!(
                            answer.status == 200 || answer.status == 202,
                            "{}: {}",
                            answer.status,
                            answer.text()
                        );
                        let path = answer.header("x-omnidaemon-path");
                        let counter = if path == Some("sync") { &sync } else { &through };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { stop, sync, through, tasks }
    }

    pub(crate) async fn until(&self, what: &str, counter: &AtomicUsize, more: usize) {
        let from = counter.load(Ordering::Relaxed);
        wait_until(TEST_DEADLINE, what, async || counter.load(Ordering::Relaxed) >= from + more)
            .await;
    }

    pub(crate) async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no call failed");
        }
    }
}

#[tokio::test]
async fn redis_killed_and_restarted_under_load_fails_no_call() {
    let upstream = TestUpstream::start().await;
    let mut redis = RedisServer::start().await;
    let omni = start(&upstream, &redis.url()).await;
    let load = Load::start(&omni, 8);
    load.until("calls go async", &load.through, 50).await;
    for _ in 0..2 {
        redis.kill();
        load.until("calls go sync while redis is down", &load.sync, 50).await;
        let ready = omni.admin_client().get("/readyz").await;
        assert_eq!(
            (ready.status.as_u16(), ready.json()["status"].as_str()),
            (200, Some("degraded"))
        );
        redis.restart().await;
        load.until("calls go async again", &load.through, 50).await;
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
    let upstream = TestUpstream::start().await;
    let redis = RedisServer::start().await;
    let fault = FaultProxy::start(&redis.addr()).await;
    let omni = start(&upstream, &format!("redis://{}", fault.addr())).await;
    let load = Load::start(&omni, 4);
    load.until("calls go async", &load.through, 20).await;
    fault.blackhole();
    load.until("calls go sync while redis hangs", &load.sync, 50).await;
    fault.pass_through();
    load.until("calls go async again", &load.through, 50).await;
    load.finish().await;
}

/// Four calls at once, when redis has just stopped answering: none knows whether its task is there.
async fn four_calls_into_the_void(
    config: &str,
) -> (Omnidaemon, TestUpstream, RedisServer, FaultProxy, Vec<HttpResponse>) {
    let upstream = TestUpstream::start().await;
    let redis = RedisServer::start().await;
    let fault = FaultProxy::start(&redis.addr()).await;
    let url = format!("redis://{}", fault.addr());
    let omni = Omnidaemon::with_config(config)
        .with_upstream(&upstream)
        .set_placeholder("store", url)
        .start()
        .await;
    assert_eq!(omni.data_client().post("/invoke", &json!({"task": "t"})).await.status, 200);
    upstream.clear_requests().await;
    fault.blackhole();
    let calls = (0..4).map(|n| {
        let request = omni
            .data_client()
            .request(http::Method::POST, "/invoke")
            .header("x-test-id", format!("call-{n}"));
        HttpResponse::from_request(request.json(&json!({"task": "t"})))
    });
    let answers = futures_util::future::join_all(calls).await;
    (omni, upstream, redis, fault, answers)
}

#[tokio::test]
async fn a_call_whose_enqueue_was_never_answered_is_served_sync_and_its_task_never_runs() {
    let (omni, upstream, _redis, fault, answers) = four_calls_into_the_void(CONFIG).await;
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
    let by_id = upstream.fetch_requests().await.by_id;
    assert!((0..4).all(|n| by_id[&format!("call-{n}")] == 1), "each ran once: {by_id:?}");
}

#[tokio::test]
async fn with_on_unknown_refuse_such_a_call_is_503_and_does_not_run() {
    let config = CONFIG.replace("wait: 3s", "wait: 3s, on_unknown: refuse");
    let (omni, upstream, _redis, fault, answers) = four_calls_into_the_void(&config).await;
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
    let by_id = upstream.fetch_requests().await.by_id;
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
    let config = CONFIG
        .replace("{handler: upstream}", "{handler: {command: [sh, -c, 'cat >> ran; echo 1']}}");
    let (omni, _upstream, _redis, fault, _) = four_calls_into_the_void(&config).await;
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
    let upstream = TestUpstream::start().await;
    let redis = RedisServer::start().await;
    let omni = start(&upstream, &redis.url()).await;
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
    let upstream = TestUpstream::start().await;
    let mut redis = RedisServer::start().await;
    redis.kill();
    let omni = start(&upstream, &redis.url()).await;
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
