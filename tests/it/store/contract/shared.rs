//! The shared state beside the queue, and everything at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use omnidaemon::store::{
    HEARTBEAT_TTL, QueueDepth, RolloutCommit, RolloutRecord, SettleResult, Settlement, TopicLoad,
    WorkerHeartbeat,
};
use omnidaemon::task::{TaskStatus, UnixMs};

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, enqueue_task, get_record, handler_failure, json_answer,
    lease_one, test_queue, within_deadline,
};

pub(crate) async fn depths_count_what_waits_runs_and_is_dead(f: impl StoreFixture) {
    let (store, q, other) = (f.store(), test_queue("a"), test_queue("b"));
    let both = [q.clone(), other.clone()];
    assert_eq!(
        store.load_queue_depths(&both).await,
        Ok(vec![QueueDepth::default(), QueueDepth::default()])
    );
    let counts = async || {
        let depths = store.load_queue_depths(&both).await.expect("answers");
        assert_eq!(depths[1], QueueDepth::default(), "the other queue is untouched");
        (depths[0].queued, depths[0].processing, depths[0].dead_letters)
    };
    let mut cancelled = enqueue_task(&*store, &q).await.id;
    for _ in 0..4 {
        cancelled = enqueue_task(&*store, &q).await.id;
    }
    assert_eq!(counts().await, (5, 0, 0));
    within_deadline(async {
        while store.load_queue_depths(&both).await.expect("answers")[0].oldest_age.is_zero() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(lease_one(&*store, &q).await);
    }
    assert_eq!(counts().await, (1, 4, 0));
    let mut settle = async |settlement| {
        assert_eq!(
            store.settle(&leases.pop().expect("one more"), &settlement).await,
            Ok(SettleResult::Applied)
        );
    };
    settle(Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL }).await;
    assert_eq!(counts().await, (1, 3, 0));
    settle(Settlement::Bury { failure: handler_failure("x"), ttl: RESULT_TTL }).await;
    assert_eq!(counts().await, (1, 2, 1));
    settle(Settlement::Retry {
        failure: handler_failure("x"),
        retry_at: f.store_now().plus(RESULT_TTL),
    })
    .await;
    assert_eq!(counts().await, (2, 1, 1), "what waits for a retry waits");
    settle(Settlement::Release).await;
    assert_eq!(counts().await, (3, 0, 1));
    store.cancel(&cancelled, RESULT_TTL).await.expect("cancelled");
    assert_eq!(counts().await, (2, 0, 1));
}

fn without_ages(heartbeats: Vec<WorkerHeartbeat>) -> Vec<WorkerHeartbeat> {
    let without_age = |heartbeat| WorkerHeartbeat { age: Duration::ZERO, ..heartbeat };
    heartbeats.into_iter().map(without_age).collect()
}

pub(crate) async fn the_live_processes_are_known(f: impl StoreFixture) {
    let store = f.store();
    assert_eq!(store.list_heartbeats().await, Ok(vec![]));
    let load = TopicLoad {
        topic: test_queue("t").topic,
        slots: 160,
        running: 2,
        recent_runs: 20,
        recent_run_time: Duration::from_millis(17_200),
    };
    let one = WorkerHeartbeat {
        process: "host.1.a".into(),
        active_workers: 5,
        busy_workers: 2,
        started_at: UnixMs(1_700_000_000_000),
        topics: Some(vec![load]),
        age: Duration::ZERO,
    };
    let two = WorkerHeartbeat {
        process: "host.2.b".into(),
        busy_workers: 0,
        topics: None,
        ..one.clone()
    };
    store.record_heartbeat(&one).await.expect("beats");
    store.record_heartbeat(&two).await.expect("beats");
    let one = WorkerHeartbeat { busy_workers: 3, ..one };
    store.record_heartbeat(&one).await.expect("beats");
    let mut live = store.list_heartbeats().await.expect("answers");
    live.sort_by(|a, b| a.process.cmp(&b.process));
    assert!(live.iter().all(|heartbeat| heartbeat.age < HEARTBEAT_TTL));
    assert_eq!(without_ages(live), vec![one, two.clone()]);
    f.advance_time(HEARTBEAT_TTL / 2).await;
    let live = store.list_heartbeats().await.expect("answers");
    assert!(
        live.iter().all(|heartbeat| heartbeat.age >= HEARTBEAT_TTL / 2 && !heartbeat.is_fresh())
    );
    f.advance_time(HEARTBEAT_TTL + Duration::from_secs(1)).await;
    store.record_heartbeat(&two).await.expect("beats");
    let live = store.list_heartbeats().await.map(without_ages);
    assert_eq!(live, Ok(vec![two]), "the silent one is forgotten");
}

pub(crate) async fn a_process_that_leaves_is_forgotten_at_once(f: impl StoreFixture) {
    let store = f.store();
    let stays = WorkerHeartbeat {
        process: "host.1.a".into(),
        active_workers: 5,
        busy_workers: 0,
        started_at: UnixMs(1_700_000_000_000),
        topics: Some(Vec::new()),
        age: Duration::ZERO,
    };
    let leaves = WorkerHeartbeat { process: "host.2.b".into(), ..stays.clone() };
    store.record_heartbeat(&stays).await.expect("beats");
    store.record_heartbeat(&leaves).await.expect("beats");
    assert_eq!(store.remove_heartbeat("host.2.b").await, Ok(()));
    assert_eq!(store.list_heartbeats().await.map(without_ages), Ok(vec![stays]));
    assert_eq!(store.remove_heartbeat("host.2.b").await, Ok(()), "leaving twice is nothing");
    store.record_heartbeat(&leaves).await.expect("beats");
    assert_eq!(store.list_heartbeats().await.map(|live| live.len()), Ok(2), "it may come back");
}

pub(crate) async fn rollout_state_is_saved_only_over_the_version_it_was_made_from(
    f: impl StoreFixture,
) {
    let store = f.store();
    let state = |version, text: &str| RolloutRecord { version, state_json: text.into() };
    assert_eq!(store.load_rollout("invoke").await, Ok(None));
    assert_eq!(
        store.save_rollout("invoke", &state(2, "{}"), &RolloutCommit::default()).await,
        Ok(false),
        "there is no version 1"
    );
    assert_eq!(
        store.save_rollout("invoke", &state(1, "{\"w\": 10}"), &RolloutCommit::default()).await,
        Ok(true)
    );
    assert_eq!(
        store.save_rollout("invoke", &state(1, "{}"), &RolloutCommit::default()).await,
        Ok(false),
        "it is there already"
    );
    assert_eq!(
        store.save_rollout("invoke", &state(3, "{}"), &RolloutCommit::default()).await,
        Ok(false),
        "there is no version 2"
    );
    assert_eq!(store.load_rollout("invoke").await, Ok(Some(state(1, "{\"w\": 10}"))));
    assert_eq!(
        store.save_rollout("invoke", &state(2, "{\"w\": 25}"), &RolloutCommit::default()).await,
        Ok(true)
    );
    assert_eq!(store.load_rollout("other").await, Ok(None));
    drop(store);
    let f = f.reopen().await;
    assert_eq!(f.store().load_rollout("invoke").await, Ok(Some(state(2, "{\"w\": 25}"))));
}

pub(crate) async fn of_concurrent_rollout_writers_one_wins(f: impl StoreFixture) {
    for version in 1..=5 {
        let writers = (0..8).map(|writer| {
            let store = f.store();
            tokio::spawn(async move {
                let record = RolloutRecord { version, state_json: format!("{{\"by\":{writer}}}") };
                store
                    .save_rollout("invoke", &record, &RolloutCommit::default())
                    .await
                    .expect("answers")
                    .then_some(record)
            })
        });
        let mut winners = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            winners.extend(writer.await.expect("no panic"));
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(f.store().load_rollout("invoke").await, Ok(winners.pop()));
    }
}

pub(crate) async fn many_producers_and_consumers_run_each_task_once(f: impl StoreFixture) {
    const PRODUCERS: usize = 8;
    const EACH: usize = 50;
    let queues = [test_queue("a"), test_queue("b"), test_queue("c")];
    let done = Arc::new(AtomicUsize::new(0));
    let consumers: Vec<_> = (0..4)
        .map(|_| {
            let (store, queues, done) = (f.store(), queues.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut ran = Vec::new();
                while done.load(Ordering::Relaxed) < PRODUCERS * EACH {
                    let leases = store
                        .lease(TEST_PROCESS, &queues, 5, Duration::from_millis(50))
                        .await
                        .expect("answers");
                    for lease in leases {
                        let complete =
                            Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
                        assert_eq!(
                            store.settle(&lease, &complete).await,
                            Ok(SettleResult::Applied)
                        );
                        done.fetch_add(1, Ordering::Relaxed);
                        ran.push(lease.task.id);
                    }
                }
                ran
            })
        })
        .collect();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|n| {
            let (store, queue) = (f.store(), queues[n % queues.len()].clone());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for _ in 0..EACH {
                    ids.push(enqueue_task(&*store, &queue).await.id);
                }
                ids
            })
        })
        .collect();
    let mut runs = HashMap::new();
    for consumer in consumers {
        for id in tokio::time::timeout(super::WAIT_DEADLINE * 3, consumer)
            .await
            .expect("in time")
            .expect("no panic")
        {
            *runs.entry(id).or_insert(0) += 1;
        }
    }
    assert_eq!(runs.len(), PRODUCERS * EACH);
    for producer in producers {
        for id in producer.await.expect("no panic") {
            assert_eq!(runs.get(&id), Some(&1), "{id}");
            assert_eq!(get_record(&*f.store(), &id).await.status, TaskStatus::Completed);
        }
    }
}

pub(crate) async fn the_store_answers_a_ping(f: impl StoreFixture) {
    assert_eq!(f.store().ping().await, Ok(()));
}
