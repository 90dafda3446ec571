//! One group, served by its agents and by our workers, while both are killed.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::child::ChildProcess;
use crate::support::process::python::PythonOmnidaemon;
use crate::support::redis::server::RedisServer;
use crate::support::scenario::{Scenario, route, scenario, topic};
use crate::support::tasks::submit_task;
use crate::support::{TEST_DEADLINE, wait_for_some, wait_until};

const RECLAIM_IDLE_MS: u64 = 10_000;
/// Tasks that one process may be running: ten for an agent of one consumer, four for ours.
const AT_ONCE: usize = 10;
const KILLS: usize = 8;
/// Seconds for what a last kill left behind: our lease, and a reclaim after that.
const RECOVERY: Duration = Duration::from_mins(2);

async fn start(server: &RedisServer, runs: &Path) -> Scenario {
    let runs = runs.to_str().expect("UTF-8");
    let recording = |name: &str, then: &str| {
        topic(name)
            .shell(&format!("echo $OMNIDAEMON_TASK_ID >> {runs}; {then}"))
            .yaml("agent", "analyst")
            .yaml("reclaim_idle", "10s")
    };
    scenario()
        .no_upstream()
        .redis(server)
        .route(route("invoke").topic("shared"))
        .topic(recording("shared", "sleep 0.2; echo 1"))
        .topic(recording("parked", "exit 1").retry_delay("1d"))
        .workers(2)
        .concurrency(2)
        .start()
        .await
}

async fn agent(python: &PythonOmnidaemon, topic: &str, runs: &Path) -> ChildProcess {
    let agent = python.build_agent(topic, "analyst").set_option("reclaim_idle_ms", RECLAIM_IDLE_MS);
    agent.set_option("runs", runs.to_str().expect("UTF-8")).start().await
}

/// How often each task was begun.
fn begun(runs: &Path) -> HashMap<String, usize> {
    let mut begun = HashMap::new();
    for line in std::fs::read_to_string(runs).unwrap_or_default().lines() {
        *begun.entry(line.to_owned()).or_default() += 1;
    }
    begun
}

#[tokio::test]
async fn a_mixed_fleet_under_kills_loses_no_task_and_runs_few_twice() {
    let seed =
        std::env::var("OMNIDAEMON_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    println!("seed {seed}: OMNIDAEMON_TEST_SEED sets another");
    let mut random = StdRng::seed_from_u64(seed);
    let (server, dir) = (RedisServer::start().await, TempDir::new().expect("a directory"));
    let (python, runs) = (PythonOmnidaemon::with_redis(&server), dir.path().join("runs"));
    let client = start(&server, &runs).await;
    let mut ours = start(&server, &runs).await;
    let mut theirs = [agent(&python, "shared", &runs).await, agent(&python, "shared", &runs).await];
    let mut tasks = Vec::new();
    for _ in 0..KILLS {
        for n in 0..10 {
            tasks.push(submit_task(&client, "shared", &json!({"sleep": 0.2, "n": n})).await);
        }
        let contents: Vec<Value> = (0..10).map(|n| json!({"sleep": 0.2, "n": n})).collect();
        tasks.extend(
            python.publish_tasks("shared", &contents).await.iter().map(|id| format!("/task/{id}")),
        );
        // in the middle of what is queued now
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        match random.random_range(0..3) {
            0 => ours.restart().await,
            which => {
                theirs[which - 1].send_signal(Signal::KILL);
                theirs[which - 1] = agent(&python, "shared", &runs).await;
            }
        }
    }
    for task in &tasks {
        wait_for_some(RECOVERY, &format!("{task} completes"), async || {
            let answer = client.data_client().get(task).await;
            let ended = answer.status == 200
                && !["queued", "processing"].contains(&answer.json()["status"].as_str()?);
            ended.then(|| assert_eq!(answer.json()["status"], "completed", "{}", answer.text()))
        })
        .await;
    }
    let begun = begun(&runs);
    assert_eq!(begun.len(), tasks.len(), "every task ran");
    let again = begun.values().sum::<usize>() - tasks.len();
    println!("{} tasks, {KILLS} kills, {again} begun again", tasks.len());
    assert!(again <= KILLS * AT_ONCE, "{again} begun again");
}

#[tokio::test]
async fn a_parked_retry_is_not_stolen_by_the_reclaim_of_an_agent() {
    let (server, dir) = (RedisServer::start().await, TempDir::new().expect("a directory"));
    let (python, runs) = (PythonOmnidaemon::with_redis(&server), dir.path().join("runs"));
    let omni = start(&server, &runs).await;
    let parked = submit_task(&omni, "parked", &json!({})).await;
    wait_until(TEST_DEADLINE, "it has failed once and waits", async || {
        let task = omni.data_client().get(&parked).await.json();
        task["status"] == "queued" && task["attempts"] == 1
    })
    .await;
    let agent = agent(&python, "parked", &runs).await;
    // an entry of an agent that died, later than the parked one: what was stolen would be so before
    // this is
    let orphan = orphan(&server, "parked", "analyst").await;
    wait_until(TEST_DEADLINE, "the orphan is reclaimed", async || {
        begun(&runs).contains_key(&orphan)
    })
    .await;
    assert_eq!(begun(&runs)[parked.trim_start_matches("/task/")], 1);
    assert_eq!(omni.data_client().get(&parked).await.json()["status"], "queued");
    drop(agent);
}

/// A task that a consumer read and died with.
async fn orphan(server: &RedisServer, topic: &str, agent: &str) -> String {
    let (stream, group) = (format!("omni-stream:{topic}"), format!("group:{topic}:{agent}"));
    let message =
        json!({"content": "{}", "task_id": "orphan", "topic": topic, "delivery_attempts": 1})
            .to_string();
    let mut redis = server.connect().await;
    let mut pipe = redis::pipe();
    pipe.atomic().cmd("XADD").arg(&stream).arg("*").arg("data").arg(message).ignore();
    pipe.cmd("XREADGROUP").arg("GROUP").arg(&group).arg(format!("consumer:{agent}-7"));
    pipe.arg("COUNT").arg(100).arg("STREAMS").arg(&stream).arg(">").ignore();
    pipe.exec_async(&mut redis).await.expect("added and read");
    "orphan".into()
}
