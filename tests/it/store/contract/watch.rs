//! What can be seen of a task that runs: its progress, and many tasks at a glance.

use std::time::Duration;

use omnidaemon::store::{
    CancelResult, LeaseHolder, SettleResult, Settlement, TaskLookup, TaskState,
};
use omnidaemon::task::{TaskId, TaskProgress, TaskStatus, UnixMs};

use super::{
    RESULT_TTL, StoreFixture, enqueue_task, get_record, handler_failure, json_answer, lease_one,
    test_queue,
};

fn progress(fraction: f64, note: &str) -> TaskProgress {
    TaskProgress::new(fraction, Some(note)).expect("a number")
}

fn going(status: TaskStatus, attempts: u32, progress: Option<TaskProgress>) -> TaskLookup {
    TaskLookup::Active(TaskState { status, attempts, progress })
}

pub(crate) async fn progress_is_read_while_its_attempt_runs_and_no_longer(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = enqueue_task(&*store, &q).await;
    let first = lease_one(&*store, &q).await;
    assert_eq!(get_record(&*store, &task.id).await.progress, None);
    for said in [progress(0.25, ""), progress(0.5, "\"page\" 3/6")] {
        assert_eq!(
            store.report_progress(&task.id, &LeaseHolder::from_lease(&first), &said).await,
            Ok(true)
        );
        assert_eq!(get_record(&*store, &task.id).await.progress, Some(said.clone()));
        assert_eq!(
            store.statuses(std::slice::from_ref(&task.id)).await,
            Ok(vec![going(TaskStatus::Processing, 1, Some(said))])
        );
    }
    let retry = Settlement::Retry { failure: handler_failure("again"), retry_at: UnixMs(0) };
    assert_eq!(store.settle(&first, &retry).await, Ok(SettleResult::Applied));
    assert_eq!(get_record(&*store, &task.id).await.progress, None, "that attempt is over");
    let late = progress(0.9, "");
    assert_eq!(
        store.report_progress(&task.id, &LeaseHolder::from_lease(&first), &late).await,
        Ok(false)
    );

    let second = lease_one(&*store, &q).await;
    assert_eq!(get_record(&*store, &task.id).await.progress, None, "the next begins anew");
    assert_eq!(
        store.report_progress(&task.id, &LeaseHolder::from_lease(&first), &late).await,
        Ok(false)
    );
    assert_eq!(
        store.report_progress(&task.id, &LeaseHolder::from_lease(&second), &late).await,
        Ok(true)
    );
    assert_eq!(get_record(&*store, &task.id).await.progress, Some(late.clone()));
    let complete = Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
    assert_eq!(store.settle(&second, &complete).await, Ok(SettleResult::Applied));
    assert_eq!(get_record(&*store, &task.id).await.progress, None);
    assert_eq!(
        store.report_progress(&task.id, &LeaseHolder::from_lease(&second), &late).await,
        Ok(false)
    );

    let cancelled = enqueue_task(&*store, &q).await;
    let third = lease_one(&*store, &q).await;
    assert_eq!(store.cancel(&cancelled.id, RESULT_TTL).await, Ok(CancelResult::WasRunning));
    assert_eq!(
        store.report_progress(&cancelled.id, &LeaseHolder::from_lease(&third), &late).await,
        Ok(false)
    );
}

pub(crate) async fn a_glance_tells_many_tasks_apart(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let (done, running) = (enqueue_task(&*store, &q).await, enqueue_task(&*store, &q).await);
    let first = lease_one(&*store, &q).await;
    let second = lease_one(&*store, &q).await;
    assert_eq!((&first.task.id, &second.task.id), (&done.id, &running.id));
    store
        .settle(&first, &Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL })
        .await
        .expect("settled");
    let (queued, cancelled) = (enqueue_task(&*store, &q).await, enqueue_task(&*store, &q).await);
    store.cancel(&cancelled.id, RESULT_TTL).await.expect("cancelled");
    let unknown = TaskId::new(f.store_now().plus(Duration::from_hours(1)), 1);
    let ids = [unknown, done.id, running.id, queued.id, cancelled.id];
    let expected = vec![
        TaskLookup::NotFound,
        TaskLookup::Ended,
        going(TaskStatus::Processing, 1, None),
        going(TaskStatus::Queued, 0, None),
        TaskLookup::Ended,
    ];
    assert_eq!(store.statuses(&ids).await, Ok(expected));
    assert_eq!(store.statuses(&[]).await, Ok(vec![]));
}

pub(crate) async fn the_secret_stays_the_same(f: impl StoreFixture) {
    let store = f.store();
    let secret = store.load_shared_secret().await.expect("answers");
    assert_eq!(store.load_shared_secret().await, Ok(secret));
}
