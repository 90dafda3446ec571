//! Tasks go in durably and come out as leases: in order, once, from every queue.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use omnidaemon::store::{SettleResult, Settlement, StoreError, StoreRefusal, TopicQueue};
use omnidaemon::task::{Task, TaskId, TaskOwner, TaskStatus};

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, WAIT_DEADLINE, assert_nothing_leasable, enqueue_task,
    get_record, json_answer, lease_one, new_task, new_task_with_secret, test_queue,
    within_deadline,
};

pub(crate) async fn a_task_is_queued_once_enqueue_returns(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = Task { owner: Some(TaskOwner::from_digest("5eed")), ..new_task(&q) };
    store.enqueue(&task, &q).await.expect("enqueued");
    let found = get_record(&*store, &task.id).await;
    assert_eq!((&found.id, &found.topic, found.created), (&task.id, &task.topic, task.created));
    assert_eq!((found.status, found.attempts, found.owner), (TaskStatus::Queued, 0, task.owner));
    assert_eq!((found.finished, found.answer, found.failure), (None, None, None));
}

pub(crate) async fn a_task_survives_reopening(f: impl StoreFixture) {
    let q = test_queue("a");
    let waiting = new_task_with_secret(&q, "s");
    f.store().enqueue(&waiting, &q).await.expect("enqueued");
    let done = enqueue_task(&*f.store(), &test_queue("b")).await;
    let its_lease = lease_one(&*f.store(), &test_queue("b")).await;
    f.store()
        .settle(&its_lease, &Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL })
        .await
        .expect("settled");
    let f = f.reopen().await;
    assert_eq!(get_record(&*f.store(), &done.id).await.answer, Some(json_answer()));
    assert_eq!(get_record(&*f.store(), &waiting.id).await.status, TaskStatus::Queued);
    assert_eq!(lease_one(&*f.store(), &q).await.task, waiting);
}

pub(crate) async fn an_id_that_is_there_is_success_and_queued_once(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = enqueue_task(&*store, &q).await;
    store.enqueue(&task, &q).await.expect("a repeat while it waits");
    let its_lease = lease_one(&*store, &q).await;
    store.enqueue(&task, &q).await.expect("a repeat while it runs");
    assert_nothing_leasable(&*store, &q).await;
    store
        .settle(&its_lease, &Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL })
        .await
        .expect("settled");
    store.enqueue(&task, &q).await.expect("a repeat after its end");
    assert_nothing_leasable(&*store, &q).await;
    assert_eq!(get_record(&*store, &task.id).await.status, TaskStatus::Completed);
}

pub(crate) async fn an_unknown_task_is_none(f: impl StoreFixture) {
    let unknown = TaskId::parse("task_nobody-knows").expect("an id");
    assert_eq!(f.store().get_task(&unknown).await, Ok(None));
}

pub(crate) async fn everything_about_a_task_reaches_its_worker(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("genesis.meta.orchestrate"));
    let mut full = new_task_with_secret(&q, "Bearer s3cret");
    full.payload = Bytes::from_static("{\"n\": 1.0e2,  \"text\": \"\u{e9}\\u00e9\"}".as_bytes());
    full.correlation_id = Some("the \"caller's\" own".into());
    full.route = Some("invoke".into());
    full.webhook = Some("https://hooks.example.com/x?y=1".into());
    full.reply_to = Some(test_queue("replies").topic);
    full.causation_id = Some("the one before".into());
    full.retries = 7;
    let request = full.request.as_mut().expect("it has one");
    request.body = Bytes::from_static(b"\xff\x00 not text");
    request.headers.insert("x-latin", HeaderValue::from_bytes(b"caf\xe9").expect("a header value"));
    let same_body = new_task_with_secret(&q, "s");
    let bare = Task { payload: Bytes::from_static(b"\"text\""), ..new_task(&q) };
    for task in [&full, &same_body, &bare] {
        store.enqueue(task, &q).await.expect("enqueued");
        let lease = lease_one(&*store, &q).await;
        assert_eq!(&lease.task, task);
        assert_eq!((lease.attempt, &lease.queue), (1, &q));
    }
}

pub(crate) async fn leases_come_in_order_and_never_more_than_asked_for(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let mut queued = Vec::new();
    for _ in 0..7 {
        queued.push(enqueue_task(&*store, &q).await.id);
    }
    let mut leased = Vec::new();
    while leased.len() < queued.len() {
        let some = store
            .lease(TEST_PROCESS, std::slice::from_ref(&q), 3, WAIT_DEADLINE)
            .await
            .expect("answers");
        assert!((1..=3).contains(&some.len()), "{} leases of 3", some.len());
        leased.extend(some.into_iter().map(|lease| lease.task.id));
    }
    assert_eq!(leased, queued);
    assert_nothing_leasable(&*store, &q).await;
}

pub(crate) async fn an_empty_queue_leases_nothing(f: impl StoreFixture) {
    let wait = Duration::from_millis(50);
    let leases = within_deadline(f.store().lease(
        TEST_PROCESS,
        &[test_queue("a"), test_queue("b")],
        4,
        wait,
    ))
    .await;
    assert_eq!(leases, Ok(vec![]));
}

pub(crate) async fn a_waiting_lease_wakes_when_a_task_comes(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let waits = {
        let (store, q) = (f.store(), q.clone());
        // Longer than `soon` allows: only a wake can end it in time.
        tokio::spawn(async move {
            store.lease(TEST_PROCESS, &[test_queue("other"), q], 1, WAIT_DEADLINE * 2).await
        })
    };
    // so that it waits by now, most of the time
    tokio::time::sleep(Duration::from_millis(100)).await;
    let task = enqueue_task(&*store, &q).await;
    let leases = within_deadline(waits).await.expect("no panic").expect("answers");
    assert_eq!(leases.into_iter().map(|lease| lease.task.id).collect::<Vec<_>>(), vec![task.id]);
}

pub(crate) async fn no_queue_is_starved(f: impl StoreFixture) {
    let store = f.store();
    let queues = [test_queue("busy"), test_queue("quiet"), test_queue("calm")];
    for _ in 0..40 {
        enqueue_task(&*store, &queues[0]).await;
    }
    for quiet in &queues[1..] {
        enqueue_task(&*store, quiet).await;
    }
    let mut seen = HashSet::new();
    for _ in 0..10 {
        let leases = store.lease(TEST_PROCESS, &queues, 2, WAIT_DEADLINE).await.expect("answers");
        seen.extend(leases.into_iter().map(|lease| lease.task.topic));
    }
    assert_eq!(
        seen.len(),
        3,
        "within half of the busy queue's tasks the others have their turn: {seen:?}"
    );
}

pub(crate) async fn only_the_queues_asked_for_are_leased(f: impl StoreFixture) {
    let (store, mine, other) = (f.store(), test_queue("mine"), test_queue("mine.other"));
    let foreign = enqueue_task(&*store, &other).await;
    assert_nothing_leasable(&*store, &mine).await;
    assert_eq!(lease_one(&*store, &other).await.task.id, foreign.id);
}

pub(crate) async fn a_full_backlog_refuses_with_its_numbers(f: impl StoreFixture) {
    let store = f.store();
    let q = TopicQueue { max_backlog: 2, ..test_queue("a") };
    let first = enqueue_task(&*store, &q).await;
    enqueue_task(&*store, &q).await;
    let refused = StoreRefusal::BacklogFull { topic: q.topic.clone(), depth: 2, max: 2 };
    let late = new_task(&q);
    assert_eq!(store.enqueue(&late, &q).await, Err(StoreError::Refused(refused)));
    assert_eq!(store.get_task(&late.id).await, Ok(None), "what was refused is not there");
    store.enqueue(&first, &q).await.expect("a repeat of what is there is no addition");
    enqueue_task(&*store, &TopicQueue { max_backlog: 2, ..test_queue("b") }).await;

    let running = lease_one(&*store, &q).await;
    store.enqueue(&late, &q).await.expect("what runs does not wait");
    store
        .enqueue(&new_task(&q), &TopicQueue { max_backlog: 3, ..q.clone() })
        .await
        .expect("the limit of the call counts");
    let complete = Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
    assert_eq!(store.settle(&running, &complete).await, Ok(SettleResult::Applied));
    assert!(matches!(
        store.enqueue(&new_task(&q), &q).await,
        Err(StoreError::Refused(StoreRefusal::BacklogFull { depth: 3, .. }))
    ));
}
