//! Single faults, each with the outcome that `docs/guarantees.md` promises for it.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::history::Event;
use super::journal::{Journal, Work, serve_handlers};
use crate::harness::metrics::Metrics;
use crate::harness::process::Process;
use crate::harness::redis::RedisServer;
use crate::harness::{Omnidaemon, PATIENCE, eventually, eventually_some};

const CONFIG: &str = "
upstream: {url: 'http://<handlers>'}
store: {url: '<store>'}
routes:
  invoke: {path: /invoke, topic: service, rollout: {percent: 0, mode: manual}}
topics:
  service: {handler: {http: 'http://<handlers>/service'}, retries: 3, retry_delay: 100ms}
  storm: {handler: {http: 'http://<handlers>/service'}, retries: 2, retry_delay: 1ms}
  poison: {handler: {command: [sh, -c, 'kill -9 $PPID; sleep 60']}, retries: 0}
workers: {count: 0, drain: 20s}
results: {ttl: <ttl>}
";
const LEASE: &str = "3s";

/// A proxy without workers over Redis, and the handlers that its runners call.
pub(super) struct Stage {
    pub(super) omni: Omnidaemon,
    pub(super) redis: RedisServer,
    journal: Journal,
    _dir: tempfile::TempDir,
}

impl Stage {
    pub(super) async fn set() -> Self {
        Self::with_results_for("1h").await
    }

    async fn with_results_for(ttl: &str) -> Self {
        let (redis, dir) = (RedisServer::start().await, tempfile::tempdir().expect("a directory"));
        let journal = Journal::at(&dir.path().join("journal"));
        let handlers = serve_handlers(journal.clone()).await;
        let launch = Omnidaemon::with_config(CONFIG).set("handlers", handlers).set("store", redis.url());
        let omni = launch.set("ttl", ttl).env("OMNIDAEMON_LEASE", LEASE).start().await;
        Self { omni, redis, journal, _dir: dir }
    }

    pub(super) fn runner(&self, name: &str) -> Process {
        self.omni.beside(name, &["runner", "--name", name])
    }

    pub(super) async fn submit(&self, topic: &str, sleep_ms: u64) -> String {
        let payload = Work { sleep_ms, fail: if topic == "storm" { 9 } else { 0 } };
        let accepted = self.omni.client().post("/invoke/async", &json!({"topic": topic, "payload": payload})).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        accepted.json()["poll_url"].as_str().expect("a poll URL").to_owned()
    }

    pub(super) async fn task(&self, poll: &str) -> Value {
        self.omni.client().get(poll).await.json()
    }

    pub(super) async fn ended(&self, poll: &str) -> Value {
        eventually_some(PATIENCE * 2, "the task ends", async || {
            let task = self.task(poll).await;
            (task["status"] != "queued" && task["status"] != "processing").then_some(task)
        })
        .await
    }

    /// The attempts that began, in order.
    pub(super) fn begun(&self) -> Vec<u32> {
        let attempt = |entry: super::history::Entry| match entry.event {
            Event::Begun { attempt, .. } => Some(attempt),
            _ => None,
        };
        self.journal.read().into_iter().filter_map(attempt).collect()
    }
}

#[tokio::test]
async fn a_worker_frozen_past_its_lease_wakes_up_fenced_and_there_is_one_result() {
    let stage = Stage::set().await;
    let mut frozen = stage.runner("frozen");
    let poll = stage.submit("service", 1000).await;
    eventually(PATIENCE, "it begins", async || stage.begun() == [1]).await;
    frozen.signal(Signal::STOP);
    let _other = stage.runner("other");
    let first = stage.ended(&poll).await;
    assert_eq!((&first["status"], &first["attempts"]), (&json!("completed"), &json!(2)), "{first}");
    // It wakes up, has its answer and gives it to the store, which wants it no more.
    frozen.signal(Signal::CONT);
    frozen.signal(Signal::TERM);
    assert_eq!(frozen.wait_exit().await.code(), Some(0));
    assert_eq!(stage.task(&poll).await, first, "nothing has changed");
    assert_eq!(stage.begun(), [1, 2]);
}

#[tokio::test]
async fn a_task_longer_than_its_lease_runs_once_beside_four_workers() {
    let stage = Stage::set().await;
    let _workers: Vec<_> = (1..=4).map(|n| stage.runner(&format!("worker-{n}"))).collect();
    let poll = stage.submit("service", 10_000).await;
    let task = stage.ended(&poll).await;
    assert_eq!((&task["status"], &task["attempts"]), (&json!("completed"), &json!(1)), "{task}");
    assert_eq!(stage.begun(), [1]);
}

#[tokio::test]
async fn what_was_published_before_any_worker_existed_runs() {
    let stage = Stage::set().await;
    let mut polls = Vec::new();
    for _ in 0..30 {
        polls.push(stage.submit("service", 0).await);
    }
    let _worker = stage.runner("late");
    for poll in &polls {
        assert_eq!(stage.ended(poll).await["status"], "completed");
    }
    assert_eq!(stage.begun(), [1; 30]);
}

#[tokio::test]
async fn a_task_that_kills_its_workers_is_a_dead_letter_and_the_others_run() {
    let stage = Stage::set().await;
    let args = ["worker", "--count", "2", "--admin-listen", "127.0.0.1:0"];
    let mut workers = stage.omni.beside("workers", &args);
    let listening = |line: &str| crate::harness::proxy::bound(line, "admin");
    let admin = workers.log("its admin address", 0, listening).await;
    let poison = stage.submit("poison", 0).await;
    let mut polls = Vec::new();
    for _ in 0..10 {
        polls.push(stage.submit("service", 10).await);
    }
    let dead = stage.ended(&poison).await;
    assert_eq!((&dead["status"], &dead["attempts"]), (&json!("failed"), &json!(3)), "{dead}");
    for poll in &polls {
        assert_eq!(stage.ended(poll).await["status"], "completed");
    }
    let letters = stage.omni.admin_client().get("/admin/v1/dead-letters?topic=poison").await.json();
    assert_eq!(letters.as_array().map(Vec::len), Some(1), "{letters}");
    let metrics = crate::harness::client::Client::new(&format!("http://{admin}")).get("/metrics").await.text();
    assert_eq!(Metrics::parse(&metrics).value("omnidaemon_workers_crashed_total", &[]), 3.0);
}

/// `OMNIDAEMON_SOAK` is how many tasks.
#[tokio::test]
async fn memory_and_what_is_left_in_redis_stay_flat_over_many_tasks() {
    let tasks = std::env::var("OMNIDAEMON_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let stage = Stage::with_results_for("1s").await;
    let runners = [stage.runner("worker-1"), stage.runner("worker-2")];
    let resident = || {
        let of = |process: &Process| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident pages");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        runners.iter().map(of).sum::<u64>()
    };
    let run = async |tasks: usize| {
        let from = stage.begun().len();
        for _ in 0..tasks {
            stage.submit("service", 0).await;
        }
        eventually(PATIENCE * 4, "all have run", async || stage.begun().len() == from + tasks).await;
    };
    run(tasks / 3).await;
    let warm = resident();
    run(tasks - tasks / 3).await;
    let grown = resident().saturating_sub(warm);
    assert!(grown < 16 * 1024, "{grown} kB more after {tasks} tasks than the {warm} kB after a third of them");
    let mut redis = stage.redis.connection().await;
    eventually(PATIENCE, "redis holds nothing of them", async || {
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.expect("answers");
        let of_a_task = |key: &&String| key.contains(":task:") || key.contains(":result:");
        let length: u64 = redis::cmd("XLEN").arg("omni-stream:service").query_async(&mut redis).await.expect("answers");
        length == 0 && !keys.iter().any(|key| of_a_task(&key))
    })
    .await;
    let group: redis::streams::StreamInfoGroupsReply =
        redis::cmd("XINFO").arg("GROUPS").arg("omni-stream:service").query_async(&mut redis).await.expect("answers");
    assert_eq!((group.groups[0].pending, group.groups[0].consumers), (0, 2));
}
