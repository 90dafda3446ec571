//! A delayed task is durable and counted at once, and runs when it is due and not before.

use std::time::Duration;

use omnidaemon::store::{CancelResult, Settlement, StoreError, StoreRefusal, TopicQueue};
use omnidaemon::task::{Task, TaskStatus};

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, assert_nothing_leasable, enqueue_task, get_record,
    is_close_to, json_answer, lease_one, new_task, test_queue,
};

const DELAY: Duration = Duration::from_mins(10);

fn delayed(f: &impl StoreFixture, queue: &TopicQueue) -> Task {
    Task { due: Some(f.store_now().plus(DELAY)), ..new_task(queue) }
}

/// Promotes what is due, and that none of `queue` is leasable.
async fn nothing_is_due(f: &impl StoreFixture, queue: &TopicQueue) {
    f.store().enqueue_due_tasks(std::slice::from_ref(queue)).await.expect("promoted");
    assert_nothing_leasable(&*f.store(), queue).await;
}

pub(crate) async fn a_delayed_task_runs_when_it_is_due_and_not_before(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let later = delayed(&f, &q);
    store.enqueue(&later, &q).await.expect("enqueued");
    store.enqueue(&later, &q).await.expect("a repeat is success");
    let found = get_record(&*store, &later.id).await;
    assert_eq!((found.status, found.attempts), (TaskStatus::Queued, 0));
    assert!(is_close_to(found.due, later.due.expect("set")), "{found:?}");
    let now = enqueue_task(&*store, &q).await;
    let first = lease_one(&*store, &q).await;
    assert_eq!(first.task.id, now.id, "it holds nobody up");
    store
        .settle(&first, &Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL })
        .await
        .expect("settled");
    f.advance_time(DELAY / 2).await;
    nothing_is_due(&f, &q).await;
    let depth = &store.load_queue_depths(std::slice::from_ref(&q)).await.expect("answers")[0];
    assert_eq!((depth.queued, depth.processing), (1, 0), "it is queued all the time");
    assert_eq!(depth.oldest_age, Duration::ZERO, "what is not due is not late");

    f.advance_time(DELAY).await;
    store.enqueue_due_tasks(std::slice::from_ref(&q)).await.expect("promoted");
    assert_eq!(get_record(&*store, &later.id).await.status, TaskStatus::Queued);
    let leased = lease_one(&*store, &q).await;
    assert_eq!((leased.attempt, &leased.task), (1, &Task { due: None, ..later.clone() }));
    assert_eq!(get_record(&*store, &later.id).await.due, None);
    store.enqueue_due_tasks(std::slice::from_ref(&q)).await.expect("promoted");
    assert_nothing_leasable(&*store, &q).await;
}

pub(crate) async fn a_delayed_task_survives_reopening(f: impl StoreFixture) {
    let q = test_queue("a");
    let later = delayed(&f, &q);
    f.store().enqueue(&later, &q).await.expect("enqueued");
    let f = f.reopen().await;
    nothing_is_due(&f, &q).await;
    f.advance_time(DELAY + Duration::from_secs(1)).await;
    f.store().enqueue_due_tasks(std::slice::from_ref(&q)).await.expect("promoted");
    assert_eq!(lease_one(&*f.store(), &q).await.task.id, later.id);
}

pub(crate) async fn a_delayed_task_counts_against_the_backlog(f: impl StoreFixture) {
    let (store, q) = (f.store(), TopicQueue { max_backlog: 2, ..test_queue("a") });
    store.enqueue(&delayed(&f, &q), &q).await.expect("enqueued");
    enqueue_task(&*store, &q).await;
    for late in [new_task(&q), delayed(&f, &q)] {
        let refused = StoreRefusal::BacklogFull { topic: q.topic.clone(), depth: 2, max: 2 };
        assert_eq!(store.enqueue(&late, &q).await, Err(StoreError::Refused(refused)));
        assert_eq!(store.get_task(&late.id).await, Ok(None));
    }
}

pub(crate) async fn a_delayed_task_is_cancelled_and_never_runs(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let later = delayed(&f, &q);
    store.enqueue(&later, &q).await.expect("enqueued");
    assert_eq!(store.cancel(&later.id, RESULT_TTL).await, Ok(CancelResult::Cancelled));
    assert_eq!(store.cancel(&later.id, RESULT_TTL).await, Ok(CancelResult::Cancelled), "and again");
    let found = get_record(&*store, &later.id).await;
    assert_eq!((found.status, found.due), (TaskStatus::Cancelled, None));
    f.advance_time(DELAY + Duration::from_secs(1)).await;
    nothing_is_due(&f, &q).await;
    store.reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL).await.expect("tended");
    assert_eq!(
        store.load_queue_depths(std::slice::from_ref(&q)).await.expect("answers")[0].queued,
        0
    );
}
