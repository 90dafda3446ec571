//! What can be read of tasks afterwards: each one's life, and the list of all.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderValue, Method};
use omnidaemon::store::{CRASH_LIMIT, LEASE, Listing, Page, Queue, Settled, Settlement, StoreError, TaskStore};
use omnidaemon::task::{CapturedRequest, FailureKind, Life, Status, Task, TaskId, UnixMs};

use super::{Fixture, PROCESS, TTL, enqueue, failure, is_about, json, lease, queue, task};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

async fn life(store: &dyn TaskStore, id: &TaskId) -> Life {
    store.life(id).await.expect("answers").expect("the task is known")
}

fn complete() -> Settlement {
    Settlement::Complete { answer: json(), ttl: TTL }
}

fn bury() -> Settlement {
    Settlement::Bury { failure: failure("for good"), ttl: TTL }
}

pub(crate) async fn each_attempt_of_a_task_is_known_with_its_worker_and_error(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let mut headers = http::HeaderMap::new();
    headers.insert("traceparent", HeaderValue::from_str(&format!("00-{TRACE}-b7ad6b7169203331-01")).expect("a value"));
    let request = CapturedRequest { method: Method::POST, target: "/x".into(), headers, body: "{\"n\": 1}".into() };
    let task = Task { request: Some(request), correlation_id: Some("order-7".into()), ..task(&q) };
    store.enqueue(&task, &q).await.expect("enqueued");
    let names = |life: &Life| (life.correlation_id.clone(), life.trace_id.clone());
    let known = (Some("order-7".to_owned()), Some(TRACE.to_owned()));
    let queued = life(&*store, &task.id).await;
    assert_eq!((queued.record.status, queued.runs.len(), names(&queued)), (Status::Queued, 0, known.clone()));

    let first = lease(&*store, &q).await;
    let running = life(&*store, &task.id).await;
    let run = running.runs.first().expect("one");
    assert_eq!((run.number, run.worker.as_deref(), run.ended), (1, Some(PROCESS), None));
    let at = f.now().plus(Duration::from_secs(2));
    let retry = Settlement::Retry { failure: failure("not yet\n\"really\""), at };
    assert_eq!(store.settle(&first, &retry).await, Ok(Settled::Applied));
    let parked = life(&*store, &task.id).await;
    assert!(is_about(parked.due, at), "{parked:?}");
    assert_eq!((parked.runs.len(), names(&parked)), (1, known.clone()));
    let run = &parked.runs[0];
    assert_eq!(run.failure, Some((FailureKind::Handler, "not yet\n\"really\"".into())));
    assert_eq!((run.number, run.worker.as_deref()), (1, Some(PROCESS)));
    assert!(run.began.is_some() && run.began <= run.ended, "{run:?}");

    let given_back = lease(&*store, &q).await;
    assert_eq!(store.settle(&given_back, &Settlement::Release).await, Ok(Settled::Applied));
    assert_eq!(life(&*store, &task.id).await.runs, parked.runs, "an attempt that was given back is none");
    let second = lease(&*store, &q).await;
    assert_eq!(store.settle(&second, &complete()).await, Ok(Settled::Applied));
    let done = life(&*store, &task.id).await;
    assert_eq!((&done.runs[..1], done.runs.len(), names(&done)), (&parked.runs[..], 2, known));
    let last = &done.runs[1];
    assert_eq!((last.number, last.worker.as_deref(), &last.failure), (2, Some(PROCESS), &None));
    assert!(last.began.is_some() && last.began <= last.ended && last.ended == done.record.finished, "{last:?}");
    assert_eq!(done.due, None);
    assert_eq!(store.life(&TaskId::new(UnixMs(1), 1)).await, Ok(None));
}

pub(crate) async fn a_task_that_completes_at_once_has_one_attempt(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let (one, two) = (enqueue(&*store, &q).await, enqueue(&*store, &q).await);
    for end in [complete(), bury()] {
        let lease = lease(&*store, &q).await;
        assert_eq!(store.settle(&lease, &end).await, Ok(Settled::Applied));
    }
    for (id, failed) in [(&one.id, None), (&two.id, Some((FailureKind::Handler, "for good".to_owned())))] {
        let life = life(&*store, id).await;
        let [run] = &life.runs[..] else { panic!("{life:?}") };
        assert_eq!((run.number, run.worker.as_deref(), &run.failure), (1, Some(PROCESS), &failed));
        assert!(run.began.is_some() && run.ended == life.record.finished);
    }
}

pub(crate) async fn a_task_that_killed_its_workers_shows_each_of_them(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let poison = Task { retries: 0, ..task(&q) };
    store.enqueue(&poison, &q).await.expect("enqueued");
    for attempt in 1..=CRASH_LIMIT {
        assert_eq!(lease(&*store, &q).await.attempt, attempt);
        f.advance(LEASE + Duration::from_secs(1)).await;
        store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
    }
    let life = life(&*store, &poison.id).await;
    assert_eq!((life.record.status, life.runs.len()), (Status::Failed, CRASH_LIMIT as usize), "{life:?}");
    for (run, number) in life.runs.iter().zip(1..) {
        let kind = run.failure.as_ref().map(|(kind, _)| *kind);
        assert_eq!((run.number, kind), (number, Some(FailureKind::Crash)), "{run:?}");
    }
}

// === lists ===

async fn all_of(store: &dyn TaskStore, queues: &[Queue], listing: &Listing) -> (Vec<(TaskId, Status)>, Page) {
    let (mut found, mut listing) = (Vec::new(), listing.clone());
    loop {
        let page = store.list(queues, &listing).await.expect("answers");
        assert!(page.tasks.len() <= listing.limit, "{page:?}");
        found.extend(page.tasks.iter().map(|task| (task.id.clone(), task.status)));
        match &page.next {
            Some(next) => listing.after = Some(next.clone()),
            None => return (found, page),
        }
    }
}

/// Tasks of two topics in every state, in the order they came.
async fn populate(store: &dyn TaskStore, queues: &[Queue; 2]) -> Vec<(Task, Status)> {
    let mut tasks = Vec::new();
    for (queue, end) in [(0, complete()), (1, bury()), (0, complete())] {
        let task = enqueue(store, &queues[queue]).await;
        let lease = lease(store, &queues[queue]).await;
        let status = if matches!(end, Settlement::Bury { .. }) { Status::Failed } else { Status::Completed };
        assert_eq!(store.settle(&lease, &end).await, Ok(Settled::Applied));
        tasks.push((task, status));
    }
    tasks.push((enqueue(store, &queues[1]).await, Status::Processing));
    lease(store, &queues[1]).await;
    let cancelled = enqueue(store, &queues[0]).await;
    store.cancel(&cancelled.id, TTL).await.expect("cancelled");
    tasks.push((cancelled, Status::Cancelled));
    for queue in [0, 0, 1, 0, 1] {
        tasks.push((enqueue(store, &queues[queue]).await, Status::Queued));
    }
    tasks
}

pub(crate) async fn tasks_are_listed_page_by_page_each_once(f: impl Fixture) {
    let (store, queues) = (f.store(), [queue("a"), queue("b")]);
    let tasks = populate(&*store, &queues).await;
    for limit in [1, 2, 3, 100] {
        let (found, page) = all_of(&*store, &queues, &Listing { limit, ..Listing::default() }).await;
        let expected: BTreeSet<_> =
            tasks.iter().filter(|(_, status)| !page.unlisted.contains(status)).map(|(task, _)| &task.id).collect();
        assert_eq!(found.len(), expected.len(), "with pages of {limit}: {found:?}");
        assert_eq!(found.iter().map(|(id, _)| id).collect::<BTreeSet<_>>(), expected);
        for (id, status) in &found {
            let known = tasks.iter().find(|(task, _)| task.id == *id).expect("one of ours");
            assert_eq!(known.1, *status, "{id}");
        }
        // Of different topics, what came within the same millisecond has no order.
        for queue in &queues {
            let of = |task: &Task, status: Status| status == Status::Queued && task.topic == queue.topic;
            let newest_first: Vec<_> =
                tasks.iter().rev().filter(|(task, status)| of(task, *status)).map(|(task, _)| &task.id).collect();
            let listed: Vec<_> = found.iter().map(|(id, _)| id).filter(|id| newest_first.contains(id)).collect();
            assert_eq!(listed, newest_first);
        }
    }
}

pub(crate) async fn a_list_is_filtered_by_topic_and_status(f: impl Fixture) {
    let (store, queues) = (f.store(), [queue("a"), queue("b")]);
    let tasks = populate(&*store, &queues).await;
    let statuses = [Status::Queued, Status::Processing, Status::Completed, Status::Failed, Status::Cancelled].map(Some);
    for topic in [None, Some(queues[0].topic.clone()), Some(queues[1].topic.clone())] {
        for status in statuses.into_iter().chain([None]) {
            let listing = Listing { topic: topic.clone(), status, limit: 2, after: None };
            let (found, page) = all_of(&*store, &queues, &listing).await;
            let fits = |(task, stands): &&(Task, Status)| {
                topic.as_ref().is_none_or(|topic| *topic == task.topic)
                    && status.is_none_or(|status| status == *stands)
                    && !page.unlisted.contains(stands)
            };
            let expected: BTreeSet<_> = tasks.iter().filter(fits).map(|(task, _)| task.id.clone()).collect();
            assert_eq!(found.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>(), expected, "{listing:?}");
        }
    }
    let listing = Listing { limit: 1, after: Some("garbage!".into()), ..Listing::default() };
    assert!(matches!(store.list(&queues, &listing).await, Err(StoreError::Malformed(_))));
}
