//! What can be seen of a task that runs: its progress, and many tasks at a glance.

use std::time::Duration;

use omnidaemon::store::{Cancelled, Glance, Holder, Settled, Settlement, Standing};
use omnidaemon::task::{Progress, Status, TaskId, UnixMs};

use super::{Fixture, TTL, enqueue, failure, json, lease, queue, record};

fn progress(fraction: f64, note: &str) -> Progress {
    Progress::new(fraction, Some(note)).expect("a number")
}

fn going(status: Status, attempts: u32, progress: Option<Progress>) -> Glance {
    Glance::Going(Standing { status, attempts, progress })
}

pub(crate) async fn progress_is_read_while_its_attempt_runs_and_no_longer(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let task = enqueue(&*store, &q).await;
    let first = lease(&*store, &q).await;
    assert_eq!(record(&*store, &task.id).await.progress, None);
    for said in [progress(0.25, ""), progress(0.5, "\"page\" 3/6")] {
        assert_eq!(store.report(&task.id, &Holder::of(&first), &said).await, Ok(true));
        assert_eq!(record(&*store, &task.id).await.progress, Some(said.clone()));
        assert_eq!(
            store.glance(std::slice::from_ref(&task.id)).await,
            Ok(vec![going(Status::Processing, 1, Some(said))])
        );
    }
    let retry = Settlement::Retry { failure: failure("again"), at: UnixMs(0) };
    assert_eq!(store.settle(&first, &retry).await, Ok(Settled::Applied));
    assert_eq!(record(&*store, &task.id).await.progress, None, "that attempt is over");
    let late = progress(0.9, "");
    assert_eq!(store.report(&task.id, &Holder::of(&first), &late).await, Ok(false));

    let second = lease(&*store, &q).await;
    assert_eq!(record(&*store, &task.id).await.progress, None, "the next begins anew");
    assert_eq!(store.report(&task.id, &Holder::of(&first), &late).await, Ok(false));
    assert_eq!(store.report(&task.id, &Holder::of(&second), &late).await, Ok(true));
    assert_eq!(record(&*store, &task.id).await.progress, Some(late.clone()));
    let complete = Settlement::Complete { answer: json(), ttl: TTL };
    assert_eq!(store.settle(&second, &complete).await, Ok(Settled::Applied));
    assert_eq!(record(&*store, &task.id).await.progress, None);
    assert_eq!(store.report(&task.id, &Holder::of(&second), &late).await, Ok(false));

    let cancelled = enqueue(&*store, &q).await;
    let third = lease(&*store, &q).await;
    assert_eq!(store.cancel(&cancelled.id, TTL).await, Ok(Cancelled::Running));
    assert_eq!(store.report(&cancelled.id, &Holder::of(&third), &late).await, Ok(false));
}

pub(crate) async fn a_glance_tells_many_tasks_apart(f: impl Fixture) {
    let (store, q) = (f.store(), queue("a"));
    let (done, running) = (enqueue(&*store, &q).await, enqueue(&*store, &q).await);
    let first = lease(&*store, &q).await;
    let second = lease(&*store, &q).await;
    assert_eq!((&first.task.id, &second.task.id), (&done.id, &running.id));
    store.settle(&first, &Settlement::Complete { answer: json(), ttl: TTL }).await.expect("settled");
    let (queued, cancelled) = (enqueue(&*store, &q).await, enqueue(&*store, &q).await);
    store.cancel(&cancelled.id, TTL).await.expect("cancelled");
    let unknown = TaskId::new(f.now().plus(Duration::from_hours(1)), 1);
    let ids = [unknown, done.id, running.id, queued.id, cancelled.id];
    let expected = vec![
        Glance::Unknown,
        Glance::Ended,
        going(Status::Processing, 1, None),
        going(Status::Queued, 0, None),
        Glance::Ended,
    ];
    assert_eq!(store.glance(&ids).await, Ok(expected));
    assert_eq!(store.glance(&[]).await, Ok(vec![]));
}

pub(crate) async fn the_secret_stays_the_same(f: impl Fixture) {
    let store = f.store();
    let secret = store.secret().await.expect("answers");
    assert_eq!(store.secret().await, Ok(secret));
}
