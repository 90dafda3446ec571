//! How a task ends: once, atomically, and only by the holder of its current attempt.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use omnidaemon::store::{CancelResult, Lease, SettleResult, Settlement, TaskStore};
use omnidaemon::task::{FailureKind, Task, TaskAnswer, TaskFailure, TaskId, TaskStatus, UnixMs};

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, WAIT_DEADLINE, assert_nothing_leasable, enqueue_task,
    get_record, handler_failure, json_answer, lease_one, new_task, new_task_with_secret,
    test_queue, within_deadline,
};

fn complete() -> Settlement {
    Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL }
}

fn bury(message: &str) -> Settlement {
    Settlement::Bury { failure: handler_failure(message), ttl: RESULT_TTL }
}

fn retry(at: UnixMs) -> Settlement {
    Settlement::Retry { failure: handler_failure("try again"), retry_at: at }
}

async fn applied(store: &dyn TaskStore, lease: &Lease, settlement: &Settlement) {
    assert_eq!(store.settle(lease, settlement).await, Ok(SettleResult::Applied), "{settlement:?}");
}

async fn fenced(store: &dyn TaskStore, lease: &Lease, settlement: &Settlement) {
    assert_eq!(store.settle(lease, settlement).await, Ok(SettleResult::Fenced), "{settlement:?}");
}

pub(crate) async fn a_completed_task_has_its_answer_byte_for_byte(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let mut headers = HeaderMap::new();
    headers.append("set-cookie", HeaderValue::from_static("a=1"));
    headers.append("set-cookie", HeaderValue::from_static("b=2"));
    headers.insert("x-latin", HeaderValue::from_bytes(b"caf\xe9").expect("a header value"));
    let verbatim = |body: &'static [u8]| TaskAnswer {
        status: Some(StatusCode::NOT_FOUND),
        headers: headers.clone(),
        body: Bytes::from_static(body),
        verbatim: true,
    };
    let answers = [
        TaskAnswer::from_json("{\"a\": 1.0e2,  \"b\":[ ]}"),
        TaskAnswer { status: Some(StatusCode::CREATED), ..TaskAnswer::from_json("\"x\"") },
        verbatim(b"\xff\xfe\x00"),
        verbatim(b"plain text\n"),
        verbatim(b""),
        verbatim(b" {\"a\" :1}\n"),
    ];
    for answer in answers {
        let task = enqueue_task(&*store, &q).await;
        let lease = lease_one(&*store, &q).await;
        assert_eq!(get_record(&*store, &task.id).await.status, TaskStatus::Processing);
        applied(&*store, &lease, &Settlement::Complete { answer: answer.clone(), ttl: RESULT_TTL })
            .await;
        let found = get_record(&*store, &task.id).await;
        assert_eq!((found.status, found.attempts), (TaskStatus::Completed, 1));
        assert_eq!((found.answer, found.failure), (Some(answer), None));
        assert!(found.finished.is_some());
    }
}

pub(crate) async fn those_who_wait_are_told_the_end(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    for end in [Some(complete()), Some(bury("for good")), None] {
        let task = new_task(&q);
        let (one, two) = (
            store.end_waiters().register_waiter(&task.id),
            store.end_waiters().register_waiter(&task.id),
        );
        store.enqueue(&task, &q).await.expect("enqueued");
        let lease = lease_one(&*store, &q).await;
        match &end {
            Some(settlement) => applied(&*store, &lease, settlement).await,
            None => {
                assert_eq!(store.cancel(&task.id, RESULT_TTL).await, Ok(CancelResult::WasRunning));
            }
        }
        let told = within_deadline(one).await.expect("the task is known");
        assert!(told.status.is_final(), "{told:?}");
        assert_eq!(*told, get_record(&*store, &task.id).await);
        assert_eq!(within_deadline(two).await, Some(told));
    }
}

pub(crate) async fn a_retry_begins_at_its_time_as_the_next_attempt(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = enqueue_task(&*store, &q).await;
    let first = lease_one(&*store, &q).await;
    let why = TaskFailure {
        answer: Some(json_answer()),
        ..TaskFailure::new(FailureKind::FailedStatus, "status 503")
    };
    let at = f.store_now().plus(Duration::from_millis(700));
    applied(&*store, &first, &Settlement::Retry { failure: why.clone(), retry_at: at }).await;
    let parked = get_record(&*store, &task.id).await;
    assert_eq!(
        (parked.status, parked.attempts, parked.failure),
        (TaskStatus::Queued, 1, Some(why))
    );

    // Polled, so that a lease before its time would be caught.
    let second = within_deadline(async {
        loop {
            let leases = store
                .lease(TEST_PROCESS, std::slice::from_ref(&q), 1, Duration::ZERO)
                .await
                .expect("answers");
            if let Some(lease) = leases.into_iter().next() {
                break lease;
            }
            store
                .reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL)
                .await
                .expect("tended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(f.store_now() >= at, "leased before its time");
    assert_eq!((second.attempt, &second.task), (2, &task));
    assert_eq!(get_record(&*store, &task.id).await.attempts, 2);
}

pub(crate) async fn a_waiting_lease_wakes_for_a_due_retry(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    enqueue_task(&*store, &q).await;
    let first = lease_one(&*store, &q).await;
    let at = f.store_now().plus(Duration::from_millis(300));
    applied(&*store, &first, &retry(at)).await;
    let second =
        within_deadline(store.lease(TEST_PROCESS, std::slice::from_ref(&q), 1, WAIT_DEADLINE * 2))
            .await
            .expect("answers");
    assert!(second.len() == 1 && second[0].attempt == 2 && f.store_now() >= at, "{second:?}");
}

pub(crate) async fn a_buried_task_is_failed_and_a_dead_letter(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = Task { payload: Bytes::from_static(b"{\"spelled\":  [1.0]}"), ..new_task(&q) };
    store.enqueue(&task, &q).await.expect("enqueued");
    let first = lease_one(&*store, &q).await;
    applied(&*store, &first, &retry(UnixMs(0))).await;
    let second = lease_one(&*store, &q).await;
    let why = TaskFailure {
        answer: Some(json_answer()),
        ..TaskFailure::new(FailureKind::FailedStatus, "status 500")
    };
    applied(&*store, &second, &Settlement::Bury { failure: why.clone(), ttl: RESULT_TTL }).await;

    let found = get_record(&*store, &task.id).await;
    assert_eq!((found.status, found.attempts, found.answer), (TaskStatus::Failed, 2, None));
    assert_eq!(found.failure, Some(why));
    let letters = store.list_dead_letters(&q, None, 10).await.expect("answers");
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].id.as_str(), &letters[0].topic), (task.id.as_str(), &q.topic));
    assert_eq!((letters[0].error.as_str(), letters[0].attempts), ("status 500", 2));
    assert_eq!(letters[0].payload.as_deref().map(str::as_bytes), Some(&*task.payload));
    assert_eq!(Some(letters[0].failed_at), found.finished);
    assert_nothing_leasable(&*store, &q).await;
}

pub(crate) async fn dead_letters_are_listed_newest_first(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    for message in ["one", "two", "three"] {
        enqueue_task(&*store, &q).await;
        let lease = lease_one(&*store, &q).await;
        applied(&*store, &lease, &bury(message)).await;
    }
    let letters = store.list_dead_letters(&q, None, 2).await.expect("answers");
    assert_eq!(
        letters.iter().map(|letter| letter.error.as_str()).collect::<Vec<_>>(),
        ["three", "two"]
    );
    assert_eq!(store.list_dead_letters(&test_queue("b"), None, 10).await, Ok(vec![]));
}

pub(crate) async fn a_released_task_runs_again_and_its_attempt_is_unspent(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = enqueue_task(&*store, &q).await;
    let first = lease_one(&*store, &q).await;
    applied(&*store, &first, &Settlement::Release).await;
    let released = get_record(&*store, &task.id).await;
    assert_eq!((released.status, released.attempts), (TaskStatus::Queued, 0));
    let again = lease_one(&*store, &q).await;
    assert_eq!((again.attempt, &again.task), (1, &task));
    applied(&*store, &again, &complete()).await;
}

pub(crate) async fn an_older_attempt_is_fenced(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = enqueue_task(&*store, &q).await;
    let old = lease_one(&*store, &q).await;
    applied(&*store, &old, &retry(UnixMs(0))).await;
    let current = lease_one(&*store, &q).await;
    let before = get_record(&*store, &task.id).await;
    for settlement in [complete(), bury("late"), Settlement::Release] {
        fenced(&*store, &old, &settlement).await;
        assert_eq!(get_record(&*store, &task.id).await, before);
    }
    assert_nothing_leasable(&*store, &q).await;
    applied(&*store, &current, &complete()).await;
    assert_eq!(store.list_dead_letters(&q, None, 10).await, Ok(vec![]));
    assert_eq!(get_record(&*store, &task.id).await.status, TaskStatus::Completed);
}

pub(crate) async fn repeating_an_applied_settlement_applies_it_once(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    for (settlement, next) in [(complete(), None), (bury("x"), None), (retry(UnixMs(0)), Some(2))] {
        let task = enqueue_task(&*store, &q).await;
        let its_lease = lease_one(&*store, &q).await;
        applied(&*store, &its_lease, &settlement).await;
        let before = get_record(&*store, &task.id).await;
        applied(&*store, &its_lease, &settlement).await;
        assert_eq!(get_record(&*store, &task.id).await, before);
        if let Some(attempt) = next {
            assert_eq!(lease_one(&*store, &q).await.attempt, attempt);
        }
        assert_nothing_leasable(&*store, &q).await;
    }
    assert_eq!(store.list_dead_letters(&q, None, 10).await.expect("answers").len(), 1);
}

pub(crate) async fn a_second_settlement_of_another_kind_is_fenced(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = enqueue_task(&*store, &q).await;
    let its_lease = lease_one(&*store, &q).await;
    applied(&*store, &its_lease, &complete()).await;
    for late in [bury("late"), retry(UnixMs(0)), Settlement::Release] {
        fenced(&*store, &its_lease, &late).await;
    }
    assert_eq!(get_record(&*store, &task.id).await.answer, Some(json_answer()));
    assert_eq!(store.list_dead_letters(&q, None, 10).await, Ok(vec![]));
    assert_nothing_leasable(&*store, &q).await;
}

pub(crate) async fn a_queued_task_is_cancelled_and_never_runs(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = new_task(&q);
    let waiter = store.end_waiters().register_waiter(&task.id);
    store.enqueue(&task, &q).await.expect("enqueued");
    assert_eq!(store.cancel(&task.id, RESULT_TTL).await, Ok(CancelResult::Cancelled));
    let found = get_record(&*store, &task.id).await;
    assert_eq!(
        (found.status, found.attempts, found.answer.is_none()),
        (TaskStatus::Cancelled, 0, true)
    );
    assert_eq!(within_deadline(waiter).await.as_deref(), Some(&found));
    assert_nothing_leasable(&*store, &q).await;
    assert_eq!(
        store.cancel(&task.id, RESULT_TTL).await,
        Ok(CancelResult::Cancelled),
        "it already was"
    );
}

pub(crate) async fn a_task_parked_for_a_retry_is_cancelled_and_never_runs(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = enqueue_task(&*store, &q).await;
    let its_lease = lease_one(&*store, &q).await;
    let at = f.store_now().plus(Duration::from_millis(100));
    applied(&*store, &its_lease, &retry(at)).await;
    assert_eq!(store.cancel(&task.id, RESULT_TTL).await, Ok(CancelResult::Cancelled));
    while f.store_now() <= at {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL).await.expect("tended");
    assert_nothing_leasable(&*store, &q).await;
    assert_eq!(get_record(&*store, &task.id).await.status, TaskStatus::Cancelled);
}

pub(crate) async fn a_running_task_is_cancelled_and_fenced(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = enqueue_task(&*store, &q).await;
    let its_lease = lease_one(&*store, &q).await;
    assert_eq!(store.cancel(&task.id, RESULT_TTL).await, Ok(CancelResult::WasRunning));
    for late in [complete(), bury("late"), retry(UnixMs(0)), Settlement::Release] {
        fenced(&*store, &its_lease, &late).await;
    }
    let found = get_record(&*store, &task.id).await;
    assert_eq!((found.status, found.answer), (TaskStatus::Cancelled, None));
    assert_nothing_leasable(&*store, &q).await;
}

pub(crate) async fn a_task_that_ended_is_not_cancelled(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    for (settlement, status) in
        [(complete(), TaskStatus::Completed), (bury("x"), TaskStatus::Failed)]
    {
        let task = enqueue_task(&*store, &q).await;
        let its_lease = lease_one(&*store, &q).await;
        applied(&*store, &its_lease, &settlement).await;
        assert_eq!(
            store.cancel(&task.id, RESULT_TTL).await,
            Ok(CancelResult::AlreadyEnded(status))
        );
        assert_eq!(get_record(&*store, &task.id).await.status, status);
    }
    let unknown = TaskId::parse("task_nobody-knows").expect("an id");
    assert_eq!(store.cancel(&unknown, RESULT_TTL).await, Ok(CancelResult::NoSuchTask));
}

pub(crate) async fn credentials_go_when_the_task_ends(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let secret = |n: usize| format!("canary-secret-{n}-");
    let queued = async |n: usize| -> Task {
        let task = new_task_with_secret(&q, &secret(n));
        store.enqueue(&task, &q).await.expect("enqueued");
        assert!(f.contains_text(&secret(n)).await, "while it waits, its worker will need it");
        task
    };
    for (n, settlement) in [complete(), bury("x")].iter().enumerate() {
        queued(n).await;
        let its_lease = lease_one(&*store, &q).await;
        applied(&*store, &its_lease, settlement).await;
        assert!(!f.contains_text(&secret(n)).await, "{settlement:?}");
    }
    let running = queued(2).await;
    lease_one(&*store, &q).await;
    let waiting = queued(3).await;
    for (n, task) in [(2, running), (3, waiting)] {
        store.cancel(&task.id, RESULT_TTL).await.expect("cancelled");
        assert!(!f.contains_text(&secret(n)).await, "cancelled");
    }
    let store: Arc<dyn TaskStore> = f.store();
    assert_nothing_leasable(&*store, &q).await;
}
