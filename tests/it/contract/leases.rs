//! Leases live while they are renewed, and not longer; so do ended records.

use std::time::Duration;

use omnidaemon::store::{Buried, CRASH_LIMIT, LEASE, Settled, Settlement};
use omnidaemon::task::{FailureKind, Status, Task, UnixMs};

use super::{Fixture, PROCESS, SOON, TTL, enqueue, failure, json, lease, nothing_to_lease, queue, record, soon, task};

pub(crate) async fn renewing_names_the_leases_that_are_lost(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    enqueue(&*store, &q).await;
    let older = lease(&*store, &q).await;
    store.settle(&older, &Settlement::Retry { failure: failure("x"), at: UnixMs(0) }).await.expect("settled");
    let current = lease(&*store, &q).await;
    let gone = enqueue(&*store, &q).await;
    let cancelled = lease(&*store, &q).await;
    store.cancel(&gone.id, TTL).await.expect("cancelled");

    assert_eq!(store.renew(PROCESS, &[]).await, Ok(vec![]));
    assert_eq!(store.renew(PROCESS, std::slice::from_ref(&current)).await, Ok(vec![]));
    assert_eq!(store.renew(PROCESS, &[current.clone(), cancelled]).await, Ok(vec![gone.id]));
    assert_eq!(store.renew(PROCESS, std::slice::from_ref(&older)).await, Ok(vec![older.task.id]));
    let complete = Settlement::Complete { answer: json(), ttl: TTL };
    assert_eq!(store.settle(&current, &complete).await, Ok(Settled::Applied));
}

pub(crate) async fn an_expired_lease_runs_again_and_its_holder_is_fenced(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = enqueue(&*store, &q).await;
    let lost = lease(&*store, &q).await;
    store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
    nothing_to_lease(&*store, &q).await;
    f.advance(LEASE + Duration::from_secs(1)).await;
    store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
    let again = lease(&*store, &q).await;
    assert_eq!((again.attempt, &again.task), (2, &task));
    let complete = Settlement::Complete { answer: json(), ttl: TTL };
    assert_eq!(store.settle(&lost, &complete).await, Ok(Settled::Fenced));
    assert_eq!(store.renew(PROCESS, std::slice::from_ref(&lost)).await, Ok(vec![task.id.clone()]));
    assert_eq!(record(&*store, &task.id).await.status, Status::Processing);
    assert_eq!(store.settle(&again, &complete).await, Ok(Settled::Applied));
}

pub(crate) async fn a_renewed_lease_lives_on(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    enqueue(&*store, &q).await;
    let held = lease(&*store, &q).await;
    for _ in 0..3 {
        f.advance(LEASE * 2 / 3).await;
        assert_eq!(store.renew(PROCESS, std::slice::from_ref(&held)).await, Ok(vec![]));
        store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
        nothing_to_lease(&*store, &q).await;
    }
    let complete = Settlement::Complete { answer: json(), ttl: TTL };
    assert_eq!(store.settle(&held, &complete).await, Ok(Settled::Applied));
}

pub(crate) async fn a_task_that_kills_its_workers_becomes_a_dead_letter(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = Task { retries: 0, route: Some("invoke".into()), ..task(&q) };
    let waiter = store.waiters().register(&task.id);
    store.enqueue(&task, &q).await.expect("enqueued");
    let mut buried = Vec::new();
    for attempt in 1..=CRASH_LIMIT {
        assert_eq!(lease(&*store, &q).await.attempt, attempt);
        assert_eq!(buried, [], "it still may run");
        buried.extend(f.advance(LEASE + Duration::from_secs(1)).await);
        buried.extend(store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended"));
    }
    assert_eq!(buried, [Buried { topic: q.topic.clone(), route: task.route.clone(), trimmed: false }], "told once");
    nothing_to_lease(&*store, &q).await;
    let found = record(&*store, &task.id).await;
    assert_eq!((found.status, found.attempts), (Status::Failed, CRASH_LIMIT));
    assert_eq!(found.failure.as_ref().map(|failure| failure.kind), Some(FailureKind::Crash));
    assert_eq!(soon(waiter).await.as_deref(), Some(&found));
    let letters = store.dead_letters(&q, 10).await.expect("answers");
    assert_eq!((letters.len(), letters[0].attempts), (1, CRASH_LIMIT));
}

pub(crate) async fn an_ended_task_expires_but_its_dead_letter_stays(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let ttl = Duration::from_secs(1);
    let ends = [
        Some(Settlement::Complete { answer: json(), ttl }),
        Some(Settlement::Bury { failure: failure("x"), ttl }),
        None,
    ];
    for end in ends {
        let task = enqueue(&*store, &q).await;
        let its_lease = lease(&*store, &q).await;
        match &end {
            Some(settlement) => drop(store.settle(&its_lease, settlement).await.expect("settled")),
            None => drop(store.cancel(&task.id, ttl).await.expect("cancelled")),
        }
        let deadline = tokio::time::Instant::now() + SOON;
        while store.get(&task.id).await.expect("answers").is_some() {
            assert!(tokio::time::Instant::now() < deadline, "{end:?}: did not expire");
            store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let kept = enqueue(&*store, &q).await;
    store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
    assert_eq!(record(&*store, &kept.id).await.status, Status::Queued);
    assert_eq!(store.dead_letters(&q, 10).await.expect("answers").len(), 1);
}
