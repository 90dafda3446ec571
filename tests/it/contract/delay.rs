//! A delayed task is durable and counted at once, and runs when it is due and not before.

use std::time::Duration;

use omnidaemon::store::{Cancelled, Queue, Refusal, Settlement, StoreError};
use omnidaemon::task::{Status, Task};

use super::{Fixture, PROCESS, TTL, enqueue, is_about, json, lease, nothing_to_lease, queue, record, task};

const DELAY: Duration = Duration::from_mins(10);

fn delayed(f: &impl Fixture, queue: &Queue) -> Task {
    Task { due: Some(f.now().plus(DELAY)), ..task(queue) }
}

/// Promotes what is due, and that none of `queue` is leasable.
async fn nothing_is_due(f: &impl Fixture, queue: &Queue) {
    f.store().promote(std::slice::from_ref(queue)).await.expect("promoted");
    nothing_to_lease(&*f.store(), queue).await;
}

pub(crate) async fn a_delayed_task_runs_when_it_is_due_and_not_before(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let later = delayed(&f, &q);
    store.enqueue(&later, &q).await.expect("enqueued");
    store.enqueue(&later, &q).await.expect("a repeat is success");
    let found = record(&*store, &later.id).await;
    assert_eq!((found.status, found.attempts), (Status::Queued, 0));
    assert!(is_about(found.due, later.due.expect("set")), "{found:?}");
    let now = enqueue(&*store, &q).await;
    let first = lease(&*store, &q).await;
    assert_eq!(first.task.id, now.id, "it holds nobody up");
    store.settle(&first, &Settlement::Complete { answer: json(), ttl: TTL }).await.expect("settled");
    f.advance(DELAY / 2).await;
    nothing_is_due(&f, &q).await;
    let depth = &store.depths(std::slice::from_ref(&q)).await.expect("answers")[0];
    assert_eq!((depth.queued, depth.processing), (1, 0), "it is queued all the time");
    assert_eq!(depth.oldest, Duration::ZERO, "what is not due is not late");

    f.advance(DELAY).await;
    store.promote(std::slice::from_ref(&q)).await.expect("promoted");
    assert_eq!(record(&*store, &later.id).await.status, Status::Queued);
    let leased = lease(&*store, &q).await;
    assert_eq!((leased.attempt, &leased.task), (1, &Task { due: None, ..later.clone() }));
    assert_eq!(record(&*store, &later.id).await.due, None);
    store.promote(std::slice::from_ref(&q)).await.expect("promoted");
    nothing_to_lease(&*store, &q).await;
}

pub(crate) async fn a_delayed_task_survives_reopening(f: impl Fixture) {
    let q = queue("a");
    let later = delayed(&f, &q);
    f.store().enqueue(&later, &q).await.expect("enqueued");
    let f = f.reopen().await;
    nothing_is_due(&f, &q).await;
    f.advance(DELAY + Duration::from_secs(1)).await;
    f.store().promote(std::slice::from_ref(&q)).await.expect("promoted");
    assert_eq!(lease(&*f.store(), &q).await.task.id, later.id);
}

pub(crate) async fn a_delayed_task_counts_against_the_backlog(f: impl Fixture) {
    let (store, q) = (f.store(), Queue { max_backlog: 2, ..queue("a") });
    store.enqueue(&delayed(&f, &q), &q).await.expect("enqueued");
    enqueue(&*store, &q).await;
    for late in [task(&q), delayed(&f, &q)] {
        let refused = Refusal::Backlog { topic: q.topic.clone(), depth: 2, max: 2 };
        assert_eq!(store.enqueue(&late, &q).await, Err(StoreError::Refused(refused)));
        assert_eq!(store.get(&late.id).await, Ok(None));
    }
}

pub(crate) async fn a_delayed_task_is_cancelled_and_never_runs(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let later = delayed(&f, &q);
    store.enqueue(&later, &q).await.expect("enqueued");
    assert_eq!(store.cancel(&later.id, TTL).await, Ok(Cancelled::Done));
    assert_eq!(store.cancel(&later.id, TTL).await, Ok(Cancelled::Done), "and again");
    let found = record(&*store, &later.id).await;
    assert_eq!((found.status, found.due), (Status::Cancelled, None));
    f.advance(DELAY + Duration::from_secs(1)).await;
    nothing_is_due(&f, &q).await;
    store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
    assert_eq!(store.depths(std::slice::from_ref(&q)).await.expect("answers")[0].queued, 0);
}
