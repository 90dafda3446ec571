//! Leases live while they are renewed, and not longer; so do ended records.

use std::time::Duration;

use omnidaemon::store::{BuriedTask, CRASH_RERUN_LIMIT, LEASE_DURATION, SettleResult, Settlement};
use omnidaemon::task::{FailureKind, Task, TaskStatus, UnixMs};

use super::{
    RESULT_TTL, StoreFixture, TEST_PROCESS, WAIT_DEADLINE, assert_nothing_leasable, enqueue_task,
    get_record, handler_failure, json_answer, lease_one, new_task, test_queue, within_deadline,
};

pub(crate) async fn renewing_names_the_leases_that_are_lost(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    enqueue_task(&*store, &q).await;
    let older = lease_one(&*store, &q).await;
    store
        .settle(&older, &Settlement::Retry { failure: handler_failure("x"), retry_at: UnixMs(0) })
        .await
        .expect("settled");
    let current = lease_one(&*store, &q).await;
    let gone = enqueue_task(&*store, &q).await;
    let cancelled = lease_one(&*store, &q).await;
    store.cancel(&gone.id, RESULT_TTL).await.expect("cancelled");

    assert_eq!(store.renew(TEST_PROCESS, &[]).await, Ok(vec![]));
    assert_eq!(store.renew(TEST_PROCESS, std::slice::from_ref(&current)).await, Ok(vec![]));
    assert_eq!(store.renew(TEST_PROCESS, &[current.clone(), cancelled]).await, Ok(vec![gone.id]));
    assert_eq!(
        store.renew(TEST_PROCESS, std::slice::from_ref(&older)).await,
        Ok(vec![older.task.id])
    );
    let complete = Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
    assert_eq!(store.settle(&current, &complete).await, Ok(SettleResult::Applied));
}

pub(crate) async fn an_expired_lease_runs_again_and_its_holder_is_fenced(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = enqueue_task(&*store, &q).await;
    let lost = lease_one(&*store, &q).await;
    store.reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL).await.expect("tended");
    assert_nothing_leasable(&*store, &q).await;
    f.advance_time(LEASE_DURATION + Duration::from_secs(1)).await;
    store.reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL).await.expect("tended");
    let again = lease_one(&*store, &q).await;
    assert_eq!((again.attempt, &again.task), (2, &task));
    let complete = Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
    assert_eq!(store.settle(&lost, &complete).await, Ok(SettleResult::Fenced));
    assert_eq!(
        store.renew(TEST_PROCESS, std::slice::from_ref(&lost)).await,
        Ok(vec![task.id.clone()])
    );
    assert_eq!(get_record(&*store, &task.id).await.status, TaskStatus::Processing);
    assert_eq!(store.settle(&again, &complete).await, Ok(SettleResult::Applied));
}

pub(crate) async fn a_renewed_lease_lives_on(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    enqueue_task(&*store, &q).await;
    let held = lease_one(&*store, &q).await;
    for _ in 0..3 {
        f.advance_time(LEASE_DURATION * 2 / 3).await;
        assert_eq!(store.renew(TEST_PROCESS, std::slice::from_ref(&held)).await, Ok(vec![]));
        store
            .reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL)
            .await
            .expect("tended");
        assert_nothing_leasable(&*store, &q).await;
    }
    let complete = Settlement::Complete { answer: json_answer(), ttl: RESULT_TTL };
    assert_eq!(store.settle(&held, &complete).await, Ok(SettleResult::Applied));
}

pub(crate) async fn a_task_that_kills_its_workers_becomes_a_dead_letter(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let task = Task { retries: 0, route: Some("invoke".into()), ..new_task(&q) };
    let waiter = store.end_waiters().register_waiter(&task.id);
    store.enqueue(&task, &q).await.expect("enqueued");
    let mut buried = Vec::new();
    for attempt in 1..=CRASH_RERUN_LIMIT {
        assert_eq!(lease_one(&*store, &q).await.attempt, attempt);
        assert_eq!(buried, [], "it still may run");
        buried.extend(f.advance_time(LEASE_DURATION + Duration::from_secs(1)).await);
        buried.extend(
            store
                .reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL)
                .await
                .expect("tended"),
        );
    }
    assert_eq!(
        buried,
        [BuriedTask { topic: q.topic.clone(), route: task.route.clone(), trimmed: false }],
        "told once"
    );
    assert_nothing_leasable(&*store, &q).await;
    let found = get_record(&*store, &task.id).await;
    assert_eq!((found.status, found.attempts), (TaskStatus::Failed, CRASH_RERUN_LIMIT));
    assert_eq!(found.failure.as_ref().map(|failure| failure.kind), Some(FailureKind::WorkerCrash));
    assert_eq!(within_deadline(waiter).await.as_deref(), Some(&found));
    let letters = store.list_dead_letters(&q, None, 10).await.expect("answers");
    assert_eq!((letters.len(), letters[0].attempts), (1, CRASH_RERUN_LIMIT));
}

pub(crate) async fn an_ended_task_expires_but_its_dead_letter_stays(f: impl StoreFixture) {
    let (store, q) = (f.store(), test_queue("a"));
    let ttl = Duration::from_secs(1);
    let ends = [
        Some(Settlement::Complete { answer: json_answer(), ttl }),
        Some(Settlement::Bury { failure: handler_failure("x"), ttl }),
        None,
    ];
    for end in ends {
        let task = enqueue_task(&*store, &q).await;
        let its_lease = lease_one(&*store, &q).await;
        match &end {
            Some(settlement) => drop(store.settle(&its_lease, settlement).await.expect("settled")),
            None => drop(store.cancel(&task.id, ttl).await.expect("cancelled")),
        }
        let deadline = tokio::time::Instant::now() + WAIT_DEADLINE;
        while store.get_task(&task.id).await.expect("answers").is_some() {
            assert!(tokio::time::Instant::now() < deadline, "{end:?}: did not expire");
            store
                .reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL)
                .await
                .expect("tended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let kept = enqueue_task(&*store, &q).await;
    store.reap_expired(TEST_PROCESS, std::slice::from_ref(&q), RESULT_TTL).await.expect("tended");
    assert_eq!(get_record(&*store, &kept.id).await.status, TaskStatus::Queued);
    assert_eq!(store.list_dead_letters(&q, None, 10).await.expect("answers").len(), 1);
}
