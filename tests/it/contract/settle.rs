//! How a task ends: once, atomically, and only by the holder of its current attempt.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use omnidaemon::store::{Cancelled, Lease, Settled, Settlement, TaskStore};
use omnidaemon::task::{Answer, Failure, FailureKind, Status, Task, TaskId, UnixMs};

use super::{
    Fixture, PROCESS, SOON, TTL, enqueue, failure, json, lease, nothing_to_lease, queue, record, soon, task,
    task_with_secret,
};

fn complete() -> Settlement {
    Settlement::Complete { answer: json(), ttl: TTL }
}

fn bury(message: &str) -> Settlement {
    Settlement::Bury { failure: failure(message), ttl: TTL }
}

fn retry(at: UnixMs) -> Settlement {
    Settlement::Retry { failure: failure("try again"), at }
}

async fn applied(store: &dyn TaskStore, lease: &Lease, settlement: &Settlement) {
    assert_eq!(store.settle(lease, settlement).await, Ok(Settled::Applied), "{settlement:?}");
}

async fn fenced(store: &dyn TaskStore, lease: &Lease, settlement: &Settlement) {
    assert_eq!(store.settle(lease, settlement).await, Ok(Settled::Fenced), "{settlement:?}");
}

pub(crate) async fn a_completed_task_has_its_answer_byte_for_byte(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let mut headers = HeaderMap::new();
    headers.append("set-cookie", HeaderValue::from_static("a=1"));
    headers.append("set-cookie", HeaderValue::from_static("b=2"));
    headers.insert("x-latin", HeaderValue::from_bytes(b"caf\xe9").expect("a header value"));
    let verbatim = |body: &'static [u8]| Answer {
        status: Some(StatusCode::NOT_FOUND),
        headers: headers.clone(),
        body: Bytes::from_static(body),
        verbatim: true,
    };
    let answers = [
        Answer::json("{\"a\": 1.0e2,  \"b\":[ ]}"),
        Answer { status: Some(StatusCode::CREATED), ..Answer::json("\"x\"") },
        verbatim(b"\xff\xfe\x00"),
        verbatim(b"plain text\n"),
        verbatim(b""),
        verbatim(b" {\"a\" :1}\n"),
    ];
    for answer in answers {
        let task = enqueue(&*store, &q).await;
        let lease = lease(&*store, &q).await;
        assert_eq!(record(&*store, &task.id).await.status, Status::Processing);
        applied(&*store, &lease, &Settlement::Complete { answer: answer.clone(), ttl: TTL }).await;
        let found = record(&*store, &task.id).await;
        assert_eq!((found.status, found.attempts), (Status::Completed, 1));
        assert_eq!((found.answer, found.failure), (Some(answer), None));
        assert!(found.finished.is_some());
    }
}

pub(crate) async fn those_who_wait_are_told_the_end(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    for end in [Some(complete()), Some(bury("for good")), None] {
        let task = task(&q);
        let (one, two) = (store.waiters().register(&task.id), store.waiters().register(&task.id));
        store.enqueue(&task, &q).await.expect("enqueued");
        let lease = lease(&*store, &q).await;
        match &end {
            Some(settlement) => applied(&*store, &lease, settlement).await,
            None => assert_eq!(store.cancel(&task.id, TTL).await, Ok(Cancelled::Running)),
        }
        let told = soon(one).await.expect("the task is known");
        assert!(told.status.is_final(), "{told:?}");
        assert_eq!(*told, record(&*store, &task.id).await);
        assert_eq!(soon(two).await, Some(told));
    }
}

pub(crate) async fn a_retry_begins_at_its_time_as_the_next_attempt(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = enqueue(&*store, &q).await;
    let first = lease(&*store, &q).await;
    let why = Failure { answer: Some(json()), ..Failure::new(FailureKind::Status, "status 503") };
    let at = f.now().plus(Duration::from_millis(700));
    applied(&*store, &first, &Settlement::Retry { failure: why.clone(), at }).await;
    let parked = record(&*store, &task.id).await;
    assert_eq!((parked.status, parked.attempts, parked.failure), (Status::Queued, 1, Some(why)));

    // Polled, so that a lease before its time would be caught.
    let second = soon(async {
        loop {
            let leases = store.lease(PROCESS, std::slice::from_ref(&q), 1, Duration::ZERO).await.expect("answers");
            if let Some(lease) = leases.into_iter().next() {
                break lease;
            }
            store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(f.now() >= at, "leased before its time");
    assert_eq!((second.attempt, &second.task), (2, &task));
    assert_eq!(record(&*store, &task.id).await.attempts, 2);
}

pub(crate) async fn a_waiting_lease_wakes_for_a_due_retry(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    enqueue(&*store, &q).await;
    let first = lease(&*store, &q).await;
    let at = f.now().plus(Duration::from_millis(300));
    applied(&*store, &first, &retry(at)).await;
    let second = soon(store.lease(PROCESS, std::slice::from_ref(&q), 1, SOON * 2)).await.expect("answers");
    assert!(second.len() == 1 && second[0].attempt == 2 && f.now() >= at, "{second:?}");
}

pub(crate) async fn a_buried_task_is_failed_and_a_dead_letter(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = Task { payload: Bytes::from_static(b"{\"spelled\":  [1.0]}"), ..task(&q) };
    store.enqueue(&task, &q).await.expect("enqueued");
    let first = lease(&*store, &q).await;
    applied(&*store, &first, &retry(UnixMs(0))).await;
    let second = lease(&*store, &q).await;
    let why = Failure { answer: Some(json()), ..Failure::new(FailureKind::Status, "status 500") };
    applied(&*store, &second, &Settlement::Bury { failure: why.clone(), ttl: TTL }).await;

    let found = record(&*store, &task.id).await;
    assert_eq!((found.status, found.attempts, found.answer), (Status::Failed, 2, None));
    assert_eq!(found.failure, Some(why));
    let letters = store.dead_letters(&q, 10).await.expect("answers");
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].id.as_str(), &letters[0].topic), (task.id.as_str(), &q.topic));
    assert_eq!((letters[0].error.as_str(), letters[0].attempts), ("status 500", 2));
    assert_eq!(letters[0].payload.as_bytes(), task.payload);
    assert_eq!(Some(letters[0].failed), found.finished);
    nothing_to_lease(&*store, &q).await;
}

pub(crate) async fn dead_letters_are_listed_newest_first(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    for message in ["one", "two", "three"] {
        enqueue(&*store, &q).await;
        let lease = lease(&*store, &q).await;
        applied(&*store, &lease, &bury(message)).await;
    }
    let letters = store.dead_letters(&q, 2).await.expect("answers");
    assert_eq!(letters.iter().map(|letter| letter.error.as_str()).collect::<Vec<_>>(), ["three", "two"]);
    assert_eq!(store.dead_letters(&queue("b"), 10).await, Ok(vec![]));
}

pub(crate) async fn a_released_task_runs_again_and_its_attempt_is_unspent(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = enqueue(&*store, &q).await;
    let first = lease(&*store, &q).await;
    applied(&*store, &first, &Settlement::Release).await;
    let released = record(&*store, &task.id).await;
    assert_eq!((released.status, released.attempts), (Status::Queued, 0));
    let again = lease(&*store, &q).await;
    assert_eq!((again.attempt, &again.task), (1, &task));
    applied(&*store, &again, &complete()).await;
}

pub(crate) async fn an_older_attempt_is_fenced(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = enqueue(&*store, &q).await;
    let old = lease(&*store, &q).await;
    applied(&*store, &old, &retry(UnixMs(0))).await;
    let current = lease(&*store, &q).await;
    let before = record(&*store, &task.id).await;
    for settlement in [complete(), bury("late"), Settlement::Release] {
        fenced(&*store, &old, &settlement).await;
        assert_eq!(record(&*store, &task.id).await, before);
    }
    nothing_to_lease(&*store, &q).await;
    applied(&*store, &current, &complete()).await;
    assert_eq!(store.dead_letters(&q, 10).await, Ok(vec![]));
    assert_eq!(record(&*store, &task.id).await.status, Status::Completed);
}

pub(crate) async fn repeating_an_applied_settlement_applies_it_once(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    for (settlement, next) in [(complete(), None), (bury("x"), None), (retry(UnixMs(0)), Some(2))] {
        let task = enqueue(&*store, &q).await;
        let its_lease = lease(&*store, &q).await;
        applied(&*store, &its_lease, &settlement).await;
        let before = record(&*store, &task.id).await;
        applied(&*store, &its_lease, &settlement).await;
        assert_eq!(record(&*store, &task.id).await, before);
        if let Some(attempt) = next {
            assert_eq!(lease(&*store, &q).await.attempt, attempt);
        }
        nothing_to_lease(&*store, &q).await;
    }
    assert_eq!(store.dead_letters(&q, 10).await.expect("answers").len(), 1);
}

pub(crate) async fn a_second_settlement_of_another_kind_is_fenced(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = enqueue(&*store, &q).await;
    let its_lease = lease(&*store, &q).await;
    applied(&*store, &its_lease, &complete()).await;
    for late in [bury("late"), retry(UnixMs(0)), Settlement::Release] {
        fenced(&*store, &its_lease, &late).await;
    }
    assert_eq!(record(&*store, &task.id).await.answer, Some(json()));
    assert_eq!(store.dead_letters(&q, 10).await, Ok(vec![]));
    nothing_to_lease(&*store, &q).await;
}

pub(crate) async fn a_queued_task_is_cancelled_and_never_runs(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = task(&q);
    let waiter = store.waiters().register(&task.id);
    store.enqueue(&task, &q).await.expect("enqueued");
    assert_eq!(store.cancel(&task.id, TTL).await, Ok(Cancelled::Done));
    let found = record(&*store, &task.id).await;
    assert_eq!((found.status, found.attempts, found.answer.is_none()), (Status::Cancelled, 0, true));
    assert_eq!(soon(waiter).await.as_deref(), Some(&found));
    nothing_to_lease(&*store, &q).await;
    assert_eq!(store.cancel(&task.id, TTL).await, Ok(Cancelled::Done), "it already was");
}

pub(crate) async fn a_task_parked_for_a_retry_is_cancelled_and_never_runs(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = enqueue(&*store, &q).await;
    let its_lease = lease(&*store, &q).await;
    let at = f.now().plus(Duration::from_millis(100));
    applied(&*store, &its_lease, &retry(at)).await;
    assert_eq!(store.cancel(&task.id, TTL).await, Ok(Cancelled::Done));
    while f.now() <= at {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
    nothing_to_lease(&*store, &q).await;
    assert_eq!(record(&*store, &task.id).await.status, Status::Cancelled);
}

pub(crate) async fn a_running_task_is_cancelled_and_fenced(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = enqueue(&*store, &q).await;
    let its_lease = lease(&*store, &q).await;
    assert_eq!(store.cancel(&task.id, TTL).await, Ok(Cancelled::Running));
    for late in [complete(), bury("late"), retry(UnixMs(0)), Settlement::Release] {
        fenced(&*store, &its_lease, &late).await;
    }
    let found = record(&*store, &task.id).await;
    assert_eq!((found.status, found.answer), (Status::Cancelled, None));
    nothing_to_lease(&*store, &q).await;
}

pub(crate) async fn a_task_that_ended_is_not_cancelled(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    for (settlement, status) in [(complete(), Status::Completed), (bury("x"), Status::Failed)] {
        let task = enqueue(&*store, &q).await;
        let its_lease = lease(&*store, &q).await;
        applied(&*store, &its_lease, &settlement).await;
        assert_eq!(store.cancel(&task.id, TTL).await, Ok(Cancelled::Ended(status)));
        assert_eq!(record(&*store, &task.id).await.status, status);
    }
    let unknown = TaskId::parse("task_nobody-knows").expect("an id");
    assert_eq!(store.cancel(&unknown, TTL).await, Ok(Cancelled::Unknown));
}

pub(crate) async fn credentials_go_when_the_task_ends(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let secret = |n: usize| format!("canary-secret-{n}-");
    let queued = async |n: usize| -> Task {
        let task = task_with_secret(&q, &secret(n));
        store.enqueue(&task, &q).await.expect("enqueued");
        assert!(f.holds(&secret(n)).await, "while it waits, its worker will need it");
        task
    };
    for (n, settlement) in [complete(), bury("x")].iter().enumerate() {
        queued(n).await;
        let its_lease = lease(&*store, &q).await;
        applied(&*store, &its_lease, settlement).await;
        assert!(!f.holds(&secret(n)).await, "{settlement:?}");
    }
    let running = queued(2).await;
    lease(&*store, &q).await;
    let waiting = queued(3).await;
    for (n, task) in [(2, running), (3, waiting)] {
        store.cancel(&task.id, TTL).await.expect("cancelled");
        assert!(!f.holds(&secret(n)).await, "cancelled");
    }
    let store: Arc<dyn TaskStore> = f.store();
    nothing_to_lease(&*store, &q).await;
}
