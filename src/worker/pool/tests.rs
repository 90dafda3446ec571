//! The pool over the real embedded store.

use super::fixture::{
    AlwaysFailing, ConcurrencyMeter, CountingHandler, PanickingOnPoison, PoolFixture,
    WaitingAttempt, library_registry, library_topic_config,
};
use super::*;
use crate::config::HandlerConfig;
use crate::store::CancelResult;
use crate::task::{FailureKind, Task, TaskAnswer, TaskStatus};
use crate::worker::testing::{self, EchoHandler, test_queue, test_task, test_topic, wait_for_some};
use std::sync::atomic::Ordering;

#[tokio::test]
async fn a_task_completes_and_is_counted_once_and_by_its_route() {
    let fixture = PoolFixture::start(library_topic_config(), library_registry(EchoHandler));
    let task = Task { route: Some("invoke".into()), ..test_task(1, "t", "{\"a\": 1}") };
    fixture.enqueue(&task).await;
    let record = fixture.await_final_record(&task.id).await;
    assert_eq!((record.status, record.attempts), (TaskStatus::Completed, 1));
    assert_eq!(record.answer, Some(TaskAnswer::from_json("{\"a\": 1}")));
    fixture.await_metric_line("omnidaemon_tasks_processed_total{topic=\"t\"} 1").await;
    fixture
        .await_metric_line(
            "omnidaemon_task_outcomes_total{outcome=\"completed\",route=\"invoke\"} 1",
        )
        .await;
    fixture.await_metric_line("omnidaemon_processing_duration_seconds_count{topic=\"t\"} 1").await;
    fixture.await_metric_line("omnidaemon_workers_active 2").await;
    fixture.await_metric_line("omnidaemon_workers_busy 0").await;
    let beats = fixture.store.store.list_heartbeats().await.expect("read");
    assert_eq!(beats.iter().map(|beat| beat.process.as_str()).collect::<Vec<_>>(), ["test.1.1"]);
    fixture.stop().await;
}

#[tokio::test]
async fn a_failing_task_is_retried_and_then_buried_and_counted_once() {
    let script = CountingHandler::new(AlwaysFailing);
    let fixture = PoolFixture::start(library_topic_config(), library_registry(script.clone()));
    let task = Task { retries: 2, ..test_task(1, "t", "{}") };
    fixture.enqueue(&task).await;
    let record = fixture.await_final_record(&task.id).await;
    assert_eq!(
        (record.status, record.attempts, script.run_count(&task.id)),
        (TaskStatus::Failed, 3, 3)
    );
    assert_eq!(record.failure.map(|failure| failure.message).as_deref(), Some("failure 3"));
    let dead =
        fixture.store.store.list_dead_letters(&test_queue("t"), None, 10).await.expect("read");
    assert_eq!(dead.iter().map(|dead| dead.error.as_str()).collect::<Vec<_>>(), ["failure 3"]);
    fixture.await_metric_line("omnidaemon_tasks_failed_total{topic=\"t\"} 1").await;
    fixture.stop().await;
}

#[tokio::test]
async fn a_task_obeys_its_own_retries_and_not_the_topics() {
    let script = CountingHandler::new(AlwaysFailing);
    let fixture = PoolFixture::start(library_topic_config(), library_registry(script.clone()));
    let canaried = Task { retries: 0, route: Some("invoke".into()), ..test_task(1, "t", "{}") };
    fixture.enqueue(&canaried).await;
    assert_eq!(fixture.await_final_record(&canaried.id).await.status, TaskStatus::Failed);
    assert_eq!(script.run_count(&canaried.id), 1);
    fixture
        .await_metric_line("omnidaemon_task_outcomes_total{outcome=\"failed\",route=\"invoke\"} 1")
        .await;
    fixture.stop().await;
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_and_the_pool_lives_on() {
    let fixture = PoolFixture::start(library_topic_config(), library_registry(PanickingOnPoison));
    let (poison, good) = (test_task(1, "t", "\"poison\""), test_task(2, "t", "\"good\""));
    fixture.enqueue(&poison).await;
    let failure = fixture.await_final_record(&poison.id).await.failure.expect("failed");
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::HandlerError, "the handler panicked: poisoned by 8")
    );
    fixture.enqueue(&good).await;
    assert_eq!(fixture.await_final_record(&good.id).await.status, TaskStatus::Completed);
    fixture.stop().await;
}

#[tokio::test]
async fn a_result_over_the_limit_and_a_missed_deadline_have_their_failure_kinds() {
    let mut config = library_topic_config();
    config.results.max_result_bytes = 10;
    let fixture = PoolFixture::start(config.clone(), library_registry(EchoHandler));
    let large = Task { retries: 5, ..test_task(1, "t", "\"0123456789\"") };
    fixture.enqueue(&large).await;
    let record = fixture.await_final_record(&large.id).await;
    assert_eq!(
        (record.attempts, record.failure.map(|f| f.kind)),
        (1, Some(FailureKind::UnusableResult))
    );
    fixture.stop().await;
    config.topics.get_mut(&test_topic("t")).expect("there").timeout = Duration::from_millis(50);
    for polite in [true, false] {
        let fixture = PoolFixture::start(
            config.clone(),
            library_registry(CountingHandler::new(WaitingAttempt::new(polite))),
        );
        let late = test_task(2, "t", "{}");
        fixture.enqueue(&late).await;
        let failure = fixture.await_final_record(&late.id).await.failure.expect("failed");
        assert_eq!(failure.kind, FailureKind::Deadline, "polite: {polite}");
        fixture.stop().await;
    }
}

#[tokio::test]
async fn at_shutdown_attempts_may_finish_within_the_drain_time() {
    let waiting = WaitingAttempt::new(true);
    let fixture = PoolFixture::start(
        library_topic_config(),
        library_registry(CountingHandler::new(waiting.clone())),
    );
    let (task, later) = (test_task(1, "t", "{}"), test_task(2, "t", "{}"));
    fixture.enqueue(&task).await;
    // Wait for the start: a lease that meets the shutdown before it is released.
    waiting.started.cancelled().await;
    fixture.shutdown.cancel();
    wait_for_some(async || {
        // A pull that is still in flight releases the tasks that it gets.
        fixture.enqueue(&later).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        (fixture.load_record(&later.id).await.status == TaskStatus::Queued).then_some(())
    })
    .await;
    waiting.finish.cancel();
    fixture.pool.await.expect("the pool ends");
    let store = &fixture.store.store;
    assert_eq!(
        store.get_task(&task.id).await.expect("read").map(|r| r.status),
        Some(TaskStatus::Completed)
    );
    let later = store.get_task(&later.id).await.expect("read").expect("known");
    assert_eq!((later.status, later.attempts), (TaskStatus::Queued, 0));
    assert_eq!(fixture.metrics.workers_active.get(), 0);
}

#[tokio::test]
async fn attempts_that_the_drain_time_cuts_off_are_released_and_not_counted() {
    for polite in [true, false] {
        let mut config = library_topic_config();
        config.workers.drain_timeout = Duration::ZERO;
        let waiting = WaitingAttempt::new(polite);
        let fixture =
            PoolFixture::start(config, library_registry(CountingHandler::new(waiting.clone())));
        let task = test_task(1, "t", "{}");
        fixture.enqueue(&task).await;
        waiting.started.cancelled().await;
        fixture.shutdown.cancel();
        fixture.pool.await.expect("the pool ends");
        let record = fixture.store.store.get_task(&task.id).await.expect("read").expect("known");
        assert_eq!((record.status, record.attempts), (TaskStatus::Queued, 0), "polite: {polite}");
        assert_eq!(waiting.interrupted.load(Ordering::Relaxed), usize::from(polite));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_tasks_over_four_slots_run_exactly_once_each() {
    let mut config = library_topic_config();
    config.workers.count = 2;
    config.topics.get_mut(&test_topic("t")).expect("configured").concurrency = 2;
    let script = CountingHandler::new(ConcurrencyMeter::default());
    let fixture = PoolFixture::start(config, library_registry(script.clone()));
    let tasks: Vec<_> = (0..200).map(|number| test_task(number, "t", "{}")).collect();
    for task in &tasks {
        fixture.enqueue(task).await;
    }
    for task in &tasks {
        assert_eq!(fixture.await_final_record(&task.id).await.status, TaskStatus::Completed);
    }
    assert!(tasks.iter().all(|task| script.run_count(&task.id) == 1));
    assert_eq!(script.outcome.running_max.load(Ordering::Relaxed), 4);
    fixture.await_metric_line("omnidaemon_tasks_processed_total{topic=\"t\"} 200").await;
    fixture.stop().await;
}

#[tokio::test]
async fn no_workers_run_nothing_until_a_reload_gives_some() {
    let mut none = library_topic_config();
    none.workers.count = 0;
    let fixture = PoolFixture::start(none, library_registry(EchoHandler));
    let task = test_task(1, "t", "{}");
    fixture.enqueue(&task).await;
    tokio::time::sleep(PULL_RETRY_INTERVAL * 2).await;
    assert_eq!(fixture.load_record(&task.id).await.status, TaskStatus::Queued);
    assert!(fixture.store.store.list_heartbeats().await.expect("read").is_empty());
    fixture.snapshots.publish(testing::test_snapshot(2, library_topic_config()));
    assert_eq!(fixture.await_final_record(&task.id).await.status, TaskStatus::Completed);
    fixture.stop().await;
}

#[tokio::test]
async fn a_removed_topic_drains_and_a_running_attempt_goes_on() {
    let waiting = WaitingAttempt::new(true);
    let mut one_slot = library_topic_config();
    one_slot.workers.count = 1;
    let fixture =
        PoolFixture::start(one_slot, library_registry(CountingHandler::new(waiting.clone())));
    let (running, queued) = (test_task(1, "t", "{}"), test_task(2, "t", "{}"));
    fixture.enqueue(&running).await;
    fixture.await_status(&running.id, TaskStatus::Processing).await;
    fixture.enqueue(&queued).await;
    fixture.snapshots.publish(testing::test_snapshot(
        2,
        testing::test_config(&[("other", HandlerConfig::Upstream)]),
    ));
    waiting.finish.cancel();
    for task in [&running, &queued] {
        assert_eq!(fixture.await_final_record(&task.id).await.status, TaskStatus::Completed);
    }
    fixture.stop().await;
}

#[tokio::test]
async fn a_long_task_keeps_its_lease_and_runs_once() {
    let waiting = WaitingAttempt::new(true);
    let script = CountingHandler::new(waiting.clone());
    let fixture = PoolFixture::start(library_topic_config(), library_registry(script.clone()));
    let task = test_task(1, "t", "{}");
    fixture.enqueue(&task).await;
    fixture.await_status(&task.id, TaskStatus::Processing).await;
    for _ in 0..3 {
        // Each round lets two thirds of a lease pass before a renewal: sixty seconds in total,
        // twice the duration of a lease.
        fixture.clock.advance(Duration::from_secs(20));
        let renewals = fixture.store.renewal_count.load(Ordering::Relaxed);
        wait_for_some(async || {
            (fixture.store.renewal_count.load(Ordering::Relaxed) > renewals).then_some(())
        })
        .await;
    }
    waiting.finish.cancel();
    let record = fixture.await_final_record(&task.id).await;
    assert_eq!(
        (record.status, record.attempts, script.run_count(&task.id)),
        (TaskStatus::Completed, 1, 1)
    );
    fixture.stop().await;
}

#[tokio::test]
async fn a_running_attempt_is_interrupted_when_its_task_is_cancelled() {
    let waiting = WaitingAttempt::new(true);
    let fixture = PoolFixture::start(
        library_topic_config(),
        library_registry(CountingHandler::new(waiting.clone())),
    );
    let task = test_task(1, "t", "{}");
    fixture.enqueue(&task).await;
    fixture.await_status(&task.id, TaskStatus::Processing).await;
    let cancelled = fixture.store.store.cancel(&task.id, Duration::from_hours(1)).await;
    assert_eq!(cancelled, Ok(CancelResult::WasRunning));
    wait_for_some(async || (waiting.interrupted.load(Ordering::Relaxed) == 1).then_some(())).await;
    assert_eq!(fixture.load_record(&task.id).await.status, TaskStatus::Cancelled);
    fixture.await_metric_line("omnidaemon_workers_busy 0").await;
    fixture.stop().await;
}

#[tokio::test]
async fn a_result_survives_an_outage_and_a_lost_answer_and_counts_once() {
    let waiting = WaitingAttempt::new(true);
    let script = CountingHandler::new(waiting.clone());
    let fixture = PoolFixture::start(library_topic_config(), library_registry(script.clone()));
    let task = test_task(1, "t", "{}");
    fixture.enqueue(&task).await;
    fixture.await_status(&task.id, TaskStatus::Processing).await;
    fixture.store.is_down.store(true, Ordering::Relaxed);
    fixture.store.settle_answers_to_lose.store(1, Ordering::Relaxed);
    waiting.finish.cancel();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fixture.load_record(&task.id).await.status, TaskStatus::Processing);
    fixture.store.is_down.store(false, Ordering::Relaxed);
    assert_eq!(
        fixture.await_final_record(&task.id).await.answer,
        Some(TaskAnswer::from_json("\"waited\""))
    );
    fixture.await_metric_line("omnidaemon_tasks_processed_total{topic=\"t\"} 1").await;
    assert_eq!(script.run_count(&task.id), 1);
    fixture.stop().await;
}

#[tokio::test]
async fn after_an_outage_the_heartbeat_and_the_renewals_come_before_housekeeping() {
    let waiting = WaitingAttempt::new(true);
    let fixture = PoolFixture::start(
        library_topic_config(),
        library_registry(CountingHandler::new(waiting.clone())),
    );
    let task = test_task(1, "t", "{}");
    fixture.enqueue(&task).await;
    fixture.await_status(&task.id, TaskStatus::Processing).await;
    fixture.store.is_down.store(true, Ordering::Relaxed);
    wait_for_some(async || {
        fixture.store.call_log.lock().expect("not poisoned").is_empty().then_some(())
    })
    .await;
    fixture.clock.advance(Duration::from_mins(1)); // the lease has expired
    fixture.store.is_down.store(false, Ordering::Relaxed);
    let calls = wait_for_some(async || {
        let calls = fixture.store.call_log.lock().expect("not poisoned").clone();
        calls.contains(&"reap_expired").then_some(calls)
    })
    .await;
    let first = |name| calls.iter().position(|call| *call == name);
    assert!(
        first("record_heartbeat") < first("renew") && first("renew") < first("reap_expired"),
        "{calls:?}"
    );
    waiting.finish.cancel();
    let record = fixture.await_final_record(&task.id).await;
    assert_eq!(
        (record.status, record.attempts),
        (TaskStatus::Completed, 1),
        "an outage makes no live task run twice"
    );
    fixture.stop().await;
}

#[tokio::test]
async fn a_task_that_is_pulled_before_its_cancellation_is_sent_never_runs() {
    let script = CountingHandler::new(AlwaysFailing);
    let fixture = PoolFixture::start(library_topic_config(), library_registry(script.clone()));
    // A new pull has begun; it waits for a task and is not affected by the outage.
    fixture.store.call_log.lock().expect("not poisoned").clear();
    wait_for_some(async || {
        fixture.store.call_log.lock().expect("not poisoned").contains(&"lease_demand").then_some(())
    })
    .await;
    fixture.store.is_down.store(true, Ordering::Relaxed);
    let _ = fixture.circuit.call_even_if_open(fixture.circuit.store().ping()).await;
    let (cancelled, kept) = (test_task(1, "t", "{}"), test_task(2, "t", "{}"));
    fixture.circuit.cancel_on_recovery(cancelled.id.clone());
    fixture.enqueue(&cancelled).await;
    fixture.enqueue(&kept).await;
    fixture.await_status(&cancelled.id, TaskStatus::Processing).await;
    assert_eq!(
        script.run_count(&cancelled.id),
        0,
        "no attempt starts while the store is unavailable"
    );
    fixture.store.is_down.store(false, Ordering::Relaxed);
    assert_eq!(fixture.await_final_record(&cancelled.id).await.status, TaskStatus::Cancelled);
    assert_eq!(
        fixture.await_final_record(&kept.id).await.status,
        TaskStatus::Failed,
        "other tasks run"
    );
    assert_eq!(script.run_count(&cancelled.id), 0);
    fixture.stop().await;
}

#[tokio::test]
async fn a_pool_that_has_ended_is_not_counted_as_live() {
    let fixture = PoolFixture::start(library_topic_config(), library_registry(EchoHandler));
    let beats = async || fixture.store.store.list_heartbeats().await.expect("read").len();
    wait_for_some(async || (beats().await == 1).then_some(())).await;
    fixture.shutdown.cancel();
    fixture.pool.await.expect("the pool ends");
    assert!(fixture.store.store.list_heartbeats().await.expect("read").is_empty());
}
