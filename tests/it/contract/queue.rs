//! Tasks go in durably and come out as leases: in order, once, from every queue.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use omnidaemon::store::{Queue, Refusal, Settled, Settlement, StoreError};
use omnidaemon::task::{Owner, Status, Task, TaskId};

use super::{
    Fixture, PROCESS, SOON, TTL, enqueue, json, lease, nothing_to_lease, queue, record, soon, task, task_with_secret,
};

pub(crate) async fn a_task_is_queued_once_enqueue_returns(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = Task { owner: Some(Owner::from_digest("5eed")), ..task(&q) };
    store.enqueue(&task, &q).await.expect("enqueued");
    let found = record(&*store, &task.id).await;
    assert_eq!((&found.id, &found.topic, found.created), (&task.id, &task.topic, task.created));
    assert_eq!((found.status, found.attempts, found.owner), (Status::Queued, 0, task.owner));
    assert_eq!((found.finished, found.answer, found.failure), (None, None, None));
}

pub(crate) async fn a_task_survives_reopening(f: impl Fixture) {
    let q = queue("a");
    let waiting = task_with_secret(&q, "s");
    f.store().enqueue(&waiting, &q).await.expect("enqueued");
    let done = enqueue(&*f.store(), &queue("b")).await;
    let its_lease = lease(&*f.store(), &queue("b")).await;
    f.store().settle(&its_lease, &Settlement::Complete { answer: json(), ttl: TTL }).await.expect("settled");
    let f = f.reopen().await;
    assert_eq!(record(&*f.store(), &done.id).await.answer, Some(json()));
    assert_eq!(record(&*f.store(), &waiting.id).await.status, Status::Queued);
    assert_eq!(lease(&*f.store(), &q).await.task, waiting);
}

pub(crate) async fn an_id_that_is_there_is_success_and_queued_once(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = enqueue(&*store, &q).await;
    store.enqueue(&task, &q).await.expect("a repeat while it waits");
    let its_lease = lease(&*store, &q).await;
    store.enqueue(&task, &q).await.expect("a repeat while it runs");
    nothing_to_lease(&*store, &q).await;
    store.settle(&its_lease, &Settlement::Complete { answer: json(), ttl: TTL }).await.expect("settled");
    store.enqueue(&task, &q).await.expect("a repeat after its end");
    nothing_to_lease(&*store, &q).await;
    assert_eq!(record(&*store, &task.id).await.status, Status::Completed);
}

pub(crate) async fn an_unknown_task_is_none(f: impl Fixture) {
    let unknown = TaskId::parse("task_nobody-knows").expect("an id");
    assert_eq!(f.store().get(&unknown).await, Ok(None));
}

pub(crate) async fn everything_about_a_task_reaches_its_worker(f: impl Fixture) {
    let (store, q) = (f.store(), queue("genesis.meta.orchestrate"));
    let mut full = task_with_secret(&q, "Bearer s3cret");
    full.payload = Bytes::from_static("{\"n\": 1.0e2,  \"text\": \"\u{e9}\\u00e9\"}".as_bytes());
    full.correlation_id = Some("the \"caller's\" own".into());
    full.route = Some("invoke".into());
    full.webhook = Some("https://hooks.example.com/x?y=1".into());
    full.reply_to = Some(queue("replies").topic);
    full.causation_id = Some("the one before".into());
    full.retries = 7;
    let request = full.request.as_mut().expect("it has one");
    request.body = Bytes::from_static(b"\xff\x00 not text");
    request.headers.insert("x-latin", HeaderValue::from_bytes(b"caf\xe9").expect("a header value"));
    let same_body = task_with_secret(&q, "s");
    let bare = Task { payload: Bytes::from_static(b"\"text\""), ..task(&q) };
    for task in [&full, &same_body, &bare] {
        store.enqueue(task, &q).await.expect("enqueued");
        let lease = lease(&*store, &q).await;
        assert_eq!(&lease.task, task);
        assert_eq!((lease.attempt, &lease.queue), (1, &q));
    }
}

pub(crate) async fn leases_come_in_order_and_never_more_than_asked_for(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let mut queued = Vec::new();
    for _ in 0..7 {
        queued.push(enqueue(&*store, &q).await.id);
    }
    let mut leased = Vec::new();
    while leased.len() < queued.len() {
        let some = store.lease(PROCESS, std::slice::from_ref(&q), 3, SOON).await.expect("answers");
        assert!((1..=3).contains(&some.len()), "{} leases of 3", some.len());
        leased.extend(some.into_iter().map(|lease| lease.task.id));
    }
    assert_eq!(leased, queued);
    nothing_to_lease(&*store, &q).await;
}

pub(crate) async fn an_empty_queue_leases_nothing(f: impl Fixture) {
    let wait = Duration::from_millis(50);
    let leases = soon(f.store().lease(PROCESS, &[queue("a"), queue("b")], 4, wait)).await;
    assert_eq!(leases, Ok(vec![]));
}

pub(crate) async fn a_waiting_lease_wakes_when_a_task_comes(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let waits = {
        let (store, q) = (f.store(), q.clone());
        // Longer than `soon` allows: only a wake can end it in time.
        tokio::spawn(async move { store.lease(PROCESS, &[queue("other"), q], 1, SOON * 2).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await; // so that it waits by now, most of the time
    let task = enqueue(&*store, &q).await;
    let leases = soon(waits).await.expect("no panic").expect("answers");
    assert_eq!(leases.into_iter().map(|lease| lease.task.id).collect::<Vec<_>>(), vec![task.id]);
}

pub(crate) async fn no_queue_is_starved(f: impl Fixture) {
    let store = f.store();
    let queues = [queue("busy"), queue("quiet"), queue("calm")];
    for _ in 0..40 {
        enqueue(&*store, &queues[0]).await;
    }
    for quiet in &queues[1..] {
        enqueue(&*store, quiet).await;
    }
    let mut seen = HashSet::new();
    for _ in 0..10 {
        let leases = store.lease(PROCESS, &queues, 2, SOON).await.expect("answers");
        seen.extend(leases.into_iter().map(|lease| lease.task.topic));
    }
    assert_eq!(seen.len(), 3, "within half of the busy queue's tasks the others have their turn: {seen:?}");
}

pub(crate) async fn only_the_queues_asked_for_are_leased(f: impl Fixture) {
    let (store, mine, other) = (f.store(), queue("mine"), queue("mine.other"));
    let foreign = enqueue(&*store, &other).await;
    nothing_to_lease(&*store, &mine).await;
    assert_eq!(lease(&*store, &other).await.task.id, foreign.id);
}

pub(crate) async fn a_full_backlog_refuses_with_its_numbers(f: impl Fixture) {
    let store = f.store();
    let q = Queue { max_backlog: 2, ..queue("a") };
    let first = enqueue(&*store, &q).await;
    enqueue(&*store, &q).await;
    let refused = Refusal::Backlog { topic: q.topic.clone(), depth: 2, max: 2 };
    let late = task(&q);
    assert_eq!(store.enqueue(&late, &q).await, Err(StoreError::Refused(refused)));
    assert_eq!(store.get(&late.id).await, Ok(None), "what was refused is not there");
    store.enqueue(&first, &q).await.expect("a repeat of what is there is no addition");
    enqueue(&*store, &Queue { max_backlog: 2, ..queue("b") }).await;

    let running = lease(&*store, &q).await;
    store.enqueue(&late, &q).await.expect("what runs does not wait");
    store.enqueue(&task(&q), &Queue { max_backlog: 3, ..q.clone() }).await.expect("the limit of the call counts");
    let complete = Settlement::Complete { answer: json(), ttl: TTL };
    assert_eq!(store.settle(&running, &complete).await, Ok(Settled::Applied));
    assert!(matches!(store.enqueue(&task(&q), &q).await, Err(StoreError::Refused(Refusal::Backlog { depth: 3, .. }))));
}
