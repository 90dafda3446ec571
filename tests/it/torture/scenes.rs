//! Single faults, each with the outcome that `docs/guarantees.md` promises for it.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::history::TortureEvent;
use super::journal::{HandlerWork, TortureJournal, serve_handlers};
use crate::support::metrics::ScrapedMetrics;
use crate::support::process::child::ChildProcess;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{route, scenario, topic};
use crate::support::tasks::{submit_task, wait_for_task_end};
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

/// Kills the runner: the parent of the guard process that is the parent of the program.
const KILL_RUNNER: &str = "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat); sleep 60";

const LEASE_SETTING: &str = "3s";

/// A proxy without workers over Redis, and the handlers that its runners call.
pub(super) struct FaultStage {
    pub(super) omni: Omnidaemon,
    pub(super) redis: RedisServer,
    journal: TortureJournal,
    _dir: tempfile::TempDir,
}

impl FaultStage {
    pub(super) async fn start() -> Self {
        Self::start_with_ttl("1h").await
    }

    async fn start_with_ttl(ttl: &str) -> Self {
        let (redis, dir) = (RedisServer::start().await, tempfile::tempdir().expect("a directory"));
        let journal = TortureJournal::open(&dir.path().join("journal"));
        let handlers = serve_handlers(journal.clone()).await;
        let service = |name: &str| topic(name).http("<upstream>/service");
        let omni = scenario()
            .upstream_url(format!("http://{handlers}"))
            .redis(&redis)
            .route(route("invoke").topic("service"))
            .topic(service("service").retries(3).retry_delay("100ms"))
            .topic(service("storm").retries(2).retry_delay("1ms"))
            .topic(topic("poison").shell(KILL_RUNNER).retries(0))
            .workers(0)
            .yaml("workers.drain", "20s")
            .yaml("results.ttl", ttl)
            .env("OMNIDAEMON_LEASE", LEASE_SETTING)
            .start_server()
            .await;
        Self { omni, redis, journal, _dir: dir }
    }

    pub(super) fn spawn_runner(&self, name: &str) -> ChildProcess {
        self.omni.spawn_command(name, &["runner", "--name", name])
    }

    pub(super) async fn submit_task(&self, topic: &str, sleep_ms: u64) -> String {
        let payload = HandlerWork { sleep_ms, fail: if topic == "storm" { 9 } else { 0 } };
        submit_task(&self.omni, topic, payload).await
    }

    pub(super) async fn fetch_task(&self, poll: &str) -> Value {
        self.omni.data_client().get(poll).await.json()
    }

    pub(super) async fn wait_for_end(&self, poll: &str) -> Value {
        wait_for_task_end(&self.omni, poll).await
    }

    /// The attempts that began, in order.
    pub(super) fn begun_attempts(&self) -> Vec<u32> {
        let attempt = |entry: super::history::JournalEntry| match entry.event {
            TortureEvent::Begun { attempt, .. } => Some(attempt),
            _ => None,
        };
        self.journal.read_entries().into_iter().filter_map(attempt).collect()
    }
}

#[tokio::test]
async fn a_worker_frozen_past_its_lease_wakes_up_fenced_and_there_is_one_result() {
    let stage = FaultStage::start().await;
    let mut frozen = stage.spawn_runner("frozen");
    let poll = stage.submit_task("service", 1000).await;
    wait_until(TEST_DEADLINE, "it begins", async || stage.begun_attempts() == [1]).await;
    frozen.send_signal(Signal::STOP);
    let _other = stage.spawn_runner("other");
    let first = stage.wait_for_end(&poll).await;
    assert_eq!((&first["status"], &first["attempts"]), (&json!("completed"), &json!(2)), "{first}");
    // It wakes up, has its answer and gives it to the store, which wants it no more.
    frozen.send_signal(Signal::CONT);
    frozen.send_signal(Signal::TERM);
    assert_eq!(frozen.wait_for_exit().await.code(), Some(0));
    assert_eq!(stage.fetch_task(&poll).await, first, "nothing has changed");
    assert_eq!(stage.begun_attempts(), [1, 2]);
}

#[tokio::test]
async fn a_task_longer_than_its_lease_runs_once_beside_four_workers() {
    let stage = FaultStage::start().await;
    let _workers: Vec<_> = (1..=4).map(|n| stage.spawn_runner(&format!("worker-{n}"))).collect();
    let poll = stage.submit_task("service", 10_000).await;
    let task = stage.wait_for_end(&poll).await;
    assert_eq!((&task["status"], &task["attempts"]), (&json!("completed"), &json!(1)), "{task}");
    assert_eq!(stage.begun_attempts(), [1]);
}

#[tokio::test]
async fn what_was_published_before_any_worker_existed_runs() {
    let stage = FaultStage::start().await;
    let mut polls = Vec::new();
    for _ in 0..30 {
        polls.push(stage.submit_task("service", 0).await);
    }
    let _worker = stage.spawn_runner("late");
    for poll in &polls {
        assert_eq!(stage.wait_for_end(poll).await["status"], "completed");
    }
    assert_eq!(stage.begun_attempts(), [1; 30]);
}

#[tokio::test]
async fn a_task_that_kills_its_workers_is_a_dead_letter_and_the_others_run() {
    let stage = FaultStage::start().await;
    let args = ["worker", "--count", "2", "--admin-listen", "127.0.0.1:0"];
    let mut workers = stage.omni.spawn_command("workers", &args);
    let listening = |line: &str| crate::support::server::parse_listen_address(line, "admin");
    let admin = workers.wait_for_log("its admin address", 0, listening).await;
    let poison = stage.submit_task("poison", 0).await;
    let mut polls = Vec::new();
    for _ in 0..10 {
        polls.push(stage.submit_task("service", 10).await);
    }
    let dead = stage.wait_for_end(&poison).await;
    assert_eq!((&dead["status"], &dead["attempts"]), (&json!("failed"), &json!(3)), "{dead}");
    for poll in &polls {
        assert_eq!(stage.wait_for_end(poll).await["status"], "completed");
    }
    let letters = stage.omni.admin_client().get("/admin/v1/dead-letters?topic=poison").await.json();
    assert_eq!(letters.as_array().map(Vec::len), Some(1), "{letters}");
    let metrics = crate::support::http::client::HttpClient::new(&format!("http://{admin}"))
        .get("/metrics")
        .await
        .text();
    assert_eq!(ScrapedMetrics::parse(&metrics).value("omnidaemon_workers_crashed_total", &[]), 3.0);
}

/// `OMNIDAEMON_SOAK` is how many tasks.
#[tokio::test]
async fn memory_and_what_is_left_in_redis_stay_flat_over_many_tasks() {
    let tasks =
        std::env::var("OMNIDAEMON_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let stage = FaultStage::start_with_ttl("1s").await;
    let runners = [stage.spawn_runner("worker-1"), stage.spawn_runner("worker-2")];
    let resident = || {
        let of = |process: &ChildProcess| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))
                .expect("it runs");
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))
                .expect("resident pages");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        runners.iter().map(of).sum::<u64>()
    };
    let run = async |tasks: usize| {
        let from = stage.begun_attempts().len();
        for _ in 0..tasks {
            stage.submit_task("service", 0).await;
        }
        wait_until(TEST_DEADLINE * 4, "all have run", async || {
            stage.begun_attempts().len() == from + tasks
        })
        .await;
    };
    run(tasks / 3).await;
    let warm = resident();
    run(tasks - tasks / 3).await;
    let grown = resident().saturating_sub(warm);
    assert!(
        grown < 16 * 1024,
        "{grown} kB more after {tasks} tasks than the {warm} kB after a third of them"
    );
    let mut redis = stage.redis.connect().await;
    wait_until(TEST_DEADLINE, "redis holds nothing of them", async || {
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("*").query_async(&mut redis).await.expect("answers");
        let of_a_task = |key: &&String| key.contains(":task:") || key.contains(":result:");
        let length: u64 = redis::cmd("XLEN")
            .arg("omni-stream:service")
            .query_async(&mut redis)
            .await
            .expect("answers");
        length == 0 && !keys.iter().any(|key| of_a_task(&key))
    })
    .await;
    let group: redis::streams::StreamInfoGroupsReply = redis::cmd("XINFO")
        .arg("GROUPS")
        .arg("omni-stream:service")
        .query_async(&mut redis)
        .await
        .expect("answers");
    assert_eq!((group.groups[0].pending, group.groups[0].consumers), (0, 2));
}
