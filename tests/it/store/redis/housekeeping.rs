//! What housekeeping finds: dead workers, foreign trims, streams that only grow.

use std::time::Duration;

use omnidaemon::store::{Lease, ReprocessResult, Settlement, WorkerHeartbeat};
use omnidaemon::task::{FailureKind, TaskFailure, TaskStatus, UnixMs};
use redis::AsyncCommands as _;
use serde_json::json;

use super::{
    QA_DEAD_LETTERS, QA_STREAM, RunningStore, age_pending, complete_lease, enqueue_task,
    lease_available, lease_one, pending_entries, qa_queue, reap_for_a_lease, reap_queue,
};
use crate::support::redis::server::RedisServer;

/// Another process than the one that looks after the queue.
const OTHER: &str = "testhost.2.boot";

async fn leased_by(store: &RunningStore, process: &str) -> Lease {
    store.lease(process, &[qa_queue()], 1, super::WAIT_DEADLINE).await.expect("answers").remove(0)
}

async fn beat(store: &RunningStore, process: &str) {
    let beat = WorkerHeartbeat {
        process: process.into(),
        active_workers: 1,
        busy_workers: 1,
        started_at: UnixMs(1),
        topics: None,
        age: Duration::ZERO,
    };
    store.record_heartbeat(&beat).await.expect("beats");
}

#[tokio::test]
async fn a_dead_workers_task_runs_again_before_its_lease_is_over() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = enqueue_task(&store).await;
    let lost = leased_by(&store, OTHER).await;
    reap_for_a_lease(&store, async || beat(&store, OTHER).await).await;
    age_pending(&mut redis, Duration::from_secs(12)).await;
    reap_queue(&store).await;
    assert_eq!(lease_available(&store).await, vec![], "its heart beats");
    let _: i64 = redis.del(format!("omni:worker:{OTHER}")).await.expect("as if it had expired");
    reap_queue(&store).await;
    assert_eq!(lease_available(&store).await, vec![], "missed once");
    reap_for_a_lease(&store, async || {}).await;
    let again = lease_one(&store).await;
    assert_eq!((again.task.id.clone(), again.attempt), (task.id, 2));
    assert_eq!(
        store.settle(&lost, &super::complete_settlement()).await,
        Ok(omnidaemon::store::SettleResult::Fenced)
    );
    complete_lease(&store, &again).await;
}

#[tokio::test]
async fn a_worker_that_renews_keeps_its_task_without_a_heartbeat() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    let held = leased_by(&store, OTHER).await;
    reap_for_a_lease(&store, async || {
        assert_eq!(store.renew(OTHER, std::slice::from_ref(&held)).await, Ok(vec![]));
    })
    .await;
    assert_eq!(lease_available(&store).await, vec![], "it has only just started, say");
    let consumer = format!("consumer:omnidaemon-rs.{OTHER}-1");
    assert_eq!(pending_entries(&mut redis).await[0].1, consumer);
    complete_lease(&store, &held).await;
}

#[tokio::test]
async fn who_has_not_watched_for_a_lease_waits_for_the_lease() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    let held = leased_by(&store, OTHER).await;
    age_pending(&mut redis, Duration::from_secs(20)).await;
    for _ in 0..3 {
        reap_queue(&store).await;
        assert_eq!(
            lease_available(&store).await,
            vec![],
            "after an outage no heartbeat is there at first"
        );
    }
    complete_lease(&store, &held).await;
}

#[tokio::test]
async fn a_python_consumer_has_no_heartbeat_and_keeps_its_task() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(super::QA_GROUP)
        .arg("consumer:omnidaemon-1")
        .arg("STREAMS")
        .arg(super::QA_STREAM)
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.expect("read");
    age_pending(&mut redis, Duration::from_secs(100)).await;
    reap_for_a_lease(&store, async || {}).await;
    assert_eq!(lease_available(&store).await, vec![]);
    assert_eq!(pending_entries(&mut redis).await[0].1, "consumer:omnidaemon-1");
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_written_loses_no_task_and_acknowledges_none() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let task = enqueue_task(&store).await;
    let held = lease_one(&store).await;
    let _: () = redis.set(QA_DEAD_LETTERS, "not a stream").await.expect("set");
    let bury = Settlement::Bury {
        failure: TaskFailure::new(FailureKind::HandlerError, "x"),
        ttl: super::RESULT_TTL,
    };
    let wrong = store.settle(&held, &bury).await.expect_err("it cannot be written").to_string();
    assert!(wrong.contains("WRONGTYPE"), "{wrong}");
    assert_eq!(pending_entries(&mut redis).await.len(), 1, "it is not acknowledged");
    super::add_stream_entry(&mut redis, "data", b"no task").await;
    let behind = enqueue_task(&store).await;
    let mut ran = lease_one(&store).await;
    while ran.task.id != behind.id {
        ran = lease_one(&store).await;
    }
    complete_lease(&store, &ran).await;
    age_pending(&mut redis, Duration::from_mins(1)).await;
    reap_queue(&store).await; // what is no task stays, and holds nothing up
    let again = lease_one(&store).await;
    assert_eq!((again.task.id.clone(), again.attempt), (task.id.clone(), 2), "it runs again");
    let _: i64 = redis.del(QA_DEAD_LETTERS).await.expect("mended");
    store.settle(&again, &bury).await.expect("settled");
    age_pending(&mut redis, Duration::from_mins(1)).await;
    reap_queue(&store).await;
    assert_eq!(
        store.list_dead_letters(&qa_queue(), None, 10).await.expect("answers").len(),
        2,
        "both are there at last"
    );
    assert_eq!(pending_entries(&mut redis).await, vec![]);
}

#[tokio::test]
async fn a_stream_of_several_groups_keeps_what_any_of_them_has_not_done() {
    const AUDIT: &str = "group:genesis.qa:audit";
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let _: () = redis.xgroup_create_mkstream(QA_STREAM, AUDIT, "0").await.expect("made");
    for _ in 0..4 {
        enqueue_task(&store).await;
    }
    for _ in 0..3 {
        complete_lease(&store, &lease_one(&store).await).await;
    }
    let read = async |redis: &mut redis::aio::MultiplexedConnection, group: &str, count: usize| {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP")
            .arg(group)
            .arg("c")
            .arg("COUNT")
            .arg(count)
            .arg("STREAMS")
            .arg(QA_STREAM)
            .arg(">");
        let reply: redis::streams::StreamReadReply = read.query_async(redis).await.expect("read");
        reply.keys.into_iter().flat_map(|key| key.ids).map(|entry| entry.id).collect::<Vec<_>>()
    };
    // a process sweeps first of all when it starts
    let sweep = async || reap_queue(&RunningStore::start(&server)).await;
    sweep().await;
    assert_eq!(redis.xlen::<_, i64>(QA_STREAM).await, Ok(4), "nobody has read for the audit");
    let seen = read(&mut redis, AUDIT, 2).await;
    let _: i64 = redis.xack(QA_STREAM, AUDIT, &seen[..1]).await.expect("acknowledged");
    sweep().await;
    assert_eq!(redis.xlen::<_, i64>(QA_STREAM).await, Ok(3), "what both have done is gone");
    let _: () = redis.xgroup_create(QA_STREAM, "group:genesis.qa:late", "0").await.expect("made");
    sweep().await;
    assert_eq!(
        read(&mut redis, "group:genesis.qa:late", 10).await.len(),
        3,
        "who came late gets all that is there"
    );
    let rest = read(&mut redis, AUDIT, 10).await;
    assert_eq!((rest.len(), &seen[1..]), (2, &pending_of(&mut redis, AUDIT).await[..1]));
    complete_lease(&store, &lease_one(&store).await).await;
    assert_eq!(lease_available(&store).await, vec![]);
}

async fn pending_of(redis: &mut redis::aio::MultiplexedConnection, group: &str) -> Vec<String> {
    let reply: redis::streams::StreamPendingCountReply =
        redis.xpending_count(QA_STREAM, group, "-", "+", 10).await.expect("answers");
    reply.ids.into_iter().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn a_dead_letter_of_python_runs_again_under_the_id_it_is_listed_by() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for (id, message) in [
        (
            "py-9",
            json!({"content": "{\"a\":1}", "task_id": "py-9", "delivery_attempts": 4,
            "source": "bridge"}),
        ),
        ("5-0", json!({"content": "{\"a\":1}", "task_id": null})),
    ] {
        let letter = json!({
            "topic": "genesis.qa", "original_stream": QA_STREAM, "original_id": "5-0",
            "error": "Max retries exceeded",
            "failed_message": message, "retry_count": 4, "failed_at": 1_753_000_000.5,
        });
        let _: String =
            redis.xadd(QA_DEAD_LETTERS, "*", &[("data", letter.to_string())]).await.expect("added");
        let reprocessed = store
            .reprocess_dead_letter(&qa_queue(), id, crate::support::wall_clock::wall_clock_now())
            .await;
        assert_eq!(reprocessed, Ok(ReprocessResult::Queued { is_captured_request: false }), "{id}");
        assert_eq!(redis.xlen::<_, i64>(QA_DEAD_LETTERS).await, Ok(0));
        let data = super::stream_payloads(&mut redis, QA_STREAM).await.remove(0);
        assert_eq!((&data["task_id"], &data["delivery_attempts"]), (&json!(id), &json!(1)));
        let again = lease_one(&store).await;
        assert_eq!((again.task.id.as_str(), again.attempt, again.task.retries), (id, 1, 3));
        complete_lease(&store, &again).await;
        let record = store.get_task(&again.task.id).await.expect("answers").expect("known");
        assert_eq!(record.status, TaskStatus::Completed);
    }
    let lost = json!({"topic": "genesis.qa", "original_id": "7-0", "failed_message": null,
    "task_id": "gone"});
    let _: String =
        redis.xadd(QA_DEAD_LETTERS, "*", &[("data", lost.to_string())]).await.expect("added");
    let refused = store
        .reprocess_dead_letter(&qa_queue(), "gone", crate::support::wall_clock::wall_clock_now())
        .await;
    assert_eq!(refused, Ok(ReprocessResult::NotRunnable("its payload is gone".into())));
}

#[tokio::test]
async fn nothing_is_taken_off_a_stream_while_our_group_is_not_there() {
    const AUDIT: &str = "group:genesis.qa:audit";
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let _: () = redis.xgroup_create_mkstream(QA_STREAM, AUDIT, "0").await.expect("made");
    let task = enqueue_task(&store).await;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(AUDIT).arg("c").arg("STREAMS").arg(QA_STREAM).arg(">");
    let reply: redis::streams::StreamReadReply = read.query_async(&mut redis).await.expect("read");
    let _: i64 =
        redis.xack(QA_STREAM, AUDIT, &[&reply.keys[0].ids[0].id]).await.expect("acknowledged");
    reap_queue(&RunningStore::start(&server)).await;
    assert_eq!(
        lease_one(&store).await.task.id,
        task.id,
        "our group is made by the first lease, from the beginning"
    );
}
