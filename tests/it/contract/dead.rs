//! Dead letters get another chance, once, or go.

use std::collections::HashSet;

use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use omnidaemon::store::{Lease, Redriven, Settled, Settlement, TaskStore};
use omnidaemon::task::{Owner, Status, Task, UnixMs};

use super::{
    Fixture, PROCESS, TTL, failure, json, lease, nothing_to_lease, queue, record, soon, task, task_with_secret, wall,
};

fn bury() -> Settlement {
    Settlement::Bury { failure: failure("for good"), ttl: TTL }
}

/// Makes a dead letter of a task; its last lease.
async fn dead(store: &dyn TaskStore, task: &Task) -> Lease {
    let q = queue("a");
    store.enqueue(task, &q).await.expect("enqueued");
    let last = lease(store, &q).await;
    assert_eq!(store.settle(&last, &bury()).await, Ok(Settled::Applied));
    last
}

pub(crate) async fn a_redriven_dead_letter_runs_again_from_its_first_attempt(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = Task { owner: Some(Owner::from_digest("5eed")), route: Some("invoke".into()), ..task(&q) };
    store.enqueue(&task, &q).await.expect("enqueued");
    let first = lease(&*store, &q).await;
    store.settle(&first, &Settlement::Retry { failure: failure("x"), at: UnixMs(0) }).await.expect("settled");
    let last = lease(&*store, &q).await;
    store.settle(&last, &bury()).await.expect("settled");

    let redriven = store.redrive(&q, task.id.as_str(), wall()).await;
    assert_eq!(redriven, Ok(Redriven::Queued { captured: false }));
    assert_eq!(store.dead_letters(&q, 10).await, Ok(vec![]));
    let found = record(&*store, &task.id).await;
    assert_eq!((found.status, found.attempts, found.failure), (Status::Queued, 0, None));
    assert_eq!((found.owner, found.finished), (task.owner.clone(), None));
    let depth = store.depths(std::slice::from_ref(&q)).await.expect("answers").remove(0);
    assert_eq!((depth.queued, depth.processing, depth.dead), (1, 0, 0));
    let waiter = store.waiters().register(&task.id);
    let again = lease(&*store, &q).await;
    assert_eq!((again.attempt, &again.task), (1, &task), "as it was, its retries too");
    let complete = Settlement::Complete { answer: json(), ttl: TTL };
    for old in [&first, &last] {
        assert_eq!(store.settle(old, &complete).await, Ok(Settled::Fenced), "a worker of its first life");
    }
    assert_eq!(store.settle(&again, &complete).await, Ok(Settled::Applied));
    assert_eq!(soon(waiter).await.map(|told| told.status), Some(Status::Completed));
    nothing_to_lease(&*store, &q).await;
}

pub(crate) async fn a_dead_letter_is_redriven_once_however_often_it_is_asked_for(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = task(&q);
    for round in 0..3 {
        dead(&*store, &task).await;
        let asked = join_all((0..8).map(|_| store.redrive(&q, task.id.as_str(), wall()))).await;
        let queued = asked.iter().filter(|answer| matches!(answer, Ok(Redriven::Queued { .. }))).count();
        let alive = asked.iter().filter(|answer| matches!(answer, Ok(Redriven::Alive))).count();
        assert_eq!((queued, alive), (1, 7), "{round}: {asked:?}");
        let again = lease(&*store, &q).await;
        nothing_to_lease(&*store, &q).await;
        assert_eq!(store.settle(&again, &bury()).await, Ok(Settled::Applied));
        let letters = store.dead_letters(&q, 10).await.expect("answers");
        assert_eq!(letters.len(), 1, "nothing is doubled");
        assert_eq!(store.discard(&q, task.id.as_str()).await, Ok(true));
        assert_eq!(store.redrive(&q, task.id.as_str(), wall()).await, Ok(Redriven::Unknown));
        f.advance(TTL * 2).await;
        store.tend(PROCESS, std::slice::from_ref(&q), TTL).await.expect("tended");
    }
}

pub(crate) async fn a_task_that_is_alive_is_not_redriven(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = task(&q);
    assert_eq!(store.redrive(&q, task.id.as_str(), wall()).await, Ok(Redriven::Unknown));
    store.enqueue(&task, &q).await.expect("enqueued");
    assert_eq!(store.redrive(&q, task.id.as_str(), wall()).await, Ok(Redriven::Alive));
    let held = lease(&*store, &q).await;
    assert_eq!(store.redrive(&q, task.id.as_str(), wall()).await, Ok(Redriven::Alive));
    let complete = Settlement::Complete { answer: json(), ttl: TTL };
    assert_eq!(store.settle(&held, &complete).await, Ok(Settled::Applied));
    assert_eq!(store.redrive(&q, task.id.as_str(), wall()).await, Ok(Redriven::Unknown), "it did not fail");
    assert_eq!(record(&*store, &task.id).await.answer, Some(json()));
}

pub(crate) async fn a_redriven_request_runs_without_its_credentials(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = task_with_secret(&q, "canary-secret");
    dead(&*store, &task).await;
    let redriven = store.redrive(&q, task.id.as_str(), wall()).await;
    assert_eq!(redriven, Ok(Redriven::Queued { captured: true }));
    let request = lease(&*store, &q).await.task.request.expect("as it was captured");
    assert_eq!(request.headers.get(AUTHORIZATION), None);
    assert_eq!(request.headers.get_all("x-tag").iter().count(), 2, "the rest is there");
}

pub(crate) async fn a_discarded_dead_letter_is_gone_and_its_task_stays_failed(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let (gone, kept) = (task(&q), task(&q));
    dead(&*store, &gone).await;
    dead(&*store, &kept).await;
    assert_eq!(store.discard(&queue("b"), gone.id.as_str()).await, Ok(false), "another queue's");
    assert_eq!(store.discard(&q, gone.id.as_str()).await, Ok(true));
    assert_eq!(store.discard(&q, gone.id.as_str()).await, Ok(false), "once");
    let letters = store.dead_letters(&q, 10).await.expect("answers");
    assert_eq!(letters.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(), [kept.id.as_str()]);
    assert_eq!(record(&*store, &gone.id).await.status, Status::Failed);
    assert_eq!(store.depths(&[q]).await.expect("answers")[0].dead, 1);
}

pub(crate) async fn dead_letters_are_listed_in_pages(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let mut ids = Vec::new();
    for _ in 0..5 {
        let task = task(&q);
        dead(&*store, &task).await;
        ids.insert(0, task.id.to_string());
    }
    let mut page = store.dead_letters(&q, 2).await.expect("answers");
    let mut listed = Vec::new();
    while let Some(last) = page.last() {
        let before = last.cursor.clone();
        listed.extend(page.iter().map(|letter| letter.id.clone()));
        page = store.dead_letters_before(&q, &before, 2).await.expect("answers");
    }
    assert_eq!(listed, ids);
    assert_eq!(listed.iter().collect::<HashSet<_>>().len(), 5);
}

/// What a request does whose store is slow: its enqueue is given up, and the task is cancelled afterwards.
pub(crate) async fn a_cancel_after_an_enqueue_that_nobody_waited_for_finds_its_task(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    for _ in 0..20 {
        let task = task(&q);
        let given_up = tokio::time::timeout(std::time::Duration::from_micros(50), store.enqueue(&task, &q)).await;
        drop(given_up);
        store.cancel(&task.id, TTL).await.expect("answers");
    }
    nothing_to_lease(&*store, &q).await;
}
