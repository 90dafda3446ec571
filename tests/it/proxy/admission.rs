//! Canaried calls go sync where the async path cannot start them soon: all slots are busy, or no
//! consumer of the topic is live.

use serde_json::json;

use crate::support::http::client::HttpResponse;
use crate::support::process::python::PythonOmnidaemon;
use crate::support::redis::server::RedisServer;
use crate::support::stores::{Store, on_both_stores};
use crate::support::workers::spawn_worker_command;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

const CONFIG: &str = "
upstream: {url: <upstream>}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: t, wait: 30s, rollout: {percent: 100, mode: manual}}
topics:
  t: {handler: upstream, timeout: 1m}
workers: {count: 2, concurrency: 1}
";

/// What is logged of a topic without a live consumer.
const NO_CONSUMER: &str = "no live consumer reads this topic";

on_both_stores!(
    calls_that_do_not_fit_into_the_slots_go_sync,
    saturation_queue_waits_for_a_slot,
    a_topic_has_its_own_slots_beside_a_busy_one,
);

async fn start(config: &str, upstream: &TestUpstream, store: &str) -> Omnidaemon {
    let builder = Omnidaemon::with_config(config).with_upstream(upstream);
    builder.set_placeholder("store", store).start().await
}

/// Calls of one second each, all at once.
async fn call_at_once(omni: &Omnidaemon, calls: usize) -> Vec<HttpResponse> {
    let call = json!({"task": "t", "arguments": {"sleep_ms": 1000}});
    let calls = (0..calls).map(|_| {
        let (client, call) = (omni.data_client(), call.clone());
        tokio::spawn(async move { client.post("/invoke", &call).await })
    });
    let mut answers = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        answers.push(call.await.expect("answered"));
    }
    answers
}

fn count_by_path(answers: &[HttpResponse], path: &str) -> usize {
    answers.iter().filter(|answer| answer.header("x-omnidaemon-path") == Some(path)).count()
}

async fn fallbacks(omni: &Omnidaemon, reason: &str) -> f64 {
    let labels = [("route", "invoke"), ("reason", reason)];
    omni.metric_value("omnidaemon_fallback_total", &labels).await
}

async fn calls_that_do_not_fit_into_the_slots_go_sync(store: Store) {
    let upstream = TestUpstream::start().await;
    let omni = start(CONFIG, &upstream, &store.url()).await;
    let answers = call_at_once(&omni, 12).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let (through_queue, directly) =
        (count_by_path(&answers, "async"), count_by_path(&answers, "sync"));
    assert!(through_queue >= 2, "two slots were free: {through_queue}");
    assert!(directly >= 1, "not all of them fit: {directly}");
    assert_eq!(
        fallbacks(&omni, "saturated").await,
        f64::from(u32::try_from(directly).expect("few"))
    );
    for outcome in ["refused", "deferred", "failed"] {
        let labels = [("route", "invoke"), ("outcome", outcome)];
        let counted = omni.metric_value("omnidaemon_task_outcomes_total", &labels).await;
        assert_eq!(counted, 0.0, "a saturated call is no {outcome} one");
    }
}

async fn saturation_queue_waits_for_a_slot(store: Store) {
    let upstream = TestUpstream::start().await;
    let config = CONFIG.replace("wait: 30s", "wait: 30s, saturation: queue");
    let omni = start(&config, &upstream, &store.url()).await;
    let answers = call_at_once(&omni, 6).await;
    assert_eq!((count_by_path(&answers, "async"), fallbacks(&omni, "saturated").await), (6, 0.0));
}

async fn a_topic_has_its_own_slots_beside_a_busy_one(store: Store) {
    let upstream = TestUpstream::start().await;
    let config = CONFIG.replace("concurrency: 1", "concurrency: none").replace(
        "topics:\n",
        "topics:\n  sleepy: {handler: {command: [sleep, '60']}, timeout: 2m}\n",
    );
    let omni = start(&config, &upstream, &store.url()).await;
    for _ in 0..5 {
        let sleepy = json!({"topic": "sleepy", "payload": {}});
        assert_eq!(omni.data_client().post("/invoke/async", &sleepy).await.status, 202);
    }
    wait_until(TEST_DEADLINE, "both workers run a program", async || {
        omni.metric_value("omnidaemon_workers_busy", &[]).await == 2.0
    })
    .await;
    let answers = call_at_once(&omni, 20).await;
    assert_eq!(count_by_path(&answers, "async"), 20, "32 slots for each worker");
}

#[tokio::test]
async fn without_a_live_worker_calls_go_sync_at_once_until_one_starts() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let config = CONFIG
        .replace("workers: {count: 2, concurrency: 1}", "workers: {count: 0}")
        .replace("wait: 30s", "wait: 2s");
    let mut omni = start(&config, &upstream, &redis.url()).await;
    let client = omni.data_client();
    let path = async || {
        let answer = client.post("/invoke", &json!({"task": "t"})).await;
        // 202 only for what was queued while the killed worker still counted
        assert!(answer.status == 200 || answer.status == 202, "{}", answer.text());
        answer.header("x-omnidaemon-path").map(str::to_owned)
    };
    assert_eq!(path().await.as_deref(), Some("sync"));
    assert_eq!(fallbacks(&omni, "no_worker").await, 1.0);
    omni.process()
        .wait_for_log("the missing worker", 0, |line| line.contains(NO_CONSUMER).then_some(()))
        .await;
    let (worker, _admin) = spawn_worker_command(omni.dir()).await;
    wait_until(TEST_DEADLINE, "calls are async", async || path().await.as_deref() == Some("async"))
        .await;
    drop(worker); // killed: nothing says goodbye
    wait_until(TEST_DEADLINE, "calls are sync", async || path().await.as_deref() == Some("sync"))
        .await;
    assert_eq!(
        omni.metric_value("omnidaemon_topic_slots", &[("topic", "t")]).await,
        0.0,
        "the dead are not counted"
    );
}

#[tokio::test]
async fn an_agent_of_another_name_is_no_consumer_of_the_topic() {
    let (upstream, redis) = (TestUpstream::start().await, RedisServer::start().await);
    let config =
        CONFIG.replace("{handler: upstream, timeout: 1m}", "{handler: external, agent: analyst}");
    let python = PythonOmnidaemon::with_redis(&redis);
    let misspelt = python.build_agent("t", "analist").start().await;
    let mut omni = start(&config, &upstream, &redis.url()).await;
    let warned = |line: &str| line.contains(NO_CONSUMER).then(|| line.to_owned());
    let line = omni.process().wait_for_log("the groups that there are", 0, warned).await;
    assert!(line.contains("group:t:analist") && line.contains("analyst"), "{line}");
    let answer = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-omnidaemon-path")), (200, Some("sync")));
    drop(misspelt);
    let agent = python.build_agent("t", "analyst").start().await;
    omni.wait_until_topic_has_slots("t").await;
    let answer = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-omnidaemon-path")), (200, Some("async")));
    drop(agent);
}
