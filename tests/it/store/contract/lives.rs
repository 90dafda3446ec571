//! What can be read of tasks afterwards: each one's life, and the list of all.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderValue, Method};
use omnidaemon::store::{
    CRASH_RERUN_LIMIT, LEASE_DURATION, SettleResult, Settlement, StoreError, TaskListPage,
    TaskListRequest, TaskStore, TopicQueue,
};
use omnidaemon::task::{
    CapturedRequest, FailureKind, Task, TaskDetails, TaskId, TaskStatus, UnixMs,
};

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, enqueue_task, handler_failure, is_close_to,
    json_answer, lease_one, new_task, test_queue,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

async fn life(store: &dyn TaskStore, id: &TaskId) -> TaskDetails {
    store.load_task_details(id).await.expect("answers").expect("the task is known")
}

fn complete() -> Settlement {
    Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL }
}

fn bury() -> Settlement {
    Settlement::Bury { failure: handler_failure("for good"), ttl: RESULT_TTL }
}

pub(crate) async fn each_attempt_of_a_task_is_known_with_its_worker_and_error(
    f: impl StoreFixture,
) {
    let (store, q) = (f.store(), test_queue("a"));
    let mut headers = http::HeaderMap::new();
    headers.insert(
        "traceparent",
        HeaderValue::from_str(&format!("00-{TRACE}-b7ad6b7169203331-01")).expect("a value"),
    );
    let request = CapturedRequest {
        method: Method::POST,
        target: "/x".into(),
        headers,
        body: "{\"n\": 1}".into(),
    };
    let task =
        Task { request: Some(request), correlation_id: Some("order-7".into()), ..new_task(&q) };
    store.enqueue(&task, &q).await.expect("enqueued");
    let names = |life: &TaskDetails| (life.correlation_id.clone(), life.trace_id.clone());
    let known = (Some("order-7".to_owned()), Some(TRACE.to_owned()));
    let queued = life(&*store, &task.id).await;
    assert_eq!(
        (queued.record.status, queued.attempts.len(), names(&queued)),
        (TaskStatus::Queued, 0, known.clone())
    );

    let first = lease_one(&*store, &q).await;
    let running = life(&*store, &task.id).await;
    let run = running.attempts.first().expect("one");
    assert_eq!((run.number, run.worker.as_deref(), run.ended), (1, Some(TEST_PROCESS), None));
    let at = f.store_now().plus(Duration::from_secs(2));
    let retry = Settlement::Retry { failure: handler_failure("not yet\n\"really\""), retry_at: at };
    assert_eq!(store.settle(&first, &retry).await, Ok(SettleResult::Applied));
    let parked = life(&*store, &task.id).await;
    assert!(is_close_to(parked.next_attempt_at, at), "{parked:?}");
    assert_eq!((parked.attempts.len(), names(&parked)), (1, known.clone()));
    let run = &parked.attempts[0];
    assert_eq!(run.failure, Some((FailureKind::HandlerError, "not yet\n\"really\"".into())));
    assert_eq!((run.number, run.worker.as_deref()), (1, Some(TEST_PROCESS)));
    assert!(run.started.is_some() && run.started <= run.ended, "{run:?}");

    let given_back = lease_one(&*store, &q).await;
    assert_eq!(store.settle(&given_back, &Settlement::Release).await, Ok(SettleResult::Applied));
    assert_eq!(
        life(&*store, &task.id).await.attempts,
        parked.attempts,
        "an attempt that was given back is none"
    );
    let second = lease_one(&*store, &q).await;
    assert_eq!(store.settle(&second, &complete()).await, Ok(SettleResult::Applied));
    let done = life(&*store, &task.id).await;
    assert_eq!(
        (&done.attempts[..1], done.attempts.len(), names(&done)),
        (&parked.attempts[..], 2, known)
    );
    let last = &done.attempts[1];
    assert_eq!(
        (last.number, last.worker.as_deref(), &last.failure),
        (2, Some(TEST_PROCESS), &None)
    );
    assert!(
        last.started.is_some() && last.started <= last.ended && last.ended == done.record.finished,
        "{last:?}"
    );
    assert_eq!(done.next_attempt_at, None);
    assert_eq!(store.load_task_details(&TaskId::new(UnixMs(1), 1)).await, Ok(None));
}

pub(crate) async fn a_task_that_completes_at_once_has_one_attempt(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let (one, two) = (enqueue_task(&*store, &q).await, enqueue_task(&*store, &q).await);
    for end in [complete(), bury()] {
        let lease = lease_one(&*store, &q).await;
        assert_eq!(store.settle(&lease, &end).await, Ok(SettleResult::Applied));
    }
    for (id, failed) in
        [(&one.id, None), (&two.id, Some((FailureKind::HandlerError, "for good".to_owned())))]
    {
        let life = life(&*store, id).await;
        let [run] = &life.attempts[..] else { panic!("{life:?}") };
        assert_eq!(
            (run.number, run.worker.as_deref(), &run.failure),
            (1, Some(TEST_PROCESS), &failed)
        );
        assert!(run.started.is_some() && run.ended == life.record.finished);
    }
}

pub(crate) async fn a_task_that_killed_its_workers_shows_each_of_them(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let poison = Task { retries: 0, ..new_task(&q) };
    store.enqueue(&poison, &q).await.expect("enqueued");
    for attempt in 1..=CRASH_RERUN_LIMIT {
        assert_eq!(lease_one(&*store, &q).await.attempt, attempt);
        f.advance_time(LEASE_DURATION + Duration::from_secs(1)).await;
        store
            .reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL)
            .await
            .expect("tended");
    }
    let life = life(&*store, &poison.id).await;
    assert_eq!(
        (life.record.status, life.attempts.len()),
        (TaskStatus::Failed, CRASH_RERUN_LIMIT as usize),
        "{life:?}"
    );
    for (run, number) in life.attempts.iter().zip(1..) {
        let kind = run.failure.as_ref().map(|(kind, _)| *kind);
        assert_eq!((run.number, kind), (number, Some(FailureKind::WorkerCrash)), "{run:?}");
    }
}

// === lists ===

async fn all_of(
    store: &dyn TaskStore,
    queues: &[TopicQueue],
    listing: &TaskListRequest,
) -> (Vec<(TaskId, TaskStatus)>, TaskListPage) {
    let (mut found, mut listing) = (Vec::new(), listing.clone());
    loop {
        let page = store.list_tasks(queues, &listing).await.expect("answers");
        assert!(page.tasks.len() <= listing.limit, "{page:?}");
        found.extend(page.tasks.iter().map(|task| (task.id.clone(), task.status)));
        match &page.next_cursor {
            Some(next) => listing.after_cursor = Some(next.clone()),
            None => return (found, page),
        }
    }
}

/// Tasks of two topics in every state, in the order they came.
async fn populate(store: &dyn TaskStore, queues: &[TopicQueue; 2]) -> Vec<(Task, TaskStatus)> {
    let mut tasks = Vec::new();
    for (queue, end) in [(0, complete()), (1, bury()), (0, complete())] {
        let task = enqueue_task(store, &queues[queue]).await;
        let lease = lease_one(store, &queues[queue]).await;
        let status = if matches!(end, Settlement::Bury { .. }) {
            TaskStatus::Failed
        } else {
            TaskStatus::Completed
        };
        assert_eq!(store.settle(&lease, &end).await, Ok(SettleResult::Applied));
        tasks.push((task, status));
    }
    tasks.push((enqueue_task(store, &queues[1]).await, TaskStatus::Processing));
    lease_one(store, &queues[1]).await;
    let cancelled = enqueue_task(store, &queues[0]).await;
    store.cancel(&cancelled.id, RESULT_TTL).await.expect("cancelled");
    tasks.push((cancelled, TaskStatus::Cancelled));
    for queue in [0, 0, 1, 0, 1] {
        tasks.push((enqueue_task(store, &queues[queue]).await, TaskStatus::Queued));
    }
    tasks
}

pub(crate) async fn tasks_are_listed_page_by_page_each_once(f: impl StoreFixture) {
    let (store, queues) = (f.store(), [test_queue("a"), test_queue("b")]);
    let tasks = populate(&*store, &queues).await;
    for limit in [1, 2, 3, 100] {
        let (found, page) =
            all_of(&*store, &queues, &TaskListRequest { limit, ..TaskListRequest::default() })
                .await;
        let expected: BTreeSet<_> = tasks
            .iter()
            .filter(|(_, status)| !page.unlistable_statuses.contains(status))
            .map(|(task, _)| &task.id)
            .collect();
        assert_eq!(found.len(), expected.len(), "with pages of {limit}: {found:?}");
        assert_eq!(found.iter().map(|(id, _)| id).collect::<BTreeSet<_>>(), expected);
        for (id, status) in &found {
            let known = tasks.iter().find(|(task, _)| task.id == *id).expect("one of ours");
            assert_eq!(known.1, *status, "{id}");
        }
        // Of different topics, what came within the same millisecond has no order.
        for queue in &queues {
            let of = |task: &Task, status: TaskStatus| {
                status == TaskStatus::Queued && task.topic == queue.topic
            };
            let newest_first: Vec<_> = tasks
                .iter()
                .rev()
                .filter(|(task, status)| of(task, *status))
                .map(|(task, _)| &task.id)
                .collect();
            let listed: Vec<_> =
                found.iter().map(|(id, _)| id).filter(|id| newest_first.contains(id)).collect();
            assert_eq!(listed, newest_first);
        }
    }
}

pub(crate) async fn a_list_is_filtered_by_topic_and_status(f: impl StoreFixture) {
    let (store, queues) = (f.store(), [test_queue("a"), test_queue("b")]);
    let tasks = populate(&*store, &queues).await;
    let statuses = [
        TaskStatus::Queued,
        TaskStatus::Processing,
        TaskStatus::Completed,
        TaskStatus::Failed,
        TaskStatus::Cancelled,
    ]
    .map(Some);
    for topic in [None, Some(queues[0].topic.clone()), Some(queues[1].topic.clone())] {
        for status in statuses.into_iter().chain([None]) {
            let listing =
                TaskListRequest { topic: topic.clone(), status, limit: 2, after_cursor: None };
            let (found, page) = all_of(&*store, &queues, &listing).await;
            let fits = |(task, stands): &&(Task, TaskStatus)| {
                topic.as_ref().is_none_or(|topic| *topic == task.topic)
                    && status.is_none_or(|status| status == *stands)
                    && !page.unlistable_statuses.contains(stands)
            };
            let expected: BTreeSet<_> =
                tasks.iter().filter(fits).map(|(task, _)| task.id.clone()).collect();
            assert_eq!(
                found.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>(),
                expected,
                "{listing:?}"
            );
        }
    }
    let listing = TaskListRequest {
        limit: 1,
        after_cursor: Some("garbage!".into()),
        ..TaskListRequest::default()
    };
    assert!(matches!(store.list_tasks(&queues, &listing).await, Err(StoreError::Malformed(_))));
}
