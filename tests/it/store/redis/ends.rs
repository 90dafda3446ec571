//! An ended task is its result and nothing else, and many end in one call.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use omnidaemon::config::StoreConfig;
use omnidaemon::store::{
    CancelResult, Lease, SettleResult, Settlement, StoreError, StoreRefusal, TopicQueue,
};
use omnidaemon::task::{
    FailureKind, Task, TaskFailure, TaskId, TaskOwner, TaskStatus, Topic, UnixMs,
};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::{
    QA_DEAD_LETTERS, QA_GROUP, QA_STREAM, RESULT_TTL, RunningStore, TEST_PROCESS, WAIT_DEADLINE,
    add_stream_entry, complete_lease, complete_settlement, enqueue_task, lease_one, new_task,
    qa_queue,
};
use crate::support::redis::server::RedisServer;

async fn has_record(redis: &mut MultiplexedConnection, id: &TaskId) -> bool {
    redis.exists(format!("omni:task:{id}")).await.expect("answers")
}

#[tokio::test]
async fn an_ended_task_is_its_result_alone_which_answers_for_it() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let failure = || TaskFailure::new(FailureKind::HandlerError, "x");
    let ends = [
        (complete_settlement(), TaskStatus::Completed),
        (Settlement::Bury { failure: failure(), ttl: RESULT_TTL }, TaskStatus::Failed),
    ];
    for (end, status) in ends {
        let task = Task { owner: Some(TaskOwner::from_digest("5eed")), ..new_task() };
        store.enqueue(&task, &qa_queue()).await.expect("enqueued");
        let first = lease_one(&store).await;
        let again = Settlement::Retry { failure: failure(), retry_at: UnixMs(0) };
        store.settle(&first, &again).await.expect("settled");
        let second = lease_one(&store).await;
        assert_eq!(store.settle(&second, &end).await, Ok(SettleResult::Applied));
        assert!(!has_record(&mut redis, &task.id).await);

        let found = store.get_task(&task.id).await.expect("answers").expect("known");
        assert_eq!((found.status, found.attempts, &found.owner), (status, 2, &task.owner));
        assert_eq!((found.topic, found.created), (task.topic.clone(), task.created));
        assert_eq!(store.settle(&second, &end).await, Ok(SettleResult::Applied), "a repeat");
        for late in [complete_settlement(), Settlement::Release, again] {
            assert_eq!(store.settle(&first, &late).await, Ok(SettleResult::Fenced), "{late:?}");
        }
        assert_eq!(
            store.renew(TEST_PROCESS, std::slice::from_ref(&second)).await,
            Ok(vec![task.id.clone()])
        );
        assert_eq!(
            store.cancel(&task.id, RESULT_TTL).await,
            Ok(CancelResult::AlreadyEnded(status))
        );
        store.enqueue(&task, &qa_queue()).await.expect("a repeat");
        assert!(!has_record(&mut redis, &task.id).await);
        assert_eq!(redis.xlen::<_, i64>(QA_STREAM).await, Ok(0));
    }
}

#[tokio::test]
async fn the_result_of_another_groups_agent_takes_no_owner_and_no_fence_away() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let _: String = redis
        .xgroup_create_mkstream(QA_STREAM, "group:genesis.qa:audit", "0")
        .await
        .expect("created");
    let task = Task { owner: Some(TaskOwner::from_digest("5eed")), ..new_task() };
    store.enqueue(&task, &qa_queue()).await.expect("enqueued");
    let lease = lease_one(&store).await;
    complete_lease(&store, &lease).await;
    let r = json!({"task_id": task.id.as_str(), "result": {"status": "completed", "result": 1,
    "topic": "genesis.qa",
        "agent": "audit"}, "saved_at": 1_753_000_000.0});
    let _: () =
        redis.set_ex(format!("omni:result:{}", task.id), r.to_string(), 100).await.expect("saved");
    let found = store.get_task(&task.id).await.expect("answers").expect("known");
    assert_eq!((found.status, found.attempts, found.owner), (TaskStatus::Completed, 1, task.owner));
    complete_lease(&store, &lease).await;
    assert_eq!(store.settle(&lease, &Settlement::Release).await, Ok(SettleResult::Fenced));
    let left: i64 = redis.pttl(format!("omni:task:{}", task.id)).await.expect("answers");
    assert!(left > 0, "it goes with the result");
}

#[tokio::test]
async fn an_id_that_runs_again_is_not_ended_by_who_ran_it_before() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let message = json!({"content": {"n": 1}, "task_id": "py-1"}).to_string();
    add_stream_entry(&mut redis, "data", message.as_bytes()).await;
    let before = lease_one(&store).await;
    complete_lease(&store, &before).await;
    add_stream_entry(&mut redis, "data", message.as_bytes()).await;
    let now = lease_one(&store).await;
    assert_eq!(
        (before.attempt, &before.task.id),
        (now.attempt, &now.task.id),
        "the same token but for the entry"
    );
    let _: i64 = redis.del("omni:result:py-1").await.expect("expired");
    assert_eq!(store.settle(&before, &complete_settlement()).await, Ok(SettleResult::Fenced));
    complete_lease(&store, &now).await;
}

/// `count` leases, and a store whose connections and scripts are there.
async fn leased(store: &RunningStore, count: usize) -> Vec<Lease> {
    enqueue_task(store).await;
    complete_lease(store, &lease_one(store).await).await;
    for _ in 0..count {
        enqueue_task(store).await;
    }
    let mut leases = Vec::new();
    while leases.len() < count {
        leases.extend(
            store.lease(TEST_PROCESS, &[qa_queue()], count, WAIT_DEADLINE).await.expect("answers"),
        );
    }
    leases
}

#[tokio::test]
async fn settlements_at_hand_go_in_one_call_and_one_that_fails_fails_alone() {
    const TASKS: usize = 200;
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let leases = leased(&store, TASKS).await;
    let spoilt = format!("omni:task:{}", leases[70].task.id);
    let _: () = redis.set(&spoilt, "no record").await.expect("spoilt");
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut redis).await.expect("reset");
    let settlement = complete_settlement();
    let answers = join_all(leases.iter().map(|lease| store.settle(lease, &settlement))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Err(StoreError::Malformed(why)) if n == 70 => {
                assert!(why.contains("WRONGTYPE"), "{why}");
            }
            answer => assert_eq!((n != 70, answer), (true, Ok(SettleResult::Applied)), "{n}"),
        }
    }
    let info: String =
        redis::cmd("INFO").arg("commandstats").query_async(&mut redis).await.expect("answers");
    let calls = info.split("cmdstat_evalsha:calls=").nth(1).and_then(|rest| rest.split(',').next());
    let calls: usize = calls.expect("scripts were called").parse().expect("a number");
    assert!(calls <= TASKS / 20, "{calls} calls for {TASKS} settlements");
    assert_eq!(redis.xlen::<_, i64>(QA_STREAM).await, Ok(1));
    assert_eq!(redis.zcard::<_, usize>("omni:results:index").await, Ok(TASKS));
    assert_eq!(super::pending_entries(&mut redis).await.len(), 1);
    let groups: Vec<redis::Value> = redis::cmd("XINFO")
        .arg("GROUPS")
        .arg(QA_STREAM)
        .query_async(&mut redis)
        .await
        .expect("answers");
    assert_eq!(groups.len(), 1, "{QA_GROUP}");
}

#[tokio::test]
async fn new_tasks_at_hand_go_in_one_call_and_one_that_is_refused_is_refused_alone() {
    const TASKS: usize = 200;
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut redis).await.expect("reset");
    let full =
        TopicQueue { max_backlog: 1, topic: Topic::parse("full").expect("a topic"), ..qa_queue() };
    let broken = TopicQueue { topic: Topic::parse("broken").expect("a topic"), ..qa_queue() };
    let _: () = redis.set("omni-stream:broken", "no stream").await.expect("spoilt");
    let tasks: Vec<Task> = (0..TASKS).map(|_| new_task()).collect();
    let answers = join_all(tasks.iter().enumerate().map(async |(n, task)| {
        let elsewhere = |queue: &TopicQueue| {
            (Task { topic: queue.topic.clone(), ..task.clone() }, queue.clone())
        };
        match n {
            40 | 41 => store.enqueue(&elsewhere(&full).0, &full).await,
            50 => store.enqueue(&elsewhere(&broken).0, &broken).await,
            // the same once more, in the same call
            60 => store.enqueue(&tasks[59], &qa_queue()).await,
            _ => store.enqueue(task, &qa_queue()).await,
        }
    }))
    .await;
    for (n, answer) in answers.into_iter().enumerate() {
        match (n, answer) {
            (41, Err(StoreError::Refused(StoreRefusal::BacklogFull { depth, max, .. }))) => {
                assert_eq!((depth, max), (1, 1));
            }
            (50, Err(StoreError::Malformed(why))) => assert!(why.contains("WRONGTYPE"), "{why}"),
            (n, answer) => assert_eq!((n, answer), (n, Ok(()))),
        }
    }
    let info: String =
        redis::cmd("INFO").arg("commandstats").query_async(&mut redis).await.expect("answers");
    let calls = info.split("cmdstat_evalsha:calls=").nth(1).and_then(|rest| rest.split(',').next());
    let calls: usize = calls.expect("scripts were called").parse().expect("a number");
    assert!(calls <= TASKS / 20, "{calls} calls for {TASKS} tasks");
    // the first one, and all but the four that went elsewhere, were refused, or came twice
    assert_eq!(redis.xlen::<_, usize>(QA_STREAM).await, Ok(1 + TASKS - 4));
    assert_eq!(redis.exists::<_, bool>(format!("omni:task:{}", tasks[41].id)).await, Ok(false));
}

#[tokio::test]
async fn of_two_ends_of_a_lease_in_one_call_the_first_counts_and_its_repeat_is_applied() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    enqueue_task(&store).await;
    let lease = lease_one(&store).await;
    let buried = Settlement::Bury {
        failure: TaskFailure::new(FailureKind::HandlerError, "no"),
        ttl: RESULT_TTL,
    };
    let ends = [complete_settlement(), buried, complete_settlement()];
    let answers = join_all(ends.iter().map(|end| store.settle(&lease, end))).await;
    assert_eq!(
        answers,
        [Ok(SettleResult::Applied), Ok(SettleResult::Fenced), Ok(SettleResult::Applied)]
    );
    assert_eq!(redis.exists::<_, bool>(QA_DEAD_LETTERS).await, Ok(false));
}

#[tokio::test]
async fn a_lost_answer_is_an_outage_to_each_and_its_repeat_is_applied() {
    let server = RedisServer::start().await;
    let config = StoreConfig { timeout: Duration::from_millis(300), ..server.store_config() };
    let (store, mut redis) = (RunningStore::start_with_config(&config), server.connect().await);
    let leases = leased(&store, 4).await;
    let _: () = redis::cmd("CLIENT")
        .arg("PAUSE")
        .arg(800)
        .arg("ALL")
        .query_async(&mut redis)
        .await
        .expect("paused");
    let settlement = complete_settlement();
    let answers = join_all(leases.iter().map(|lease| store.settle(lease, &settlement))).await;
    assert!(matches!(answers[0], Err(StoreError::OutcomeUnknown(_))), "{answers:?}");
    assert!(
        answers.iter().all(|answer| answer.as_ref().is_err_and(StoreError::is_outage)),
        "{answers:?}"
    );
    for lease in &leases {
        let settled = async {
            loop {
                match store.settle(lease, &settlement).await {
                    Err(error) if error.is_outage() => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    settled => break settled,
                }
            }
        };
        assert_eq!(
            tokio::time::timeout(WAIT_DEADLINE, settled).await.expect("in time"),
            Ok(SettleResult::Applied)
        );
    }
}

#[tokio::test]
async fn who_leads_a_call_and_leaves_holds_up_nobody() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let leases = leased(&store, 3).await;
    let _: () = redis::cmd("CLIENT")
        .arg("PAUSE")
        .arg(500)
        .arg("ALL")
        .query_async(&mut redis)
        .await
        .expect("paused");
    let settlement = complete_settlement();
    let mut settling =
        leases.iter().map(|lease| store.settle(lease, &settlement)).collect::<Vec<_>>();
    for future in &mut settling {
        assert!(future.now_or_never().is_none(), "the server is paused");
    }
    let stays = settling.pop().expect("the last");
    drop(settling);
    assert_eq!(
        tokio::time::timeout(WAIT_DEADLINE, stays).await.expect("in time"),
        Ok(SettleResult::Applied)
    );
    complete_lease(&store, &leases[1]).await;
}

#[tokio::test]
async fn two_agents_of_ours_on_one_topic_each_run_every_task() {
    let server = RedisServer::start().await;
    let (store, mut redis) = (RunningStore::start(&server), server.connect().await);
    let other = TopicQueue { agent: "audit".into(), ..qa_queue() };
    let _: String = redis
        .xgroup_create_mkstream(QA_STREAM, "group:genesis.qa:audit", "0")
        .await
        .expect("created");
    let task = enqueue_task(&store).await;
    let mine = lease_one(&store).await;
    let theirs = store
        .lease("other", std::slice::from_ref(&other), 1, WAIT_DEADLINE)
        .await
        .expect("answers")
        .remove(0);
    assert_eq!(mine.task.id, task.id);
    assert!(theirs.task.id != task.id && theirs.task.payload == task.payload, "{theirs:?}");
    complete_lease(&store, &mine).await;
    let dead = Settlement::Bury {
        failure: TaskFailure::new(FailureKind::HandlerError, "x"),
        ttl: RESULT_TTL,
    };
    assert_eq!(store.settle(&theirs, &dead).await, Ok(SettleResult::Applied));
    assert_eq!(
        store.get_task(&task.id).await.expect("answers").expect("known").status,
        TaskStatus::Completed
    );
    assert_eq!(store.list_dead_letters(&other, None, 10).await.expect("answers").len(), 1);
    let after = enqueue_task(&store).await;
    complete_lease(&store, &lease_one(&store).await).await;
    let again = store.lease("other", &[other], 1, WAIT_DEADLINE).await.expect("answers").remove(0);
    assert!(again.task.payload == after.payload, "an end of one agent's is none of the other's");
}
