//! `durability: wait`: a task is taken when a replica has it, too, and not otherwise.

use std::sync::Arc;
use std::time::Duration;

use omnidaemon::config::{StoreConfig, StoreDurability};
use omnidaemon::store::{
    RedisStore, SettleResult, Settlement, StoreError, StoreRefusal, TaskStore, TopicQueue,
};
use omnidaemon::task::{Task, TaskAnswer, TaskId, Topic};
use redis::AsyncCommands as _;
use rustix::process::Signal;
use serde_json::json;

use crate::support::redis::server::RedisServer;
use crate::support::scenario::scenario;
use crate::support::wall_clock::wall_clock_now;
use crate::support::{TEST_DEADLINE, wait_until};

fn replica_of(master: &RedisServer) -> Vec<String> {
    let port = master.port().to_string();
    ["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"].map(str::to_owned).into()
}

/// A master and its replica.
async fn pair(valkey: bool, more: &[&str]) -> (RedisServer, RedisServer) {
    let start = async |extra: &[&str]| {
        if valkey {
            RedisServer::start_valkey_with(extra).await
        } else {
            RedisServer::start_with(extra).await
        }
    };
    let master = start(&["--repl-diskless-sync-delay", "0"]).await;
    let arguments = replica_of(&master);
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let replica = start(&arguments).await;
    (master, replica)
}

fn waiting_for(timeout: Duration, server: &RedisServer) -> Arc<dyn TaskStore> {
    let config = StoreConfig {
        durability: StoreDurability::WaitForReplica,
        timeout,
        ..server.store_config()
    };
    Arc::new(RedisStore::new(&config).expect("a store"))
}

fn waiting(server: &RedisServer) -> Arc<dyn TaskStore> {
    waiting_for(Duration::from_secs(1), server)
}

fn queue() -> TopicQueue {
    TopicQueue::with_default_settings(Topic::parse("t").expect("a topic"), "a")
}

fn task() -> Task {
    Task::new(TaskId::new(wall_clock_now(), rand::random()), queue().topic, "{}", wall_clock_now())
}

async fn enqueue(store: &Arc<dyn TaskStore>) -> Result<(), StoreError> {
    store.enqueue(&task(), &queue()).await
}

async fn until_taken(store: &Arc<dyn TaskStore>) {
    wait_until(TEST_DEADLINE, "tasks are confirmed", async || enqueue(store).await.is_ok()).await;
}

fn is_refused(answer: &Result<(), StoreError>) -> bool {
    matches!(answer,
    Err(StoreError::Refused(StoreRefusal::ReadOnly(why))) if why.contains("durability"))
}

/// How often a command was called.
async fn calls(server: &RedisServer, command: &str) -> usize {
    let mut redis = server.connect().await;
    let info: String =
        redis::cmd("INFO").arg("commandstats").query_async(&mut redis).await.expect("answers");
    let found =
        info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    found
        .and_then(|rest| rest.split(',').next())
        .map_or(0, |calls| calls.parse().expect("a number"))
}

#[tokio::test]
async fn a_task_is_taken_when_a_replica_has_it_and_unknown_when_that_cannot_be_said() {
    let (master, replica) = pair(false, &[]).await;
    let store = waiting(&master);
    until_taken(&store).await;
    let known = task();
    store.enqueue(&known, &queue()).await.expect("confirmed");
    let there = replica.connect().await.exists::<_, bool>(format!("omni:task:{}", known.id)).await;
    assert_eq!(there, Ok(true));

    replica.send_signal(Signal::STOP);
    let unsure = task();
    let answer = store.enqueue(&unsure, &queue()).await;
    assert!(
        matches!(&answer, Err(StoreError::OutcomeUnknown(why)) if why.contains("no replica")),
        "{answer:?}"
    );
    // Another process asks over a connection that wrote nothing before.
    let answer = waiting(&master).enqueue(&unsure, &queue()).await;
    assert!(matches!(answer, Err(StoreError::OutcomeUnknown(_))), "{answer:?}");
    let refused = task();
    let answer = store.enqueue(&refused, &queue()).await;
    assert!(is_refused(&answer), "{answer:?}");
    assert_eq!(store.get_task(&refused.id).await, Ok(None), "nothing is made of what is refused");
    let later = Task { due: Some(omnidaemon::task::UnixMs(wall_clock_now().0 + 60_000)), ..task() };
    assert!(is_refused(&store.enqueue(&later, &queue()).await));

    // What does not promise anything new goes on.
    let leases = store.lease("p", &[queue()], 10, Duration::ZERO).await.expect("answers");
    let settlement =
        Settlement::Complete { answer: TaskAnswer::from_json("1"), ttl: Duration::from_mins(1) };
    for lease in &leases {
        assert_eq!(store.settle(lease, &settlement).await, Ok(SettleResult::Applied));
    }
    replica.send_signal(Signal::CONT);
    until_taken(&store).await;
    store.enqueue(&unsure, &queue()).await.expect("confirmed now");
    store.enqueue(&later, &queue()).await.expect("confirmed now");
}

#[tokio::test]
async fn without_any_replica_the_first_task_is_unknown_and_the_next_ones_are_refused() {
    let server = RedisServer::start().await;
    let store = waiting(&server);
    assert!(matches!(enqueue(&store).await, Err(StoreError::OutcomeUnknown(_))));
    for _ in 0..3 {
        assert!(is_refused(&enqueue(&store).await));
    }
    server.run_command(&["CONFIG", "RESETSTAT"]).await;
    let usual = server.open_store();
    enqueue(&usual).await.expect("nobody is waited for by default");
    assert_eq!((calls(&server, "wait").await, calls(&server, "waitaof").await), (0, 0));
}

#[tokio::test]
async fn where_the_server_can_tell_the_task_is_on_the_disks_of_both() {
    let (master, _replica) = pair(true, &[]).await;
    // with `appendfsync everysec` a disk has it up to a second later, and a replica says so up to
    // another later
    let store = waiting_for(Duration::from_secs(5), &master);
    until_taken(&store).await;
    assert_eq!(calls(&master, "wait").await, 0);
    master.run_command(&["CONFIG", "SET", "appendonly", "no"]).await;
    enqueue(&store).await.expect("then the replica's memory is what there is");
    assert!(calls(&master, "wait").await >= 1);
}

#[tokio::test]
async fn with_no_replica_to_be_had_calls_are_served_sync_and_tasks_that_are_there_run() {
    let (master, mut replica) = pair(false, &[]).await;
    let omni = scenario()
        .redis(&master)
        .yaml("store.timeout", "500ms")
        .yaml("store.durability", "wait")
        .percent(100)
        .wait("3s")
        .workers(2)
        .concurrency(2)
        .start()
        .await;
    let path = async || {
        let answer = omni.data_client().post("/invoke", &json!({"task": "t"})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("x-omnidaemon-path").unwrap_or_default().to_owned()
    };
    wait_until(TEST_DEADLINE, "calls go async", async || path().await == "async").await;
    replica.kill();
    wait_until(TEST_DEADLINE, "calls go sync, at once", async || path().await == "sync").await;
    let refused = async || {
        let reason = [("route", "invoke"), ("reason", "store_refused")];
        path().await == "sync"
            && omni.scrape_metrics().await.value("omnidaemon_fallback_total", &reason) >= 3.0
    };
    wait_until(TEST_DEADLINE, "and are refused, not in doubt", refused).await;
    let answer = omni.data_client().post("/invoke/async", &json!({"task": "t"})).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    replica.restart().await;
    wait_until(TEST_DEADLINE, "calls go async again", async || path().await == "async").await;
}
