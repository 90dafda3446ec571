//! The playbook's calendar: `config/rollout-playbook.yaml` with its days made seconds, real traffic
//! through a real FastAPI upstream, a real Redis and a real Prometheus; and again with something
//! going wrong in each phase.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::traffic::Traffic;
use super::{event_names, fetch_rollout, wait_for_phase, wait_for_rollout, wait_for_weight};
use crate::support::process::child::ChildProcess;
use crate::support::prometheus::PrometheusServer;
use crate::support::redis::server::RedisServer;
use crate::support::{Omnidaemon, TEST_DEADLINE, TestUpstream, wait_until};

const PLAYBOOK: &str = include_str!("../../../config/rollout-playbook.yaml");

/// Days are seconds, and what takes a day's traffic to certify is coarser. Everything else is the
/// file.
const COMPRESSED: [(&str, &str); 13] = [
    ("127.0.0.1:8000", "127.0.0.1:0"),
    ("127.0.0.1:8001", "127.0.0.1:0"),
    ("http://127.0.0.1:9000", "<upstream>"),
    ("${REDIS_URL:-sqlite:data/omnidaemon.db}", "<redis>, timeout: 500ms"),
    ("soak: 1d", "soak: 2s"),
    ("interval: 30s", "interval: 300ms"),
    ("min_samples: {async: 600, sync: 600}", "min_samples: {async: 30, sync: 0}"),
    ("max: 1%, margin: 0.5%", "max: 20%"),
    ("max: 5%, margin: 2%", "max: 20%"),
    ("deferred_ratio, max: 5%", "deferred_ratio, max: 20%"),
    ("threshold: 2m, max: 5%, margin: 1%", "threshold: 1s, max: 20%"),
    ("workers: {count: 5}", "workers: {count: 0, concurrency: 32}"),
    (
        "      breaker:",
        "      - {name: lag, type: prometheus, query: 'max(omnidaemon_queue_oldest_seconds)', \
            max: 30}\n      \
         prometheus: {url: '<prometheus>', timeout: 2s, max_staleness: 5s, grace: 2s}\n      \
         breaker:",
    ),
];

/// Everything that takes part.
struct Story {
    _upstream: TestUpstream,
    redis: RedisServer,
    prometheus: PrometheusServer,
    omni: Omnidaemon,
    workers: Option<ChildProcess>,
    traffic: Traffic,
}

impl Story {
    async fn begin() -> Self {
        let (upstream, redis, prometheus) =
            tokio::join!(TestUpstream::start(), RedisServer::start(), PrometheusServer::start());
        let mut file = PLAYBOOK.to_owned();
        for (from, to) in COMPRESSED {
            assert!(file.contains(from), "the playbook's file has no {from:?}");
            file = file.replace(from, to);
        }
        let launch = Omnidaemon::with_config(&file)
            .with_upstream(&upstream)
            .set_placeholder("redis", redis.url());
        let omni = launch
            .set_placeholder("prometheus", prometheus.url())
            .with_env("OMNIDAEMON_LEASE", "6s")
            .start()
            .await;
        prometheus.scrape_targets(&[omni.admin_url("").replace("http://", "")]).await;
        let workers = Some(omni.spawn_command("workers", &["worker", "--count", "2"]));
        let traffic = Traffic::on(vec![omni.data_client()]);
        Self { _upstream: upstream, redis, prometheus, omni, workers, traffic }
    }

    async fn at(weight: f64) -> Self {
        let story = Self::begin().await;
        wait_for_weight(&story.omni, weight).await;
        story
    }

    /// It turns back, and from then on clients are served as before there was a canary.
    async fn turns_back(self) -> Value {
        let degraded = wait_for_phase(&self.omni, "degraded").await;
        assert_eq!(
            event_names(&self.omni).await.last().map(String::as_str),
            Some("rollback"),
            "{degraded:#}"
        );
        self.traffic.ask(json!({}));
        let mut served = 0; // in a row, by the sync path
        wait_until(TEST_DEADLINE, "what was under way has ended", async || {
            let told = self.traffic.take();
            served = if told.by_path("async") == 0 { served + told.by_path("sync") } else { 0 };
            served > 20
        })
        .await;
        let told = self.traffic.stop().await;
        assert_eq!(told.failed_on_sync(), 0, "{told:?}");
        degraded
    }
}

fn reason(rollout: &Value) -> &str {
    rollout["reason"].as_str().expect("a reason")
}

#[tokio::test]
async fn the_playbook_is_climbed_and_ends_in_deprecation() {
    let mut story = Story::begin().await;
    let healthy = wait_for_phase(&story.omni, "healthy").await;
    assert_eq!(healthy["weight"], 100.0, "{healthy:#}");
    assert_eq!(event_names(&story.omni).await, ["step"; 5]);
    let told = story.traffic.take();
    assert_eq!(told.failed(), 0, "no client noticed: {told:?}");
    assert!(told.by_path("sync") > 0 && told.by_path("async") > 0, "{told:?}");

    // week 2
    story.omni.edit_config(|yaml| {
        yaml.replace("mode: none ", "mode: announce ")
            .replace("# sunset_at", "sunset_at")
            .replace("# deprecated_at", "deprecated_at")
    });
    story.omni.wait_until_config_applied().await;
    let announced = story.omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    assert_eq!(announced.status, 200);
    assert!(
        announced.header("deprecation").is_some() && announced.header("sunset").is_some(),
        "{announced:?}"
    );
    story.traffic.stop().await;
    story.omni.edit_config(|yaml| yaml.replace("mode: announce ", "mode: gone "));
    story.omni.wait_until_config_applied().await;
    let gone = story.omni.data_client().post("/invoke", &json!({"task": "t"})).await;
    assert_eq!(gone.status, 410);
    let task = story.omni.data_client().post("/invoke/async", &json!({"task": "t"})).await;
    assert_eq!(task.status, 202, "the successor stays");
}

#[tokio::test]
async fn errors_in_phase_1_turn_it_back() {
    let story = Story::at(10.0).await;
    story.traffic.ask(json!({"replayed": {"status": 500}}));
    let degraded = story.turns_back().await;
    assert!(reason(&degraded).contains("async failed"), "{degraded:#}");
}

#[tokio::test]
async fn latency_in_phase_2_turns_it_back_and_no_client_fails() {
    let story = Story::at(25.0).await;
    story.traffic.take();
    story.traffic.ask(json!({"replayed": {"sleep_ms": 1200}}));
    wait_for_phase(&story.omni, "degraded").await;
    let told = story.traffic.take();
    assert_eq!(told.failed(), 0, "{told:?}");
    let degraded = story.turns_back().await;
    assert!(reason(&degraded).contains("e2e"), "{degraded:#}");
}

#[tokio::test]
async fn answers_of_401_in_phase_3_turn_it_back() {
    let story = Story::at(50.0).await;
    story.traffic.ask(json!({"replayed": {"status": 401}}));
    let degraded = story.turns_back().await;
    assert!(reason(&degraded).contains("client_errors"), "{degraded:#}");
}

#[tokio::test]
async fn errors_at_100_percent_turn_it_back() {
    let story = Story::at(100.0).await;
    story.traffic.ask(json!({"replayed": {"status": 500}}));
    story.turns_back().await;
}

/// The soak is over before the first of them fails: nothing is raised on what has no outcome.
#[tokio::test]
async fn failures_that_come_late_are_waited_for() {
    let story = Story::begin().await;
    story.traffic.ask(json!({"replayed": {"sleep_ms": 2500, "status": 500}}));
    let mut highest: f64 = 0.0;
    wait_for_rollout(&story.omni, "degraded", |rollout| {
        highest = highest.max(rollout["weight"].as_f64().expect("a number"));
        rollout["phase"] == "degraded"
    })
    .await;
    assert_eq!(highest, 10.0, "it was raised while failures were under way");
    story.turns_back().await;
}

#[tokio::test]
async fn redis_lost_in_phase_2_fails_nobody_and_it_goes_on_by_itself() {
    let mut story = Story::at(25.0).await;
    story.redis.kill();
    let (mut served, mut failed) = (0, 0);
    wait_until(TEST_DEADLINE, "calls go the old way", async || {
        let told = story.traffic.take();
        (served, failed) = (served + told.by_path("sync"), failed + told.failed());
        served > 200
    })
    .await;
    assert_eq!(failed, 0);
    assert_eq!(fetch_rollout(&story.omni).await["weight"], 25.0, "the desired weight stays");
    story.redis.restart().await;
    wait_for_phase(&story.omni, "healthy").await;
    let told = story.traffic.stop().await;
    assert_eq!(told.failed(), 0, "{told:?}");
    assert_eq!(event_names(&story.omni).await, ["step"; 5]);
}

#[tokio::test]
async fn prometheus_lost_in_phase_3_holds_the_step_and_nothing_else() {
    let mut story = Story::at(50.0).await;
    story.prometheus.kill().await;
    let paused = wait_for_phase(&story.omni, "paused").await;
    assert_eq!(
        (&paused["pause_reason"], &paused["weight"]),
        (&json!("metrics_unavailable"), &json!(50.0)),
        "{paused:#}"
    );
    let told = story.traffic.take();
    assert_eq!(told.failed(), 0, "{told:?}");
    story.prometheus.restart().await;
    wait_for_phase(&story.omni, "healthy").await;
    let told = story.traffic.stop().await;
    assert_eq!(told.failed(), 0, "{told:?}");
    assert_eq!(
        event_names(&story.omni).await,
        ["step", "step", "step", "pause", "resume", "step", "step"]
    );
}

/// The built-in gates need no Prometheus.
#[tokio::test]
async fn errors_while_prometheus_is_lost_turn_it_back_too() {
    let mut story = Story::at(25.0).await;
    story.prometheus.kill().await;
    story.traffic.ask(json!({"replayed": {"status": 500}}));
    story.turns_back().await;
}

/// Canaried clients are told to poll, which is noticed; their tasks are run once there are workers
/// again.
#[tokio::test]
async fn a_dead_worker_fleet_turns_it_back_and_loses_nothing() {
    let mut story = Story::at(25.0).await;
    let mut workers = story.workers.take().expect("they run");
    workers.send_signal(Signal::TERM);
    workers.wait_for_exit().await;
    story.traffic.take();
    wait_for_phase(&story.omni, "degraded").await;
    let told = story.traffic.take();
    assert_eq!(told.failed(), 0, "{told:?}");
    assert!(told.with_status(202) > 0, "{told:?}");
    let workers = story.omni.spawn_command("workers", &["worker", "--count", "2"]);
    wait_until(TEST_DEADLINE * 2, "what was accepted has ended", async || {
        let topics = story.omni.admin_client().get("/admin/v1/topics").await.json();
        let topic = topics
            .as_array()
            .expect("topics")
            .iter()
            .find(|topic| topic["topic"] == "genesis.meta.orchestrate");
        topic.is_some_and(|topic| topic["queued"] == 0 && topic["processing"] == 0)
    })
    .await;
    story.workers = Some(workers);
    let degraded = story.turns_back().await;
    assert!(
        reason(&degraded).contains("deferred") || reason(&degraded).contains("waiting"),
        "{degraded:#}"
    );
}
