//! The pool over the real embedded store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Config, HandlerConfig};
use crate::store::testing::Faulty;
use crate::store::{Cancelled, Clock, SqliteStore, TaskStore};
use crate::task::{Answer, Failure, FailureKind, Status, Task, TaskId, TaskRecord};
use crate::worker::handler::{Attempt, Handler};
use crate::worker::testing::{self, Echo, queue, task, topic, until_some};

/// A pool that runs, and what is around it.
struct Fixture {
    _dir: tempfile::TempDir,
    clock: Clock,
    store: Arc<Faulty>,
    circuit: Arc<Circuit>,
    snapshots: Arc<Snapshots>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    pool: JoinHandle<()>,
    probes: JoinHandle<()>,
}

/// A topic `t` that is the library's.
fn config() -> Config {
    testing::config(&[("t", HandlerConfig::External)])
}

fn own(handler: impl Handler + 'static) -> Handlers {
    Handlers::new().with(topic("t"), handler)
}

impl Fixture {
    fn start(config: Config, handlers: Handlers) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::default();
        let sqlite = SqliteStore::with_clock(&dir.path().join("tasks.db"), clock.clone()).expect("opened");
        let store = Arc::new(Faulty::new(Arc::new(sqlite)));
        let circuit = Arc::new(Circuit::new(Arc::clone(&store) as Arc<dyn TaskStore>, config.store.timeout));
        let snapshots = Arc::new(Snapshots::new(testing::snapshot(1, config)));
        let (metrics, shutdown) = (Arc::new(Metrics::new(1)), CancellationToken::new());
        let probing = Arc::clone(&circuit);
        let (ttl, stop) = (Duration::from_hours(1), shutdown.clone());
        let probes = tokio::spawn(async move { probing.run(ttl, stop).await });
        let process = "test.1.1".to_owned();
        let pool =
            Pool::new(process, Arc::clone(&circuit), Arc::clone(&snapshots), Arc::clone(&metrics), handlers, None);
        let pool = tokio::spawn(pool.run(shutdown.clone()));
        Self { _dir: dir, clock, store, circuit, snapshots, metrics, shutdown, pool, probes }
    }

    async fn enqueue(&self, task: &Task) {
        self.store.store.enqueue(task, &queue(task.topic.as_str())).await.expect("enqueued");
    }

    async fn record(&self, id: &TaskId) -> TaskRecord {
        self.store.store.get(id).await.expect("read").expect("known")
    }

    async fn ended(&self, id: &TaskId) -> TaskRecord {
        until_some(async || Some(self.record(id).await).filter(|record| record.status.is_final())).await
    }

    async fn status_is(&self, id: &TaskId, status: Status) {
        until_some(async || (self.record(id).await.status == status).then_some(())).await;
    }

    /// Whether the metrics say `line`.
    async fn shows(&self, line: &str) {
        until_some(async || self.metrics.exposition().lines().any(|shown| shown == line).then_some(())).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.pool.await.expect("the pool ends");
        self.probes.await.expect("the probes end");
    }
}

/// Counts the runs of each task, and then does what `outcome` says.
#[derive(Clone)]
struct Script<F> {
    runs: Arc<Mutex<HashMap<TaskId, u32>>>,
    outcome: F,
}

impl<F> Script<F> {
    fn new(outcome: F) -> Self {
        Self { runs: Arc::default(), outcome }
    }

    fn runs(&self, id: &TaskId) -> u32 {
        self.runs.lock().expect("not poisoned").get(id).copied().unwrap_or(0)
    }
}

#[async_trait]
impl<F: AsyncOutcome> Handler for Script<F> {
    async fn handle(&self, attempt: &Attempt) -> Result<Answer, Failure> {
        *self.runs.lock().expect("not poisoned").entry(attempt.task.id.clone()).or_default() += 1;
        self.outcome.of(attempt).await
    }
}

#[async_trait]
trait AsyncOutcome: Send + Sync {
    async fn of(&self, attempt: &Attempt) -> Result<Answer, Failure>;
}

/// Fails each time.
#[derive(Clone)]
struct Failing;

#[async_trait]
impl AsyncOutcome for Failing {
    async fn of(&self, attempt: &Attempt) -> Result<Answer, Failure> {
        Err(Failure::new(FailureKind::Handler, format!("failure {}", attempt.number)))
    }
}

/// Goes on until `go` is cancelled; heeds an interruption if it is `polite`.
#[derive(Clone)]
struct Waiting {
    go: CancellationToken,
    polite: bool,
    begun: CancellationToken,
    interrupted: Arc<AtomicUsize>,
}

impl Waiting {
    fn new(polite: bool) -> Self {
        let (go, begun) = (CancellationToken::new(), CancellationToken::new());
        Self { go, polite, begun, interrupted: Arc::default() }
    }
}

#[async_trait]
impl AsyncOutcome for Waiting {
    async fn of(&self, attempt: &Attempt) -> Result<Answer, Failure> {
        self.begun.cancel();
        tokio::select! {
            () = self.go.cancelled() => Ok(Answer::json("\"waited\"")),
            why = attempt.interrupted(), if self.polite => {
                self.interrupted.fetch_add(1, Ordering::Relaxed);
                Err(attempt.failure(why))
            }
        }
    }
}

#[tokio::test]
async fn a_task_completes_and_is_counted_once_and_by_its_route() {
    let fixture = Fixture::start(config(), own(Echo));
    let task = Task { route: Some("invoke".into()), ..task(1, "t", "{\"a\": 1}") };
    fixture.enqueue(&task).await;
    let record = fixture.ended(&task.id).await;
    assert_eq!((record.status, record.attempts), (Status::Completed, 1));
    assert_eq!(record.answer, Some(Answer::json("{\"a\": 1}")));
    fixture.shows("omnidaemon_tasks_processed_total{topic=\"t\"} 1").await;
    fixture.shows("omnidaemon_task_outcomes_total{outcome=\"completed\",route=\"invoke\"} 1").await;
    fixture.shows("omnidaemon_processing_duration_seconds_count{topic=\"t\"} 1").await;
    fixture.shows("omnidaemon_workers_active 2").await;
    fixture.shows("omnidaemon_workers_busy 0").await;
    let beats = fixture.store.store.heartbeats().await.expect("read");
    assert_eq!(beats.iter().map(|beat| beat.process.as_str()).collect::<Vec<_>>(), ["test.1.1"]);
    fixture.stop().await;
}

#[tokio::test]
async fn a_failing_task_is_retried_and_then_buried_and_counted_once() {
    let script = Script::new(Failing);
    let fixture = Fixture::start(config(), own(script.clone()));
    let task = Task { retries: 2, ..task(1, "t", "{}") };
    fixture.enqueue(&task).await;
    let record = fixture.ended(&task.id).await;
    assert_eq!((record.status, record.attempts, script.runs(&task.id)), (Status::Failed, 3, 3));
    assert_eq!(record.failure.map(|failure| failure.message).as_deref(), Some("failure 3"));
    let dead = fixture.store.store.dead_letters(&queue("t"), 10).await.expect("read");
    assert_eq!(dead.iter().map(|dead| dead.error.as_str()).collect::<Vec<_>>(), ["failure 3"]);
    fixture.shows("omnidaemon_tasks_failed_total{topic=\"t\"} 1").await;
    fixture.stop().await;
}

#[tokio::test]
async fn a_task_obeys_its_own_retries_and_not_the_topics() {
    let script = Script::new(Failing);
    let fixture = Fixture::start(config(), own(script.clone()));
    let canaried = Task { retries: 0, route: Some("invoke".into()), ..task(1, "t", "{}") };
    fixture.enqueue(&canaried).await;
    assert_eq!(fixture.ended(&canaried.id).await.status, Status::Failed);
    assert_eq!(script.runs(&canaried.id), 1);
    fixture.shows("omnidaemon_task_outcomes_total{outcome=\"failed\",route=\"invoke\"} 1").await;
    fixture.stop().await;
}

/// Panics, on purpose, on one payload.
struct Fragile;

#[async_trait]
impl Handler for Fragile {
    async fn handle(&self, attempt: &Attempt) -> Result<Answer, Failure> {
        assert!(attempt.task.payload != "\"poison\"", "poisoned by {}", attempt.task.payload.len());
        Ok(Answer::json("1"))
    }
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_and_the_pool_lives_on() {
    let fixture = Fixture::start(config(), own(Fragile));
    let (poison, good) = (task(1, "t", "\"poison\""), task(2, "t", "\"good\""));
    fixture.enqueue(&poison).await;
    let failure = fixture.ended(&poison.id).await.failure.expect("failed");
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Handler, "the handler panicked: poisoned by 8"));
    fixture.enqueue(&good).await;
    assert_eq!(fixture.ended(&good.id).await.status, Status::Completed);
    fixture.stop().await;
}

#[tokio::test]
async fn a_result_over_the_limit_and_a_missed_deadline_fail_by_name() {
    let mut config = config();
    config.results.max_result = 10;
    let fixture = Fixture::start(config.clone(), own(Echo));
    let large = Task { retries: 5, ..task(1, "t", "\"0123456789\"") };
    fixture.enqueue(&large).await;
    let record = fixture.ended(&large.id).await;
    assert_eq!((record.attempts, record.failure.map(|f| f.kind)), (1, Some(FailureKind::Result)));
    fixture.stop().await;
    config.topics.get_mut(&topic("t")).expect("there").timeout = Duration::from_millis(50);
    for polite in [true, false] {
        let fixture = Fixture::start(config.clone(), own(Script::new(Waiting::new(polite))));
        let late = task(2, "t", "{}");
        fixture.enqueue(&late).await;
        let failure = fixture.ended(&late.id).await.failure.expect("failed");
        assert_eq!(failure.kind, FailureKind::Deadline, "polite: {polite}");
        fixture.stop().await;
    }
}

#[tokio::test]
async fn at_shutdown_attempts_may_finish_within_the_drain_time() {
    let waiting = Waiting::new(true);
    let fixture = Fixture::start(config(), own(Script::new(waiting.clone())));
    let (task, later) = (task(1, "t", "{}"), task(2, "t", "{}"));
    fixture.enqueue(&task).await;
    // Leased is not begun: a lease that meets the shutdown is given back.
    waiting.begun.cancelled().await;
    fixture.shutdown.cancel();
    until_some(async || {
        // A pull that was under way gives back what it still gets.
        fixture.enqueue(&later).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        (fixture.record(&later.id).await.status == Status::Queued).then_some(())
    })
    .await;
    waiting.go.cancel();
    fixture.pool.await.expect("the pool ends");
    let store = &fixture.store.store;
    assert_eq!(store.get(&task.id).await.expect("read").map(|r| r.status), Some(Status::Completed));
    let later = store.get(&later.id).await.expect("read").expect("known");
    assert_eq!((later.status, later.attempts), (Status::Queued, 0));
    assert_eq!(fixture.metrics.workers_active.get(), 0);
}

#[tokio::test]
async fn what_the_drain_time_cuts_off_is_released_unspent() {
    for polite in [true, false] {
        let mut config = config();
        config.workers.drain = Duration::ZERO;
        let waiting = Waiting::new(polite);
        let fixture = Fixture::start(config, own(Script::new(waiting.clone())));
        let task = task(1, "t", "{}");
        fixture.enqueue(&task).await;
        waiting.begun.cancelled().await;
        fixture.shutdown.cancel();
        fixture.pool.await.expect("the pool ends");
        let record = fixture.store.store.get(&task.id).await.expect("read").expect("known");
        assert_eq!((record.status, record.attempts), (Status::Queued, 0), "polite: {polite}");
        assert_eq!(waiting.interrupted.load(Ordering::Relaxed), usize::from(polite));
    }
}

/// Counts how many run at a time.
#[derive(Clone, Default)]
struct Crowd {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl AsyncOutcome for Crowd {
    async fn of(&self, _: &Attempt) -> Result<Answer, Failure> {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.now.fetch_sub(1, Ordering::Relaxed);
        Ok(Answer::json("1"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_tasks_over_four_slots_run_exactly_once_each() {
    let mut config = config();
    (config.workers.count, config.workers.concurrency) = (2, 2);
    let script = Script::new(Crowd::default());
    let fixture = Fixture::start(config, own(script.clone()));
    let tasks: Vec<_> = (0..200).map(|number| task(number, "t", "{}")).collect();
    for task in &tasks {
        fixture.enqueue(task).await;
    }
    for task in &tasks {
        assert_eq!(fixture.ended(&task.id).await.status, Status::Completed);
    }
    assert!(tasks.iter().all(|task| script.runs(&task.id) == 1));
    assert_eq!(script.outcome.most.load(Ordering::Relaxed), 4);
    fixture.shows("omnidaemon_tasks_processed_total{topic=\"t\"} 200").await;
    fixture.stop().await;
}

#[tokio::test]
async fn no_workers_run_nothing_until_a_reload_gives_some() {
    let mut none = config();
    none.workers.count = 0;
    let fixture = Fixture::start(none, own(Echo));
    let task = task(1, "t", "{}");
    fixture.enqueue(&task).await;
    tokio::time::sleep(LOOK_AGAIN * 2).await;
    assert_eq!(fixture.record(&task.id).await.status, Status::Queued);
    assert!(fixture.store.store.heartbeats().await.expect("read").is_empty());
    fixture.snapshots.publish(testing::snapshot(2, config()));
    assert_eq!(fixture.ended(&task.id).await.status, Status::Completed);
    fixture.stop().await;
}

#[tokio::test]
async fn a_removed_topic_drains_and_a_running_attempt_goes_on() {
    let waiting = Waiting::new(true);
    let mut one_slot = config();
    one_slot.workers.count = 1;
    let fixture = Fixture::start(one_slot, own(Script::new(waiting.clone())));
    let (running, queued) = (task(1, "t", "{}"), task(2, "t", "{}"));
    fixture.enqueue(&running).await;
    fixture.status_is(&running.id, Status::Processing).await;
    fixture.enqueue(&queued).await;
    fixture.snapshots.publish(testing::snapshot(2, testing::config(&[("other", HandlerConfig::Upstream)])));
    waiting.go.cancel();
    for task in [&running, &queued] {
        assert_eq!(fixture.ended(&task.id).await.status, Status::Completed);
    }
    fixture.stop().await;
}

#[tokio::test]
async fn a_long_task_keeps_its_lease_and_runs_once() {
    let waiting = Waiting::new(true);
    let script = Script::new(waiting.clone());
    let fixture = Fixture::start(config(), own(script.clone()));
    let task = task(1, "t", "{}");
    fixture.enqueue(&task).await;
    fixture.status_is(&task.id, Status::Processing).await;
    for _ in 0..3 {
        // Two thirds of a lease go by, then a renewal: sixty seconds in all, twice what one lease lives.
        fixture.clock.advance(Duration::from_secs(20));
        let renewals = fixture.store.renewals.load(Ordering::Relaxed);
        until_some(async || (fixture.store.renewals.load(Ordering::Relaxed) > renewals).then_some(())).await;
    }
    waiting.go.cancel();
    let record = fixture.ended(&task.id).await;
    assert_eq!((record.status, record.attempts, script.runs(&task.id)), (Status::Completed, 1, 1));
    fixture.stop().await;
}

#[tokio::test]
async fn a_running_attempt_is_told_when_its_task_is_cancelled() {
    let waiting = Waiting::new(true);
    let fixture = Fixture::start(config(), own(Script::new(waiting.clone())));
    let task = task(1, "t", "{}");
    fixture.enqueue(&task).await;
    fixture.status_is(&task.id, Status::Processing).await;
    let cancelled = fixture.store.store.cancel(&task.id, Duration::from_hours(1)).await;
    assert_eq!(cancelled, Ok(Cancelled::Running));
    until_some(async || (waiting.interrupted.load(Ordering::Relaxed) == 1).then_some(())).await;
    assert_eq!(fixture.record(&task.id).await.status, Status::Cancelled);
    fixture.shows("omnidaemon_workers_busy 0").await;
    fixture.stop().await;
}

#[tokio::test]
async fn a_result_survives_an_outage_and_a_lost_answer_and_counts_once() {
    let waiting = Waiting::new(true);
    let script = Script::new(waiting.clone());
    let fixture = Fixture::start(config(), own(script.clone()));
    let task = task(1, "t", "{}");
    fixture.enqueue(&task).await;
    fixture.status_is(&task.id, Status::Processing).await;
    fixture.store.down.store(true, Ordering::Relaxed);
    fixture.store.lose_answers.store(1, Ordering::Relaxed);
    waiting.go.cancel();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fixture.record(&task.id).await.status, Status::Processing);
    fixture.store.down.store(false, Ordering::Relaxed);
    assert_eq!(fixture.ended(&task.id).await.answer, Some(Answer::json("\"waited\"")));
    fixture.shows("omnidaemon_tasks_processed_total{topic=\"t\"} 1").await;
    assert_eq!(script.runs(&task.id), 1);
    fixture.stop().await;
}

#[tokio::test]
async fn after_an_outage_the_heartbeat_and_the_renewals_come_before_housekeeping() {
    let waiting = Waiting::new(true);
    let fixture = Fixture::start(config(), own(Script::new(waiting.clone())));
    let task = task(1, "t", "{}");
    fixture.enqueue(&task).await;
    fixture.status_is(&task.id, Status::Processing).await;
    fixture.store.down.store(true, Ordering::Relaxed);
    until_some(async || fixture.store.calls.lock().expect("not poisoned").is_empty().then_some(())).await;
    fixture.clock.advance(Duration::from_mins(1)); // the lease has run out
    fixture.store.down.store(false, Ordering::Relaxed);
    let calls = until_some(async || {
        let calls = fixture.store.calls.lock().expect("not poisoned").clone();
        calls.contains(&"tend").then_some(calls)
    })
    .await;
    let first = |name| calls.iter().position(|call| *call == name);
    assert!(first("beat") < first("renew") && first("renew") < first("tend"), "{calls:?}");
    waiting.go.cancel();
    let record = fixture.ended(&task.id).await;
    assert_eq!((record.status, record.attempts), (Status::Completed, 1), "an outage makes no live task run twice");
    fixture.stop().await;
}

#[tokio::test]
async fn a_task_that_a_pull_brings_before_its_cancel_is_sent_never_runs() {
    let script = Script::new(Failing);
    let fixture = Fixture::start(config(), own(script.clone()));
    // A pull has just begun: it waits for a task, and the outage does not reach it.
    fixture.store.calls.lock().expect("not poisoned").clear();
    until_some(async || fixture.store.calls.lock().expect("not poisoned").contains(&"lease").then_some(())).await;
    fixture.store.down.store(true, Ordering::Relaxed);
    let _ = fixture.circuit.attempt(fixture.store.ping()).await;
    let (cancelled, kept) = (task(1, "t", "{}"), task(2, "t", "{}"));
    fixture.circuit.cancel_later(cancelled.id.clone());
    fixture.enqueue(&cancelled).await;
    fixture.enqueue(&kept).await;
    fixture.status_is(&cancelled.id, Status::Processing).await;
    assert_eq!(script.runs(&cancelled.id), 0, "not while the store is gone");
    fixture.store.down.store(false, Ordering::Relaxed);
    assert_eq!(fixture.ended(&cancelled.id).await.status, Status::Cancelled);
    assert_eq!(fixture.ended(&kept.id).await.status, Status::Failed, "the others run");
    assert_eq!(script.runs(&cancelled.id), 0);
    fixture.stop().await;
}

#[tokio::test]
async fn a_pool_that_has_ended_is_not_counted_as_live() {
    let fixture = Fixture::start(config(), own(Echo));
    let beats = async || fixture.store.store.heartbeats().await.expect("read").len();
    until_some(async || (beats().await == 1).then_some(())).await;
    fixture.shutdown.cancel();
    fixture.pool.await.expect("the pool ends");
    assert!(fixture.store.store.heartbeats().await.expect("read").is_empty());
}
