//! A foreign publisher trims the stream: what it took has failed and says so, and what runs meanwhile can end.

use std::time::Duration;

use omnidaemon::store::{Settled, Settlement, TaskStore as _};
use omnidaemon::task::{Failure, FailureKind, Status, Task, TaskRecord, UnixMs};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::{GROUP, PROCESS, Running, SOON, STREAM, TTL, complete, enqueue, eventually, lease, pending, queue, tend};
use crate::harness::redis::RedisServer;

/// As `XADD … MAXLEN` does: `keep` entries stay.
async fn trim(redis: &mut MultiplexedConnection, keep: usize) {
    let mut trim = redis::cmd("XTRIM");
    let _: i64 = trim.arg(STREAM).arg("MAXLEN").arg(keep).query_async(redis).await.expect("trimmed");
}

/// One round of a process that has just started, which sweeps first of all: how many it found.
async fn sweep(server: &RedisServer) -> usize {
    let buried = Running::on(server).tend(PROCESS, &[queue()], TTL).await.expect("tended");
    assert!(buried.iter().all(|buried| buried.trimmed), "{buried:?}");
    buried.len()
}

async fn record(store: &Running, task: &Task) -> TaskRecord {
    store.get(&task.id).await.expect("answers").expect("known")
}

fn is_trimmed(record: &TaskRecord) -> bool {
    let failure = record.failure.as_ref();
    record.status == Status::Failed
        && failure.is_some_and(|failure| {
            failure.kind == FailureKind::Lost && failure.message == "trimmed by a foreign publisher"
        })
}

#[tokio::test]
async fn a_waiting_task_that_was_trimmed_has_failed_and_its_client_is_told() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    let (lost, kept) = (enqueue(&store).await, enqueue(&store).await);
    let waiter = store.waiters().register(&lost.id);
    trim(&mut redis, 1).await;
    assert_eq!(sweep(&server).await, 1);
    let told = tokio::time::timeout(SOON, waiter).await.expect("in time");
    assert!(is_trimmed(&told.expect("an end")));
    assert!(is_trimmed(&record(&store, &lost).await));
    let letters = store.dead_letters(&queue(), 10).await.expect("answers");
    assert_eq!((letters.len(), letters[0].id.as_str()), (1, lost.id.as_str()));
    assert_eq!(sweep(&server).await, 0, "told once");
    let next = lease(&store).await;
    assert_eq!(next.task.id, kept.id);
    complete(&store, &next).await;
}

#[tokio::test]
async fn a_parked_retry_that_was_trimmed_has_failed() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    for due in [UnixMs(0), crate::contract::wall().plus(Duration::from_hours(1))] {
        let task = enqueue(&store).await;
        let retry = Settlement::Retry { failure: Failure::new(FailureKind::Handler, "x"), at: due };
        assert_eq!(store.settle(&lease(&store).await, &retry).await, Ok(Settled::Applied));
        trim(&mut redis, 0).await;
        assert_eq!(sweep(&server).await, 1);
        assert!(is_trimmed(&record(&store, &task).await), "due at {due:?}");
    }
}

#[tokio::test]
async fn a_task_whose_entry_is_trimmed_while_it_runs_ends_as_its_worker_says() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    for renewed in [false, true] {
        for failed in [false, true] {
            enqueue(&store).await;
            let held = lease(&store).await;
            trim(&mut redis, 0).await;
            if renewed {
                assert_eq!(store.renew(PROCESS, std::slice::from_ref(&held)).await, Ok(vec![]));
            }
            assert_eq!(sweep(&server).await, 0, "it runs");
            assert_eq!(record(&store, &held.task).await.status, Status::Processing);
            let failure = Failure::new(FailureKind::Handler, "its own");
            let end = if failed { Settlement::Bury { failure, ttl: TTL } } else { super::completed() };
            assert_eq!(store.settle(&held, &end).await, Ok(Settled::Applied));
            let ended = record(&store, &held.task).await;
            assert_eq!(ended.status, if failed { Status::Failed } else { Status::Completed });
            assert!(!is_trimmed(&ended));
            assert_eq!(store.settle(&held, &end).await, Ok(Settled::Applied), "a repeat");
        }
    }
    assert_eq!(sweep(&server).await, 0);
    assert_eq!(pending(&mut redis).await, vec![]);
}

#[tokio::test]
async fn a_trimmed_task_cannot_run_again_once_its_worker_dies_or_gives_it_up() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    for gives_back in [false, true] {
        let task = enqueue(&store).await;
        let held = lease(&store).await;
        trim(&mut redis, 0).await;
        assert_eq!(store.renew(PROCESS, std::slice::from_ref(&held)).await, Ok(vec![]));
        if gives_back {
            assert_eq!(store.settle(&held, &Settlement::Release).await, Ok(Settled::Applied));
        } else {
            let key = format!("omni:task:{}", task.id);
            let renewed: u64 = redis.hget(&key, "renewed").await.expect("a field");
            let _: i64 = redis.hset(&key, "renewed", renewed - 31_000).await.expect("as if a lease had passed");
        }
        assert_eq!(sweep(&server).await, 1);
        assert!(is_trimmed(&record(&store, &task).await));
        assert_eq!(store.settle(&held, &super::completed()).await, Ok(Settled::Fenced));
    }
}

#[tokio::test]
async fn what_a_python_agent_completed_leaves_no_record_whether_its_entry_is_there_or_not() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    for trimmed in [false, true] {
        let task = enqueue(&store).await;
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg("consumer:omnidaemon-1").arg("STREAMS").arg(STREAM).arg(">");
        let _: redis::Value = read.query_async(&mut redis).await.expect("read");
        if trimmed {
            trim(&mut redis, 0).await;
        }
        assert_eq!(sweep(&server).await, 0, "it runs there");
        let r = json!({"task_id": task.id.as_str(), "result": {"status": "completed", "result": 1,
            "topic": "genesis.qa", "agent": "omnidaemon"}, "saved_at": 1_753_000_000.0});
        let _: () = redis.set_ex(format!("omni:result:{}", task.id), r.to_string(), 100).await.expect("saved");
        let (entry, _) = pending(&mut redis).await.remove(0);
        let _: i64 = redis.xack(STREAM, GROUP, &[entry]).await.expect("acknowledged");
        assert_eq!(sweep(&server).await, 0);
        let left: i64 = redis.pttl(format!("omni:task:{}", task.id)).await.expect("answers");
        assert!((1..=100_000).contains(&left), "it goes with the result: {left}");
        assert_eq!(record(&store, &task).await.status, Status::Completed);
    }
}

#[tokio::test]
async fn many_trimmed_tasks_are_all_found_though_a_round_is_short() {
    const TASKS: usize = 3000;
    let server = RedisServer::start().await;
    let (store, mut redis) = (Running::on(&server), server.connection().await);
    for _ in 0..TASKS / 100 {
        futures_util::future::join_all((0..100).map(|_| enqueue(&store))).await;
    }
    let delayed = Task { due: Some(crate::contract::wall().plus(Duration::from_hours(1))), ..super::task() };
    store.enqueue(&delayed, &queue()).await.expect("enqueued");
    trim(&mut redis, 10).await;
    let mut found = 0;
    eventually("all are found", async || {
        found += store.tend(PROCESS, &[queue()], TTL).await.expect("tended").len();
        found == TASKS - 10
    })
    .await;
    tend(&store).await;
    assert_eq!(record(&store, &delayed).await.status, Status::Queued, "it never had an entry");
}
