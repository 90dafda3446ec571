//! A pool over the real embedded store, and handlers that count, wait, fail or panic.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::WorkerPool;
use crate::config::{Config, HandlerConfig};
use crate::metrics::Metrics;
use crate::snapshot::SnapshotHandle;
use crate::store::testing::FaultyStore;
use crate::store::{Circuit, SqliteClock, SqliteStore, TaskStore};
use crate::task::{FailureKind, Task, TaskAnswer, TaskFailure, TaskId, TaskRecord, TaskStatus};
use crate::worker::drain::WorkerDrain;
use crate::worker::handler::{Handler, HandlerRegistry, TaskAttempt};
use crate::worker::testing::{self, test_queue, test_topic, wait_for_some};

/// A running pool with its store and signals.
pub(super) struct PoolFixture {
    _dir: tempfile::TempDir,
    pub(super) clock: SqliteClock,
    pub(super) store: Arc<FaultyStore>,
    pub(super) circuit: Arc<Circuit>,
    pub(super) snapshots: Arc<SnapshotHandle>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) shutdown: CancellationToken,
    pub(super) pool: JoinHandle<()>,
    pub(super) probes: JoinHandle<()>,
}

/// A configuration whose topic `t` is run by a handler of the library.
pub(super) fn library_topic_config() -> Config {
    testing::test_config(&[("t", HandlerConfig::External)])
}

pub(super) fn library_registry(handler: impl Handler + 'static) -> HandlerRegistry {
    HandlerRegistry::new().with_handler(test_topic("t"), handler)
}

impl PoolFixture {
    pub(super) fn start(config: Config, handlers: HandlerRegistry) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = SqliteClock::default();
        let sqlite = SqliteStore::open_with_clock(&dir.path().join("tasks.db"), clock.clone())
            .expect("opened");
        let store = Arc::new(FaultyStore::new(Arc::new(sqlite)));
        let circuit =
            Arc::new(Circuit::new(Arc::clone(&store) as Arc<dyn TaskStore>, config.store.timeout));
        let snapshots = Arc::new(SnapshotHandle::new(testing::test_snapshot(1, config)));
        let (metrics, shutdown) = (Arc::new(Metrics::new(1)), CancellationToken::new());
        let probing = Arc::clone(&circuit);
        let (ttl, stop) = (Duration::from_hours(1), shutdown.clone());
        let probes = tokio::spawn(async move { probing.run(ttl, stop).await });
        let process = "test.1.1".to_owned();
        let pool = WorkerPool::new(
            process,
            Arc::clone(&circuit),
            Arc::clone(&snapshots),
            Arc::clone(&metrics),
            handlers,
            Arc::default(),
            None,
        );
        let pool = tokio::spawn(pool.run(shutdown.clone(), WorkerDrain::of_worker_process));
        Self { _dir: dir, clock, store, circuit, snapshots, metrics, shutdown, pool, probes }
    }

    pub(super) async fn enqueue(&self, task: &Task) {
        self.store.store.enqueue(task, &test_queue(task.topic.as_str())).await.expect("enqueued");
    }

    pub(super) async fn load_record(&self, id: &TaskId) -> TaskRecord {
        self.store.store.get_task(id).await.expect("read").expect("known")
    }

    pub(super) async fn await_final_record(&self, id: &TaskId) -> TaskRecord {
        wait_for_some(async || {
            Some(self.load_record(id).await).filter(|record| record.status.is_final())
        })
        .await
    }

    pub(super) async fn await_status(&self, id: &TaskId, status: TaskStatus) {
        wait_for_some(async || (self.load_record(id).await.status == status).then_some(())).await;
    }

    /// Waits until the metrics contain `line`.
    pub(super) async fn await_metric_line(&self, line: &str) {
        wait_for_some(async || {
            self.metrics.render_exposition().lines().any(|shown| shown == line).then_some(())
        })
        .await;
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        self.pool.await.expect("the pool ends");
        self.probes.await.expect("the probes end");
    }
}

/// Counts the runs of each task, and returns the result of `outcome`.
#[derive(Clone)]
pub(super) struct CountingHandler<F> {
    runs: Arc<Mutex<HashMap<TaskId, u32>>>,
    pub(super) outcome: F,
}

impl<F> CountingHandler<F> {
    pub(super) fn new(outcome: F) -> Self {
        Self { runs: Arc::default(), outcome }
    }

    pub(super) fn run_count(&self, id: &TaskId) -> u32 {
        self.runs.lock().expect("not poisoned").get(id).copied().unwrap_or(0)
    }
}

#[async_trait]
impl<F: AttemptOutcome> Handler for CountingHandler<F> {
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        *self.runs.lock().expect("not poisoned").entry(attempt.task.id.clone()).or_default() += 1;
        self.outcome.produce(attempt).await
    }
}

#[async_trait]
pub(super) trait AttemptOutcome: Send + Sync {
    async fn produce(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure>;
}

/// Fails every attempt.
#[derive(Clone)]
pub(super) struct AlwaysFailing;

#[async_trait]
impl AttemptOutcome for AlwaysFailing {
    async fn produce(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        Err(TaskFailure::new(FailureKind::HandlerError, format!("failure {}", attempt.number)))
    }
}

/// Runs until `finish` is cancelled; ends at an interrupt only with `heeds_interrupt`.
#[derive(Clone)]
pub(super) struct WaitingAttempt {
    pub(super) finish: CancellationToken,
    heeds_interrupt: bool,
    pub(super) started: CancellationToken,
    pub(super) interrupted: Arc<AtomicUsize>,
}

impl WaitingAttempt {
    pub(super) fn new(heeds_interrupt: bool) -> Self {
        let (finish, started) = (CancellationToken::new(), CancellationToken::new());
        Self { finish, heeds_interrupt, started, interrupted: Arc::default() }
    }
}

#[async_trait]
impl AttemptOutcome for WaitingAttempt {
    async fn produce(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        self.started.cancel();
        tokio::select! {
            () = self.finish.cancelled() => Ok(TaskAnswer::from_json("\"waited\"")),
            why = attempt.await_interrupt(), if self.heeds_interrupt => {
                self.interrupted.fetch_add(1, Ordering::Relaxed);
                Err(attempt.interrupt_failure(why))
            }
        }
    }
}

/// Panics on the payload `"poison"`.
pub(super) struct PanickingOnPoison;

#[async_trait]
impl Handler for PanickingOnPoison {
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        assert!(attempt.task.payload != "\"poison\"", "poisoned by {}", attempt.task.payload.len());
        Ok(TaskAnswer::from_json("1"))
    }
}

/// Records how many attempts run at the same time.
#[derive(Clone, Default)]
pub(super) struct ConcurrencyMeter {
    running_now: Arc<AtomicUsize>,
    pub(super) running_max: Arc<AtomicUsize>,
}

#[async_trait]
impl AttemptOutcome for ConcurrencyMeter {
    async fn produce(&self, _: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        self.running_max
            .fetch_max(self.running_now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.running_now.fetch_sub(1, Ordering::Relaxed);
        Ok(TaskAnswer::from_json("1"))
    }
}
