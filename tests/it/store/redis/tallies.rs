//! Tallies on Redis: ends that consumers of another make wrote, and what counting costs.

use std::time::Duration;

use futures_util::future::join_all;
use omnidaemon::config::{Secret, StoreConfig, StoreUrl};
use omnidaemon::store::{CancelResult, SettleResult, StoredEvidence, TopicQueue};
use omnidaemon::task::{Task, TaskId, TaskStatus};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::wire::calls;
use super::{
    QA_GROUP, QA_STREAM, RESULT_TTL, RunningStore, TEST_PROCESS, age_pending, complete_settlement,
    new_task, pending_entries, qa_queue, wait_until,
};
use crate::support::redis::cluster::start_single_node_cluster;
use crate::support::redis::server::RedisServer;

const ROUTE: &str = "invoke";
const TALLY: &str = "omni:tally:invoke:4";

fn external() -> TopicQueue {
    TopicQueue { external_timeout: Some(Duration::from_hours(1)), ..qa_queue() }
}

async fn enqueue(store: &RunningStore, queue: &TopicQueue) -> TaskId {
    let task = Task { route: Some(ROUTE.into()), epoch: Some(4), ..new_task() };
    store.enqueue(&task, queue).await.expect("enqueued");
    task.id
}

async fn known(store: &RunningStore) -> StoredEvidence {
    store.load_evidence(ROUTE, &[4]).await.expect("answers").remove(0)
}

/// Accepted and completed.
async fn counted(store: &RunningStore) -> (u64, u64) {
    let known = known(store).await;
    (known.accepted, known.completed)
}

/// A Python agent reads `n` tasks; their entries.
async fn read(redis: &mut MultiplexedConnection, n: usize) -> Vec<String> {
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("COUNT")
        .arg(n)
        .arg("STREAMS")
        .arg(QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(redis).await.expect("read");
    pending_entries(redis).await.into_iter().map(|(entry, _)| entry).collect()
}

/// It saves the result of a task, as of some seconds after 1970.
async fn save(redis: &mut MultiplexedConnection, id: &TaskId, saved_at: f64) {
    let r = json!({"task_id": id.as_str(), "result": {"status": "completed", "result": 1,
    "topic": "genesis.qa",
        "agent": "omnidaemon", "created_at": 1.0}, "saved_at": saved_at});
    let _: () = redis.set_ex(format!("omni:result:{id}"), r.to_string(), 100).await.expect("saved");
}

async fn acknowledge(redis: &mut MultiplexedConnection, entry: &str) {
    let _: i64 = redis.xack(QA_STREAM, QA_GROUP, &[entry]).await.expect("acknowledged");
}

/// The server's time, ms.
async fn time(redis: &mut MultiplexedConnection) -> f64 {
    let (seconds, micros): (f64, f64) =
        redis::cmd("TIME").query_async(redis).await.expect("answers");
    seconds * 1000.0 + micros / 1000.0
}

fn ms_of(entry: &str) -> f64 {
    entry.split('-').next().and_then(|ms| ms.parse().ok()).expect("an entry's id")
}

#[tokio::test]
async fn what_another_makes_agent_ended_is_counted_at_the_next_look_and_once() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let attend =
        async || assert_eq!(store.reconcile_external(&[external()], RESULT_TTL).await, Ok(vec![]));
    let (first, second) = (enqueue(&store, &external()).await, enqueue(&store, &external()).await);
    enqueue(&store, &external()).await;
    let entries = read(&mut redis, 2).await;
    save(&mut redis, &first, ms_of(&entries[0]) / 1000.0 - 60.0).await;
    attend().await;
    assert_eq!(counted(&store).await, (3, 0), "whoever saved it has not acknowledged it yet");
    acknowledge(&mut redis, &entries[0]).await;
    wait_until("a while is over", async || time(&mut redis).await > ms_of(&entries[0]) + 10.0)
        .await;
    for _ in 0..2 {
        attend().await;
        assert_eq!(counted(&store).await, (3, 1));
    }
    assert_eq!(
        known(&store).await.latency_buckets[0],
        0,
        "a clock that is behind makes nothing fast"
    );
    assert_eq!(
        store.cancel(&first, RESULT_TTL).await,
        Ok(CancelResult::AlreadyEnded(TaskStatus::Completed))
    );
    save(&mut redis, &second, ms_of(&entries[1]) / 1000.0 + 86_400.0).await;
    acknowledge(&mut redis, &entries[1]).await;
    attend().await;
    let known = known(&store).await;
    assert_eq!(
        (known.completed, known.latency_buckets[20]),
        (2, 0),
        "no clock of another counts beyond ours: {:?}",
        known.latency_buckets
    );
    let left: usize = redis.zcard(format!("omni:limits:{QA_GROUP}")).await.expect("answers");
    assert_eq!(left, 1, "what has ended is not looked at again");
}

#[tokio::test]
async fn however_many_tasks_others_run_each_of_their_ends_is_found() {
    const TASKS: usize = 990; // two stretches
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let queue = external();
    let ids = join_all((0..TASKS).map(|_| enqueue(&store, &queue))).await;
    for entry in read(&mut redis, TASKS).await {
        acknowledge(&mut redis, &entry).await;
    }
    for id in ids.iter().step_by(300) {
        save(&mut redis, id, 1.0).await;
    }
    for _ in 0..2 {
        store.reconcile_external(&[external()], RESULT_TTL).await.expect("attended");
    }
    assert_eq!(counted(&store).await, (TASKS as u64, 4));
}

#[tokio::test]
async fn whoever_first_notices_another_makes_end_counts_it() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    // asked for
    let asked = enqueue(&store, &qa_queue()).await;
    let entries = read(&mut redis, 1).await;
    save(&mut redis, &asked, 1.0).await;
    acknowledge(&mut redis, &entries[0]).await;
    for _ in 0..2 {
        assert_eq!(
            store.get_task(&asked).await.expect("answers").expect("known").status,
            TaskStatus::Completed
        );
        assert_eq!(counted(&store).await, (1, 1));
    }
    // its agent died before it acknowledged
    let abandoned = enqueue(&store, &qa_queue()).await;
    read(&mut redis, 1).await;
    save(&mut redis, &abandoned, 1.0).await;
    age_pending(&mut redis, qa_queue().reclaim_idle + Duration::from_secs(1)).await;
    for _ in 0..2 {
        super::reap_queue(&store).await;
        assert_eq!(counted(&store).await, (2, 2));
    }
    assert_eq!(
        store.get_task(&abandoned).await.expect("answers").expect("known").status,
        TaskStatus::Completed
    );
    assert_eq!((counted(&store).await, pending_entries(&mut redis).await), ((2, 2), vec![]));
}

#[tokio::test]
async fn the_search_for_lost_tasks_counts_what_others_ended() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let ended = enqueue(&store, &qa_queue()).await;
    let entries = read(&mut redis, 1).await;
    save(&mut redis, &ended, 1.0).await;
    acknowledge(&mut redis, &entries[0]).await;
    super::reap_queue(&store).await;
    assert_eq!(counted(&store).await, (1, 1));
}

#[tokio::test]
async fn a_tally_expires_and_nothing_that_is_wrong_with_it_keeps_a_task_from_its_end() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue(&store, &qa_queue()).await;
    let forty_days = 40 * 24 * 3600;
    let left: i64 = redis.ttl(TALLY).await.expect("answers");
    assert!((forty_days - 60..=forty_days).contains(&left), "{left} s");
    let _: bool = redis.expire(TALLY, 1000).await.expect("answers");
    super::complete_lease(&store, &super::lease_one(&store).await).await;
    let left: i64 = redis.ttl(TALLY).await.expect("answers");
    assert!(left <= 1000, "a count renews nothing: {left} s");
    assert_eq!(counted(&store).await, (1, 1));
    let left: i64 = redis.ttl(TALLY).await.expect("answers");
    assert!(left > 1000, "it is kept while somebody looks: {left} s");

    let _: i64 = redis.del(TALLY).await.expect("answers");
    let _: () = redis.set(TALLY, "no tally").await.expect("set");
    let id = enqueue(&store, &qa_queue()).await;
    super::complete_lease(&store, &super::lease_one(&store).await).await;
    assert_eq!(
        store.get_task(&id).await.expect("answers").expect("known").status,
        TaskStatus::Completed
    );
}

#[tokio::test]
async fn tallies_are_with_their_tasks_and_summed_over_all_partitions() {
    const TASKS: u64 = 40;
    let server = start_single_node_cluster().await;
    let url = StoreUrl::Cluster(Secret::new(format!("redis+cluster://{}", server.addr())));
    let store = RunningStore::start_with_config(&StoreConfig {
        url,
        partitions: 3,
        ..server.store_config()
    });
    for _ in 0..TASKS {
        enqueue(&store, &qa_queue()).await;
    }
    for n in 0..TASKS {
        let lease = super::lease_one(&store).await;
        if n % 4 == 0 {
            assert_eq!(
                store.cancel(&lease.task.id, RESULT_TTL).await,
                Ok(CancelResult::WasRunning)
            );
        } else {
            super::complete_lease(&store, &lease).await;
        }
    }
    let known = known(&store).await;
    assert_eq!((known.accepted, known.completed, known.cancelled), (TASKS, 30, 10));
    let mut redis = server.connect().await;
    for partition in 0..3 {
        let own: u64 = redis
            .hget(format!("{{omni-{partition}}}{TALLY}"), "accepted")
            .await
            .expect("it has some");
        assert!(own < TASKS, "{own} in partition {partition}");
    }
}

/// The numbers are printed; the bounds catch a step back.
#[tokio::test]
async fn a_canaried_task_costs_one_command_more_to_enqueue_and_less_than_one_to_end() {
    const TASKS: usize = 500;
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let mut cost = Vec::new();
    for epoch in [None, None, Some(4)] {
        let start = calls(&mut redis).await;
        for _ in 0..TASKS {
            let task = Task { route: Some(ROUTE.into()), epoch, ..new_task() };
            store.enqueue(&task, &qa_queue()).await.expect("enqueued");
        }
        let queued = calls(&mut redis).await;
        let mut done = 0;
        while done < TASKS {
            let leases = store
                .lease(TEST_PROCESS, &[qa_queue()], 50, Duration::ZERO)
                .await
                .expect("answers");
            let settlement = complete_settlement();
            let settled =
                join_all(leases.iter().map(|lease| store.settle(lease, &settlement))).await;
            assert!(settled.iter().all(|settled| *settled == Ok(SettleResult::Applied)));
            done += leases.len();
        }
        cost.push(((queued - start).1, (calls(&mut redis).await - queued).1));
    }
    let [_, (plain_in, plain_out), (canaried_in, canaried_out)] = cost[..] else {
        panic!("three rounds")
    };
    println!(
        "{TASKS} tasks: {plain_in} commands to enqueue and {plain_out} to end; canaried \
            {canaried_in} and {canaried_out}"
    );
    assert!(canaried_in <= plain_in + TASKS + 5, "{canaried_in}, {plain_in}");
    assert!(canaried_out <= plain_out + TASKS / 2, "{canaried_out}, {plain_out}");
}
