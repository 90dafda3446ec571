//! Dead letters get another chance, once, or go.

use std::collections::HashSet;

use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use omnidaemon::store::{Lease, ReprocessResult, SettleResult, Settlement, TaskStore};
use omnidaemon::task::{Task, TaskOwner, TaskStatus, UnixMs};

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, assert_nothing_leasable, get_record, handler_failure,
    json_answer, lease_one, new_task, new_task_with_secret, test_queue, wall_clock_now,
    within_deadline,
};

fn bury() -> Settlement {
    Settlement::Bury { failure: handler_failure("for good"), ttl: RESULT_TTL }
}

/// Makes a dead letter of a task; its last lease.
async fn dead(store: &dyn TaskStore, task: &Task) -> Lease {
    let q = test_queue("a");
    store.enqueue(task, &q).await.expect("enqueued");
    let last = lease_one(store, &q).await;
    assert_eq!(store.settle(&last, &bury()).await, Ok(SettleResult::Applied));
    last
}

pub(crate) async fn a_reprocessed_dead_letter_runs_again_from_its_first_attempt(
    f: impl StoreFixture,
) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = Task {
        owner: Some(TaskOwner::from_digest("5eed")),
        route: Some("invoke".into()),
        ..new_task(&q)
    };
    store.enqueue(&task, &q).await.expect("enqueued");
    let first = lease_one(&*store, &q).await;
    store
        .settle(&first, &Settlement::Retry { failure: handler_failure("x"), retry_at: UnixMs(0) })
        .await
        .expect("settled");
    let last = lease_one(&*store, &q).await;
    store.settle(&last, &bury()).await.expect("settled");

    let reprocessed = store.reprocess_dead_letter(&q, task.id.as_str(), wall_clock_now()).await;
    assert_eq!(reprocessed, Ok(ReprocessResult::Queued { is_captured_request: false }));
    assert_eq!(store.list_dead_letters(&q, None, 10).await, Ok(vec![]));
    let found = get_record(&*store, &task.id).await;
    assert_eq!((found.status, found.attempts, found.failure), (TaskStatus::Queued, 0, None));
    assert_eq!((found.owner, found.finished), (task.owner.clone(), None));
    let depth = store.load_queue_depths(std::slice::from_ref(&q)).await.expect("answers").remove(0);
    assert_eq!((depth.queued, depth.processing, depth.dead_letters), (1, 0, 0));
    let waiter = store.end_waiters().register_waiter(&task.id);
    let again = lease_one(&*store, &q).await;
    assert_eq!((again.attempt, &again.task), (1, &task), "as it was, its retries too");
    let complete = Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
    for old in [&first, &last] {
        assert_eq!(
            store.settle(old, &complete).await,
            Ok(SettleResult::Fenced),
            "a worker of its first life"
        );
    }
    assert_eq!(store.settle(&again, &complete).await, Ok(SettleResult::Applied));
    assert_eq!(within_deadline(waiter).await.map(|told| told.status), Some(TaskStatus::Completed));
    assert_nothing_leasable(&*store, &q).await;
}

pub(crate) async fn a_dead_letter_is_reprocessed_once_however_often_it_is_asked_for(
    f: impl StoreFixture,
) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = new_task(&q);
    for round in 0..3 {
        dead(&*store, &task).await;
        let asked = join_all(
            (0..8).map(|_| store.reprocess_dead_letter(&q, task.id.as_str(), wall_clock_now())),
        )
        .await;
        let queued = asked
            .iter()
            .filter(|answer| matches!(answer, Ok(ReprocessResult::Queued { .. })))
            .count();
        let alive =
            asked.iter().filter(|answer| matches!(answer, Ok(ReprocessResult::TaskActive))).count();
        assert_eq!((queued, alive), (1, 7), "{round}: {asked:?}");
        let again = lease_one(&*store, &q).await;
        assert_nothing_leasable(&*store, &q).await;
        assert_eq!(store.settle(&again, &bury()).await, Ok(SettleResult::Applied));
        let letters = store.list_dead_letters(&q, None, 10).await.expect("answers");
        assert_eq!(letters.len(), 1, "nothing is doubled");
        assert_eq!(store.discard_dead_letter(&q, task.id.as_str()).await, Ok(true));
        assert_eq!(
            store.reprocess_dead_letter(&q, task.id.as_str(), wall_clock_now()).await,
            Ok(ReprocessResult::NoSuchDeadLetter)
        );
        f.advance_time(RESULT_TTL * 2).await;
        store
            .reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL)
            .await
            .expect("tended");
    }
}

pub(crate) async fn a_task_that_is_alive_is_not_reprocessed(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = new_task(&q);
    assert_eq!(
        store.reprocess_dead_letter(&q, task.id.as_str(), wall_clock_now()).await,
        Ok(ReprocessResult::NoSuchDeadLetter)
    );
    store.enqueue(&task, &q).await.expect("enqueued");
    assert_eq!(
        store.reprocess_dead_letter(&q, task.id.as_str(), wall_clock_now()).await,
        Ok(ReprocessResult::TaskActive)
    );
    let held = lease_one(&*store, &q).await;
    assert_eq!(
        store.reprocess_dead_letter(&q, task.id.as_str(), wall_clock_now()).await,
        Ok(ReprocessResult::TaskActive)
    );
    let complete = Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
    assert_eq!(store.settle(&held, &complete).await, Ok(SettleResult::Applied));
    assert_eq!(
        store.reprocess_dead_letter(&q, task.id.as_str(), wall_clock_now()).await,
        Ok(ReprocessResult::NoSuchDeadLetter),
        "it did not fail"
    );
    assert_eq!(get_record(&*store, &task.id).await.answer, Some(json_answer()));
}

pub(crate) async fn a_reprocessed_request_runs_without_its_credentials(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = new_task_with_secret(&q, "canary-secret");
    dead(&*store, &task).await;
    let reprocessed = store.reprocess_dead_letter(&q, task.id.as_str(), wall_clock_now()).await;
    assert_eq!(reprocessed, Ok(ReprocessResult::Queued { is_captured_request: true }));
    let request = lease_one(&*store, &q).await.task.request.expect("as it was captured");
    assert_eq!(request.headers.get(AUTHORIZATION), None);
    assert_eq!(request.headers.get_all("x-tag").iter().count(), 2, "the rest is there");
}

pub(crate) async fn a_discarded_dead_letter_is_gone_and_its_task_stays_failed(
    f: impl StoreFixture,
) {
    let (store, q) = (f.store(), test_queue("a"));
    let (gone, kept) = (new_task(&q), new_task(&q));
    dead(&*store, &gone).await;
    dead(&*store, &kept).await;
    assert_eq!(
        store.discard_dead_letter(&test_queue("b"), gone.id.as_str()).await,
        Ok(false),
        "another queue's"
    );
    assert_eq!(store.discard_dead_letter(&q, gone.id.as_str()).await, Ok(true));
    assert_eq!(store.discard_dead_letter(&q, gone.id.as_str()).await, Ok(false), "once");
    let letters = store.list_dead_letters(&q, None, 10).await.expect("answers");
    assert_eq!(
        letters.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(),
        [kept.id.as_str()]
    );
    assert_eq!(get_record(&*store, &gone.id).await.status, TaskStatus::Failed);
    assert_eq!(store.load_queue_depths(&[q]).await.expect("answers")[0].dead_letters, 1);
}

pub(crate) async fn dead_letters_are_listed_in_pages(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let mut ids = Vec::new();
    for _ in 0..5 {
        let task = new_task(&q);
        dead(&*store, &task).await;
        ids.insert(0, task.id.to_string());
    }
    let mut page = store.list_dead_letters(&q, None, 2).await.expect("answers");
    let mut listed = Vec::new();
    while let Some(last) = page.last() {
        let before = last.cursor.clone();
        listed.extend(page.iter().map(|letter| letter.id.clone()));
        page = store.list_dead_letters(&q, Some(&before), 2).await.expect("answers");
    }
    assert_eq!(listed, ids);
    assert_eq!(listed.iter().collect::<HashSet<_>>().len(), 5);
}

pub(crate) async fn a_list_leaves_large_payloads_out(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let large = format!("{{\"error\": \"{}\"}}", "x".repeat(3_000_000));
    let large = Task { payload: large.into(), ..new_task(&q) };
    let small = new_task(&q);
    dead(&*store, &large).await;
    dead(&*store, &small).await;
    let letters = store.list_dead_letters(&q, None, 10).await.expect("answers");
    let listed: Vec<_> = letters.iter().map(|letter| letter.id.as_str()).collect();
    assert_eq!(listed, [small.id.as_str(), large.id.as_str()]);
    assert_eq!(letters[0].payload.as_deref().map(str::as_bytes), Some(&*small.payload));
    assert_eq!((&letters[1].payload, &letters[1].error), (&None, &letters[0].error));
    assert_eq!(letters[1].attempts, letters[0].attempts);
    assert!(letters[1].payload_bytes >= 3_000_000, "{}", letters[1].payload_bytes);
    let whole = store.get_dead_letter(&q, large.id.as_str()).await.expect("answers");
    let whole = whole.expect("it is there");
    assert_eq!(whole.payload.as_deref().map(str::as_bytes), Some(&*large.payload));
    assert_eq!(store.get_dead_letter(&q, "task_none").await, Ok(None));
    assert_eq!(store.get_dead_letter(&test_queue("b"), large.id.as_str()).await, Ok(None));
}

/// What a request does whose store is slow: its enqueue is given up, and the task is cancelled
/// afterwards.
pub(crate) async fn a_cancel_after_an_enqueue_that_nobody_waited_for_finds_its_task(
    f: impl StoreFixture,
) {
    let (store, q) = (f.store(), test_queue("a"));
    for _ in 0..20 {
        let task = new_task(&q);
        let given_up =
            tokio::time::timeout(std::time::Duration::from_micros(50), store.enqueue(&task, &q))
                .await;
        drop(given_up);
        store.cancel(&task.id, RESULT_TTL).await.expect("answers");
    }
    assert_nothing_leasable(&*store, &q).await;
}
