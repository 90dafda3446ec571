//! The shared state beside the queue, and everything at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use omnidaemon::store::{Change, Depth, HEARTBEAT, Heartbeat, RolloutRecord, Settled, Settlement};
use omnidaemon::task::{Status, UnixMs};

use super::{Fixture, PROCESS, TTL, enqueue, failure, json, lease, queue, record, soon};

pub(crate) async fn depths_count_what_waits_runs_and_is_dead(f: impl Fixture) {
    let (store, q, other) = (f.store(), queue("a"), queue("b"));
    let both = [q.clone(), other.clone()];
    assert_eq!(store.depths(&both).await, Ok(vec![Depth::default(), Depth::default()]));
    let counts = async || {
        let depths = store.depths(&both).await.expect("answers");
        assert_eq!(depths[1], Depth::default(), "the other queue is untouched");
        (depths[0].queued, depths[0].processing, depths[0].dead)
    };
    let mut cancelled = enqueue(&*store, &q).await.id;
    for _ in 0..4 {
        cancelled = enqueue(&*store, &q).await.id;
    }
    assert_eq!(counts().await, (5, 0, 0));
    soon(async {
        while store.depths(&both).await.expect("answers")[0].oldest.is_zero() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(lease(&*store, &q).await);
    }
    assert_eq!(counts().await, (1, 4, 0));
    let mut settle = async |settlement| {
        assert_eq!(store.settle(&leases.pop().expect("one more"), &settlement).await, Ok(Settled::Applied));
    };
    settle(Settlement::Complete { answer: json(), ttl: TTL }).await;
    assert_eq!(counts().await, (1, 3, 0));
    settle(Settlement::Bury { failure: failure("x"), ttl: TTL }).await;
    assert_eq!(counts().await, (1, 2, 1));
    settle(Settlement::Retry { failure: failure("x"), at: f.now().plus(TTL) }).await;
    assert_eq!(counts().await, (2, 1, 1), "what waits for a retry waits");
    settle(Settlement::Release).await;
    assert_eq!(counts().await, (3, 0, 1));
    store.cancel(&cancelled, TTL).await.expect("cancelled");
    assert_eq!(counts().await, (2, 0, 1));
}

pub(crate) async fn the_live_processes_are_known(f: impl Fixture) {
    let store = f.store();
    assert_eq!(store.heartbeats().await, Ok(vec![]));
    let one = Heartbeat { process: "host.1.a".into(), active: 5, busy: 2, started: UnixMs(1_700_000_000_000) };
    let two = Heartbeat { process: "host.2.b".into(), busy: 0, ..one.clone() };
    store.beat(&one).await.expect("beats");
    store.beat(&two).await.expect("beats");
    let one = Heartbeat { busy: 3, ..one };
    store.beat(&one).await.expect("beats");
    let mut live = store.heartbeats().await.expect("answers");
    live.sort_by(|a, b| a.process.cmp(&b.process));
    assert_eq!(live, vec![one, two.clone()]);
    f.advance(HEARTBEAT + Duration::from_secs(1)).await;
    store.beat(&two).await.expect("beats");
    assert_eq!(store.heartbeats().await, Ok(vec![two]), "the silent one is forgotten");
}

pub(crate) async fn a_process_that_leaves_is_forgotten_at_once(f: impl Fixture) {
    let store = f.store();
    let stays = Heartbeat { process: "host.1.a".into(), active: 5, busy: 0, started: UnixMs(1_700_000_000_000) };
    let leaves = Heartbeat { process: "host.2.b".into(), ..stays.clone() };
    store.beat(&stays).await.expect("beats");
    store.beat(&leaves).await.expect("beats");
    assert_eq!(store.leave("host.2.b").await, Ok(()));
    assert_eq!(store.heartbeats().await, Ok(vec![stays]));
    assert_eq!(store.leave("host.2.b").await, Ok(()), "leaving twice is nothing");
    store.beat(&leaves).await.expect("beats");
    assert_eq!(store.heartbeats().await.map(|live| live.len()), Ok(2), "it may come back");
}

pub(crate) async fn rollout_state_is_saved_only_over_the_version_it_was_made_from(f: impl Fixture) {
    let store = f.store();
    let state = |version, text: &str| RolloutRecord { version, state: text.into() };
    assert_eq!(store.load_rollout("invoke").await, Ok(None));
    assert_eq!(
        store.save_rollout("invoke", &state(2, "{}"), &Change::default()).await,
        Ok(false),
        "there is no version 1"
    );
    assert_eq!(store.save_rollout("invoke", &state(1, "{\"w\": 10}"), &Change::default()).await, Ok(true));
    assert_eq!(
        store.save_rollout("invoke", &state(1, "{}"), &Change::default()).await,
        Ok(false),
        "it is there already"
    );
    assert_eq!(
        store.save_rollout("invoke", &state(3, "{}"), &Change::default()).await,
        Ok(false),
        "there is no version 2"
    );
    assert_eq!(store.load_rollout("invoke").await, Ok(Some(state(1, "{\"w\": 10}"))));
    assert_eq!(store.save_rollout("invoke", &state(2, "{\"w\": 25}"), &Change::default()).await, Ok(true));
    assert_eq!(store.load_rollout("other").await, Ok(None));
    drop(store);
    let f = f.reopen().await;
    assert_eq!(f.store().load_rollout("invoke").await, Ok(Some(state(2, "{\"w\": 25}"))));
}

pub(crate) async fn of_concurrent_rollout_writers_one_wins(f: impl Fixture) {
    for version in 1..=5 {
        let writers = (0..8).map(|writer| {
            let store = f.store();
            tokio::spawn(async move {
                let record = RolloutRecord { version, state: format!("{{\"by\":{writer}}}") };
                store.save_rollout("invoke", &record, &Change::default()).await.expect("answers").then_some(record)
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

pub(crate) async fn many_producers_and_consumers_run_each_task_once(f: impl Fixture) {
    const PRODUCERS: usize = 8;
    const EACH: usize = 50;
    let queues = [queue("a"), queue("b"), queue("c")];
    let done = Arc::new(AtomicUsize::new(0));
    let consumers: Vec<_> = (0..4)
        .map(|_| {
            let (store, queues, done) = (f.store(), queues.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut ran = Vec::new();
                while done.load(Ordering::Relaxed) < PRODUCERS * EACH {
                    let leases = store.lease(PROCESS, &queues, 5, Duration::from_millis(50)).await.expect("answers");
                    for lease in leases {
                        let complete = Settlement::Complete { answer: json(), ttl: TTL };
                        assert_eq!(store.settle(&lease, &complete).await, Ok(Settled::Applied));
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
                    ids.push(enqueue(&*store, &queue).await.id);
                }
                ids
            })
        })
        .collect();
    let mut runs = HashMap::new();
    for consumer in consumers {
        for id in tokio::time::timeout(super::SOON * 3, consumer).await.expect("in time").expect("no panic") {
            *runs.entry(id).or_insert(0) += 1;
        }
    }
    assert_eq!(runs.len(), PRODUCERS * EACH);
    for producer in producers {
        for id in producer.await.expect("no panic") {
            assert_eq!(runs.get(&id), Some(&1), "{id}");
            assert_eq!(record(&*f.store(), &id).await.status, Status::Completed);
        }
    }
}

pub(crate) async fn the_store_answers_a_ping(f: impl Fixture) {
    assert_eq!(f.store().ping().await, Ok(()));
}
