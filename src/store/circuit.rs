//! A circuit breaker over the store, so that a store that is gone costs a request nothing.
//!
//! Closed: calls pass, each within `store.timeout`. The first outage opens it: calls fail at once,
//! and a probe each second closes it again, unless a call failed since that probe began. Tasks
//! whose enqueue was never answered are cancelled on the way back, before this process runs
//! anything: that is noted with the outage itself, it is closed only when no cancel waits, and
//! workers run what they leased only while it [`Circuit::is_clear_to_run`].

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{StoreError, TaskStore, TaskWatchers, TopicQueue};
use crate::task::{Task, TaskId};

const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A store behind a breaker; cheap to share.
pub struct Circuit {
    store: Arc<dyn TaskStore>,
    call_timeout: Duration,
    /// Written under the lock of `state`.
    open_flag: AtomicBool,
    state: Mutex<CircuitState>,
    closed_notify: Notify,
    task_watchers: Arc<TaskWatchers>,
    first_probe_done: tokio::sync::watch::Sender<bool>,
}

#[derive(Default)]
struct CircuitState {
    /// Why it is open.
    open_reason: Option<StoreError>,
    /// Outages so far: which of them a probe came after.
    outage_count: u64,
    /// Tasks to cancel; one stays here until that is done.
    pending_cancels: VecDeque<TaskId>,
    /// Whether the first of them is being sent.
    cancel_in_flight: bool,
}

impl Circuit {
    /// A closed circuit over `store`, whose calls may take `timeout`.
    #[must_use]
    pub fn new(store: Arc<dyn TaskStore>, call_timeout: Duration) -> Self {
        Self {
            store,
            call_timeout,
            open_flag: AtomicBool::new(false),
            state: Mutex::default(),
            closed_notify: Notify::new(),
            task_watchers: Arc::default(),
            first_probe_done: tokio::sync::watch::Sender::new(false),
        }
    }

    /// The store itself, for calls that wait on purpose.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn TaskStore> {
        &self.store
    }

    /// Those who watch tasks in this process.
    #[must_use]
    pub fn task_watchers(&self) -> &Arc<TaskWatchers> {
        &self.task_watchers
    }

    /// Whether the store is gone.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open_flag.load(Ordering::Acquire)
    }

    /// Why it is open; none when it is closed.
    #[must_use]
    pub fn open_reason(&self) -> Option<StoreError> {
        self.lock_state().open_reason.clone()
    }

    /// How many calls found the store gone so far: another number means an outage in between.
    #[must_use]
    pub fn outage_count(&self) -> u64 {
        self.lock_state().outage_count
    }

    /// Whether what this process leased may run: the store is there, and no task waits to be
    /// cancelled.
    #[must_use]
    pub fn is_clear_to_run(&self) -> bool {
        !self.is_open() && self.lock_state().pending_cancels.is_empty()
    }

    /// Makes one call. An open circuit fails at once; a call that outlives `store.timeout` opens it
    /// and is [`StoreError::OutcomeUnknown`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.check_closed()?;
        self.call_even_if_open(call).await
    }

    fn check_closed(&self) -> Result<(), StoreError> {
        match self.is_open().then(|| self.open_reason()).flatten() {
            Some(reason) => Err(StoreError::Unreachable(reason.to_string())),
            None => Ok(()),
        }
    }

    /// Makes a task durable, as [`Self::call`] would. One whose fate stays unknown is to be
    /// cancelled, from the moment that the circuit opens for it; [`Self::withdraw_cancel`]
    /// takes that back.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn enqueue(&self, task: &Task, queue: &TopicQueue) -> Result<(), StoreError> {
        self.check_closed()?;
        let result = self.await_with_timeout(self.store.enqueue(task, queue)).await;
        if let Err(error) = &result
            && error.is_outage()
        {
            let in_doubt = matches!(error, StoreError::OutcomeUnknown(_)).then(|| task.id.clone());
            self.record_outage(error, in_doubt);
        }
        result
    }

    /// Makes one call whatever the state, under the same deadline.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn call_even_if_open<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = self.await_with_timeout(call).await;
        if let Err(error) = &result
            && error.is_outage()
        {
            self.record_outage(error, None);
        }
        result
    }

    async fn await_with_timeout<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let late = |_| {
            Err(StoreError::OutcomeUnknown(format!("no answer within {:?}", self.call_timeout)))
        };
        timeout(self.call_timeout, call).await.unwrap_or_else(late)
    }

    /// Has `id` cancelled when the store is back, before this process's workers read.
    pub fn cancel_on_recovery(&self, id: TaskId) {
        self.lock_state().pending_cancels.push_back(id);
    }

    /// Takes back that `id` is to be cancelled: it turned out to be there. False when it is too
    /// late for that.
    #[must_use]
    pub fn withdraw_cancel(&self, id: &TaskId) -> bool {
        let mut state = self.lock_state();
        let Some(at) = state.pending_cancels.iter().position(|waiting| waiting == id) else {
            return false;
        };
        let kept = at > 0 || !state.cancel_in_flight;
        if kept {
            state.pending_cancels.remove(at);
        }
        kept
    }

    /// Waits until the store has been asked once whether it is there.
    pub async fn wait_for_first_probe(&self) {
        let _ = self.first_probe_done.subscribe().wait_for(|done| *done).await;
    }

    /// Waits until it [`Self::is_clear_to_run`].
    pub async fn wait_until_clear_to_run(&self) {
        loop {
            let probed_well = self.closed_notify.notified();
            if self.is_clear_to_run() {
                return;
            }
            probed_well.await;
        }
    }

    /// Probes the store each second and looks at watched tasks, until `shutdown`. `ttl` is how long
    /// the cancelled tasks can be read.
    pub async fn run(&self, ttl: Duration, shutdown: CancellationToken) {
        tokio::join!(
            self.run_probes(ttl, &shutdown),
            shutdown.run_until_cancelled(self.task_watchers.poll_watched_tasks(self))
        );
    }

    async fn run_probes(&self, ttl: Duration, shutdown: &CancellationToken) {
        let mut ticks = interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let trips = self.outage_count();
            if self.call_even_if_open(self.store.ping()).await.is_ok()
                && self.send_pending_cancels(ttl).await
            {
                self.close_after_probe(trips);
            }
            self.first_probe_done.send_replace(true);
        }
    }

    /// Opens it; a task `in_doubt` is to be cancelled before it can close again.
    fn record_outage(&self, error: &StoreError, in_doubt: Option<TaskId>) {
        let mut state = self.lock_state();
        state.pending_cancels.extend(in_doubt);
        state.outage_count += 1;
        state.open_reason = Some(error.clone());
        if !self.open_flag.swap(true, Ordering::AcqRel) {
            tracing::warn!(%error, "store circuit opened: requests are served sync");
        }
    }

    /// Closes it after a good probe that began after `trips` outages; not over a later one, nor
    /// over a cancel that came meanwhile: the next probe looks again.
    fn close_after_probe(&self, trips: u64) {
        let mut state = self.lock_state();
        if state.outage_count != trips || !state.pending_cancels.is_empty() {
            return;
        }
        state.open_reason = None;
        if self.open_flag.swap(false, Ordering::AcqRel) {
            tracing::info!("store circuit closed: the async path is back");
        }
        drop(state);
        self.closed_notify.notify_waiters();
    }

    /// Cancels what waits for it; false when that was cut short.
    async fn send_pending_cancels(&self, ttl: Duration) -> bool {
        loop {
            let Some(id) = self.begin_next_cancel() else { return true };
            let sent = self.call_even_if_open(self.store.cancel(&id, ttl)).await.is_ok();
            let mut state = self.lock_state();
            state.cancel_in_flight = false;
            if !sent {
                return false;
            }
            state.pending_cancels.pop_front();
        }
    }

    /// The task to be cancelled next, which can be kept no more.
    fn begin_next_cancel(&self) -> Option<TaskId> {
        let mut state = self.lock_state();
        let first = state.pending_cancels.front().cloned();
        state.cancel_in_flight = first.is_some();
        first
    }

    fn lock_state(&self) -> MutexGuard<'_, CircuitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::FaultyStore;
    use crate::store::{SqliteStore, TopicQueue};
    use crate::task::{Task, TaskStatus, Topic, UnixMs};

    const TTL: Duration = Duration::from_hours(1);

    fn open_test_circuit(dir: &tempfile::TempDir) -> (Arc<FaultyStore>, Arc<Circuit>) {
        let sqlite = SqliteStore::open(&dir.path().join("tasks.db")).expect("opened");
        let store = Arc::new(FaultyStore::new(Arc::new(sqlite)));
        let circuit =
            Circuit::new(Arc::clone(&store) as Arc<dyn TaskStore>, Duration::from_secs(10));
        (store, Arc::new(circuit))
    }

    async fn enqueue_test_task(store: &FaultyStore) -> TaskId {
        let topic = Topic::parse("t").expect("a topic");
        let queue = TopicQueue::with_default_settings(topic.clone(), "omnidaemon");
        let task = Task::new(TaskId::new(UnixMs(1), rand::random()), topic, "{}", UnixMs(1));
        store.store.enqueue(&task, &queue).await.expect("enqueued");
        task.id
    }

    async fn load_status(store: &FaultyStore, id: &TaskId) -> TaskStatus {
        store.store.get_task(id).await.expect("read").expect("known").status
    }

    fn unreachable_error() -> StoreError {
        StoreError::Unreachable("connection refused".into())
    }

    #[tokio::test]
    async fn an_outage_during_a_probe_is_not_wiped_out_by_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_store, circuit) = open_test_circuit(&dir);
        circuit.record_outage(&unreachable_error(), None);
        let probed_after = circuit.lock_state().outage_count;
        circuit.record_outage(&StoreError::OutcomeUnknown("connection reset".into()), None);
        circuit.close_after_probe(probed_after);
        assert!(circuit.is_open());
        assert!(
            circuit
                .open_reason()
                .is_some_and(|reason| reason.to_string().contains("connection reset"))
        );
        circuit.close_after_probe(probed_after + 1);
        assert!(!circuit.is_open() && circuit.open_reason().is_none());
    }

    #[tokio::test]
    async fn a_cancel_that_comes_while_others_are_sent_is_sent_before_it_closes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, circuit) = open_test_circuit(&dir);
        let late = enqueue_test_task(&store).await;
        circuit.record_outage(&unreachable_error(), None);
        assert!(circuit.send_pending_cancels(TTL).await);
        circuit.cancel_on_recovery(late.clone());
        circuit.close_after_probe(1);
        assert!(circuit.is_open());
        assert!(circuit.send_pending_cancels(TTL).await);
        circuit.close_after_probe(1);
        assert!(circuit.is_clear_to_run());
        assert_eq!(load_status(&store, &late).await, TaskStatus::Cancelled);
    }

    #[tokio::test]
    async fn a_cancel_that_fails_is_kept_and_it_stays_open_until_all_are_sent() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, circuit) = open_test_circuit(&dir);
        let ids = [enqueue_test_task(&store).await, enqueue_test_task(&store).await];
        store.is_down.store(true, Ordering::Relaxed);
        assert!(circuit.call(store.ping()).await.is_err() && circuit.is_open());
        for id in &ids {
            circuit.cancel_on_recovery(id.clone());
        }
        assert!(!circuit.send_pending_cancels(TTL).await);
        let shutdown = CancellationToken::new();
        let (probing, stop) = (Arc::clone(&circuit), shutdown.clone());
        let probes = tokio::spawn(async move { probing.run(TTL, stop).await });
        store.is_down.store(false, Ordering::Relaxed);
        circuit.wait_until_clear_to_run().await;
        for id in &ids {
            assert_eq!(load_status(&store, id).await, TaskStatus::Cancelled);
        }
        shutdown.cancel();
        probes.await.expect("joined");
    }

    #[tokio::test]
    async fn a_task_in_doubt_is_to_be_cancelled_from_the_outage_on_unless_it_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, circuit) = open_test_circuit(&dir);
        let [doubtful, kept] = [enqueue_test_task(&store).await, enqueue_test_task(&store).await];
        for id in [&doubtful, &kept] {
            circuit.record_outage(
                &StoreError::OutcomeUnknown("connection reset".into()),
                Some(id.clone()),
            );
        }
        circuit.close_after_probe(2);
        assert!(circuit.is_open(), "no probe closes it in between");
        assert!(circuit.withdraw_cancel(&kept) && !circuit.withdraw_cancel(&kept));
        assert!(circuit.begin_next_cancel().is_some_and(|first| first == doubtful));
        assert!(!circuit.withdraw_cancel(&doubtful), "it is being sent");
        assert!(circuit.send_pending_cancels(TTL).await);
        circuit.close_after_probe(2);
        assert!(circuit.is_clear_to_run());
        assert_eq!(
            (load_status(&store, &doubtful).await, load_status(&store, &kept).await),
            (TaskStatus::Cancelled, TaskStatus::Queued)
        );
    }

    #[test]
    fn a_cancel_that_waits_holds_the_workers_back_although_it_is_closed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_store, circuit) = open_test_circuit(&dir);
        assert!(circuit.is_clear_to_run());
        circuit.cancel_on_recovery(TaskId::new(UnixMs(1), 1));
        assert!(!circuit.is_open() && !circuit.is_clear_to_run());
    }
}
