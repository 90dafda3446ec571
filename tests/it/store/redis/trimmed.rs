//! A foreign publisher trims the stream: what it took has failed and says so, and what runs
//! meanwhile can end.

use std::time::Duration;

use omnidaemon::store::{SettleResult, Settlement};
use omnidaemon::task::{FailureKind, Task, TaskFailure, TaskRecord, TaskStatus, UnixMs};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::{
    QA_GROUP, QA_STREAM, RESULT_TTL, RunningStore, TEST_PROCESS, WAIT_DEADLINE, complete_lease,
    enqueue_task, lease_one, pending_entries, qa_queue, reap_queue, wait_until,
};
use crate::support::redis::server::RedisServer;

/// As `XADD … MAXLEN` does: `keep` entries stay.
async fn trim(redis: &mut MultiplexedConnection, keep: usize) {
    let mut trim = redis::cmd("XTRIM");
    let _: i64 =
        trim.arg(QA_STREAM).arg("MAXLEN").arg(keep).query_async(redis).await.expect("trimmed");
}

/// One round of a process that has just started, which sweeps first of all: how many it found.
async fn sweep(server: &RedisServer) -> usize {
    let buried = RunningStore::start(server)
        .reap_expired(TEST_PROCESS, &[qa_queue()], RESULT_TTL)
        .await
        .expect("tended");
    assert!(buried.iter().all(|buried| buried.trimmed), "{buried:?}");
    buried.len()
}

async fn record(store: &RunningStore, task: &Task) -> TaskRecord {
    store.get_task(&task.id).await.expect("answers").expect("known")
}

fn is_trimmed(record: &TaskRecord) -> bool {
    let failure = record.failure.as_ref();
    record.status == TaskStatus::Failed
        && failure.is_some_and(|failure| {
            failure.kind == FailureKind::LostFromQueue
                && failure.message == "trimmed by a foreign publisher"
        })
}

#[tokio::test]
async fn a_waiting_task_that_was_trimmed_has_failed_and_its_client_is_told() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let (lost, kept) = (enqueue_task(&store).await, enqueue_task(&store).await);
    let waiter = store.end_waiters().register_waiter(&lost.id);
    trim(&mut redis, 1).await;
    assert_eq!(sweep(&server).await, 1);
    let told = tokio::time::timeout(WAIT_DEADLINE, waiter).await.expect("in time");
    assert!(is_trimmed(&told.expect("an end")));
    assert!(is_trimmed(&record(&store, &lost).await));
    let letters = store.list_dead_letters(&qa_queue(), None, 10).await.expect("answers");
    assert_eq!((letters.len(), letters[0].id.as_str()), (1, lost.id.as_str()));
    assert_eq!(sweep(&server).await, 0, "told once");
    let next = lease_one(&store).await;
    assert_eq!(next.task.id, kept.id);
    complete_lease(&store, &next).await;
}

#[tokio::test]
async fn a_parked_retry_that_was_trimmed_has_failed() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for due in
        [UnixMs(0), crate::support::wall_clock::wall_clock_now().plus(Duration::from_hours(1))]
    {
        let task = enqueue_task(&store).await;
        let retry = Settlement::Retry {
            failure: TaskFailure::new(FailureKind::HandlerError, "x"),
            retry_at: due,
        };
        assert_eq!(store.settle(&lease_one(&store).await, &retry).await, Ok(SettleResult::Applied));
        trim(&mut redis, 0).await;
        assert_eq!(sweep(&server).await, 1);
        assert!(is_trimmed(&record(&store, &task).await), "due at {due:?}");
    }
}

#[tokio::test]
async fn a_task_whose_entry_is_trimmed_while_it_runs_ends_as_its_worker_says() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for renewed in [false, true] {
        for failed in [false, true] {
            enqueue_task(&store).await;
            let held = lease_one(&store).await;
            trim(&mut redis, 0).await;
            if renewed {
                assert_eq!(
                    store.renew(TEST_PROCESS, std::slice::from_ref(&held)).await,
                    Ok(vec![])
                );
            }
            assert_eq!(sweep(&server).await, 0, "it runs");
            assert_eq!(record(&store, &held.task).await.status, TaskStatus::Processing);
            let failure = TaskFailure::new(FailureKind::HandlerError, "its own");
            let end = if failed {
                Settlement::Bury { failure, ttl: RESULT_TTL }
            } else {
                super::complete_settlement()
            };
            assert_eq!(store.settle(&held, &end).await, Ok(SettleResult::Applied));
            let ended = record(&store, &held.task).await;
            assert_eq!(
                ended.status,
                if failed { TaskStatus::Failed } else { TaskStatus::Completed }
            );
            assert!(!is_trimmed(&ended));
            assert_eq!(store.settle(&held, &end).await, Ok(SettleResult::Applied), "a repeat");
        }
    }
    assert_eq!(sweep(&server).await, 0);
    assert_eq!(pending_entries(&mut redis).await, vec![]);
}

#[tokio::test]
async fn a_trimmed_task_cannot_run_again_once_its_worker_dies_or_gives_it_up() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for gives_back in [false, true] {
        let task = enqueue_task(&store).await;
        let held = lease_one(&store).await;
        trim(&mut redis, 0).await;
        assert_eq!(store.renew(TEST_PROCESS, std::slice::from_ref(&held)).await, Ok(vec![]));
        if gives_back {
            assert_eq!(store.settle(&held, &Settlement::Release).await, Ok(SettleResult::Applied));
        } else {
            let key = format!("omni:task:{}", task.id);
            let renewed: u64 = redis.hget(&key, "renewed").await.expect("a field");
            let _: i64 = redis
                .hset(&key, "renewed", renewed - 31_000)
                .await
                .expect("as if a lease had passed");
        }
        assert_eq!(sweep(&server).await, 1);
        assert!(is_trimmed(&record(&store, &task).await));
        assert_eq!(
            store.settle(&held, &super::complete_settlement()).await,
            Ok(SettleResult::Fenced)
        );
    }
}

#[tokio::test]
async fn what_a_python_agent_completed_leaves_no_record_whether_its_entry_is_there_or_not() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for trimmed in [false, true] {
        let task = enqueue_task(&store).await;
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP")
            .arg(QA_GROUP)
            .arg("consumer:omnidaemon-1")
            .arg("STREAMS")
            .arg(QA_STREAM)
            .arg(">");
        let _: redis::Value = read.query_async(&mut redis).await.expect("read");
        if trimmed {
            trim(&mut redis, 0).await;
        }
        assert_eq!(sweep(&server).await, 0, "it runs there");
        let r = json!({"task_id": task.id.as_str(), "result": {"status": "completed", "result": 1,
            "topic": "genesis.qa", "agent": "omnidaemon"}, "saved_at": 1_753_000_000.0});
        let _: () = redis
            .set_ex(format!("omni:result:{}", task.id), r.to_string(), 100)
            .await
            .expect("saved");
        let (entry, _) = pending_entries(&mut redis).await.remove(0);
        let _: i64 = redis.xack(QA_STREAM, QA_GROUP, &[entry]).await.expect("acknowledged");
        assert_eq!(sweep(&server).await, 0);
        let left: i64 = redis.pttl(format!("omni:task:{}", task.id)).await.expect("answers");
        assert!((1..=100_000).contains(&left), "it goes with the result: {left}");
        assert_eq!(record(&store, &task).await.status, TaskStatus::Completed);
    }
}

#[tokio::test]
async fn many_trimmed_tasks_are_all_found_though_a_round_is_short() {
    const TASKS: usize = 3000;
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    for _ in 0..TASKS / 100 {
        futures_util::future::join_all((0..100).map(|_| enqueue_task(&store))).await;
    }
    let delayed = Task {
        due: Some(crate::support::wall_clock::wall_clock_now().plus(Duration::from_hours(1))),
        ..super::new_task()
    };
    store.enqueue(&delayed, &qa_queue()).await.expect("enqueued");
    trim(&mut redis, 10).await;
    let mut found = 0;
    wait_until("all are found", async || {
        found += store
            .reap_expired(TEST_PROCESS, &[qa_queue()], RESULT_TTL)
            .await
            .expect("tended")
            .len();
        found == TASKS - 10
    })
    .await;
    reap_queue(&store).await;
    assert_eq!(record(&store, &delayed).await.status, TaskStatus::Queued, "it never had an entry");
}
