//! A circuit breaker over the store, so that a store that is gone costs a request nothing.
//!
//! Closed: calls pass, each within `store.timeout`. The first outage opens it: calls fail at once, and a
//! probe each second closes it again, unless a call failed since that probe began. Tasks whose enqueue was never
//! answered are cancelled on the way back, before this process runs anything: that is noted with the outage itself, it
//! is closed only when no cancel waits, and workers run what they leased only while it [`Circuit::is_clear`].

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{Queue, StoreError, TaskStore, Watchers};
use crate::task::{Task, TaskId};

const PROBE: Duration = Duration::from_secs(1);

/// A store behind a breaker; cheap to share.
pub struct Circuit {
    store: Arc<dyn TaskStore>,
    timeout: Duration,
    /// Written under the lock of `state`.
    open: AtomicBool,
    state: Mutex<State>,
    probed_well: Notify,
    watchers: Arc<Watchers>,
    probed: tokio::sync::watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// Why it is open.
    reason: Option<StoreError>,
    /// Outages so far: which of them a probe came after.
    trips: u64,
    /// Tasks to cancel; one stays here until that is done.
    cancels: VecDeque<TaskId>,
    /// Whether the first of them is being sent.
    sending: bool,
}

impl Circuit {
    /// A closed circuit over `store`, whose calls may take `timeout`.
    #[must_use]
    pub fn new(store: Arc<dyn TaskStore>, timeout: Duration) -> Self {
        Self {
            store,
            timeout,
            open: AtomicBool::new(false),
            state: Mutex::default(),
            probed_well: Notify::new(),
            watchers: Arc::default(),
            probed: tokio::sync::watch::Sender::new(false),
        }
    }

    /// The store itself, for calls that wait on purpose.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn TaskStore> {
        &self.store
    }

    /// Those who watch tasks in this process.
    #[must_use]
    pub fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    /// Whether the store is gone.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Why it is open; none when it is closed.
    #[must_use]
    pub fn reason(&self) -> Option<StoreError> {
        self.state().reason.clone()
    }

    /// How many calls found the store gone so far: another number means an outage in between.
    #[must_use]
    pub fn outages(&self) -> u64 {
        self.state().trips
    }

    /// Whether what this process leased may run: the store is there, and no task waits to be cancelled.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        !self.is_open() && self.state().cancels.is_empty()
    }

    /// Makes one call. An open circuit fails at once; a call that outlives `store.timeout` opens it and is
    /// [`StoreError::Unknown`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.check()?;
        self.attempt(call).await
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.is_open().then(|| self.reason()).flatten() {
            Some(reason) => Err(StoreError::Unreachable(reason.to_string())),
            None => Ok(()),
        }
    }

    /// Makes a task durable, as [`Self::call`] would. One whose fate stays unknown is to be cancelled, from the moment
    /// that the circuit opens for it; [`Self::keep`] takes that back.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn enqueue(&self, task: &Task, queue: &Queue) -> Result<(), StoreError> {
        self.check()?;
        let result = self.answer(self.store.enqueue(task, queue)).await;
        if let Err(error) = &result
            && error.is_outage()
        {
            let in_doubt = matches!(error, StoreError::Unknown(_)).then(|| task.id.clone());
            self.trip(error, in_doubt);
        }
        result
    }

    /// Makes one call whatever the state, under the same deadline.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn attempt<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let result = self.answer(call).await;
        if let Err(error) = &result
            && error.is_outage()
        {
            self.trip(error, None);
        }
        result
    }

    async fn answer<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = |_| Err(StoreError::Unknown(format!("no answer within {:?}", self.timeout)));
        timeout(self.timeout, call).await.unwrap_or_else(late)
    }

    /// Has `id` cancelled when the store is back, before this process's workers read.
    pub fn cancel_later(&self, id: TaskId) {
        self.state().cancels.push_back(id);
    }

    /// Takes back that `id` is to be cancelled: it turned out to be there. False when it is too late for that.
    #[must_use]
    pub fn keep(&self, id: &TaskId) -> bool {
        let mut state = self.state();
        let Some(at) = state.cancels.iter().position(|waiting| waiting == id) else { return false };
        let kept = at > 0 || !state.sending;
        if kept {
            state.cancels.remove(at);
        }
        kept
    }

    /// Waits until the store has been asked once whether it is there.
    pub async fn probed(&self) {
        let _ = self.probed.subscribe().wait_for(|done| *done).await;
    }

    /// Waits until it [`Self::is_clear`].
    pub async fn clear(&self) {
        loop {
            let probed_well = self.probed_well.notified();
            if self.is_clear() {
                return;
            }
            probed_well.await;
        }
    }

    /// Probes the store each second and looks at watched tasks, until `shutdown`. `ttl` is how long the cancelled tasks
    /// can be read.
    pub async fn run(&self, ttl: Duration, shutdown: CancellationToken) {
        tokio::join!(self.probe(ttl, &shutdown), shutdown.run_until_cancelled(self.watchers.run(self)));
    }

    async fn probe(&self, ttl: Duration, shutdown: &CancellationToken) {
        let mut ticks = interval(PROBE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let trips = self.outages();
            if self.attempt(self.store.ping()).await.is_ok() && self.send_cancels(ttl).await {
                self.close(trips);
            }
            self.probed.send_replace(true);
        }
    }

    /// Opens it; a task `in_doubt` is to be cancelled before it can close again.
    fn trip(&self, error: &StoreError, in_doubt: Option<TaskId>) {
        let mut state = self.state();
        state.cancels.extend(in_doubt);
        state.trips += 1;
        state.reason = Some(error.clone());
        if !self.open.swap(true, Ordering::AcqRel) {
            tracing::warn!(%error, "store circuit opened: requests are served sync");
        }
    }

    /// Closes it after a good probe that began after `trips` outages; not over a later one, nor over a cancel
    /// that came meanwhile: the next probe looks again.
    fn close(&self, trips: u64) {
        let mut state = self.state();
        if state.trips != trips || !state.cancels.is_empty() {
            return;
        }
        state.reason = None;
        if self.open.swap(false, Ordering::AcqRel) {
            tracing::info!("store circuit closed: the async path is back");
        }
        drop(state);
        self.probed_well.notify_waiters();
    }

    /// Cancels what waits for it; false when that was cut short.
    async fn send_cancels(&self, ttl: Duration) -> bool {
        loop {
            let Some(id) = self.first_cancel() else { return true };
            let sent = self.attempt(self.store.cancel(&id, ttl)).await.is_ok();
            let mut state = self.state();
            state.sending = false;
            if !sent {
                return false;
            }
            state.cancels.pop_front();
        }
    }

    /// The task to be cancelled next, which can be kept no more.
    fn first_cancel(&self) -> Option<TaskId> {
        let mut state = self.state();
        let first = state.cancels.front().cloned();
        state.sending = first.is_some();
        first
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::Faulty;
    use crate::store::{Queue, SqliteStore};
    use crate::task::{Status, Task, Topic, UnixMs};

    const TTL: Duration = Duration::from_hours(1);

    fn circuit(dir: &tempfile::TempDir) -> (Arc<Faulty>, Arc<Circuit>) {
        let sqlite = SqliteStore::open(&dir.path().join("tasks.db")).expect("opened");
        let store = Arc::new(Faulty::new(Arc::new(sqlite)));
        let circuit = Circuit::new(Arc::clone(&store) as Arc<dyn TaskStore>, Duration::from_secs(10));
        (store, Arc::new(circuit))
    }

    async fn enqueued(store: &Faulty) -> TaskId {
        let topic = Topic::parse("t").expect("a topic");
        let queue = Queue::with_defaults(topic.clone(), "omnidaemon");
        let task = Task::new(TaskId::new(UnixMs(1), rand::random()), topic, "{}", UnixMs(1));
        store.store.enqueue(&task, &queue).await.expect("enqueued");
        task.id
    }

    async fn status(store: &Faulty, id: &TaskId) -> Status {
        store.store.get(id).await.expect("read").expect("known").status
    }

    fn gone() -> StoreError {
        StoreError::Unreachable("connection refused".into())
    }

    #[tokio::test]
    async fn an_outage_during_a_probe_is_not_wiped_out_by_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_store, circuit) = circuit(&dir);
        circuit.trip(&gone(), None);
        let probed_after = circuit.state().trips;
        circuit.trip(&StoreError::Unknown("connection reset".into()), None);
        circuit.close(probed_after);
        assert!(circuit.is_open());
        assert!(circuit.reason().is_some_and(|reason| reason.to_string().contains("connection reset")));
        circuit.close(probed_after + 1);
        assert!(!circuit.is_open() && circuit.reason().is_none());
    }

    #[tokio::test]
    async fn a_cancel_that_comes_while_others_are_sent_is_sent_before_it_closes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, circuit) = circuit(&dir);
        let late = enqueued(&store).await;
        circuit.trip(&gone(), None);
        assert!(circuit.send_cancels(TTL).await);
        circuit.cancel_later(late.clone());
        circuit.close(1);
        assert!(circuit.is_open());
        assert!(circuit.send_cancels(TTL).await);
        circuit.close(1);
        assert!(circuit.is_clear());
        assert_eq!(status(&store, &late).await, Status::Cancelled);
    }

    #[tokio::test]
    async fn a_cancel_that_fails_is_kept_and_it_stays_open_until_all_are_sent() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, circuit) = circuit(&dir);
        let ids = [enqueued(&store).await, enqueued(&store).await];
        store.down.store(true, Ordering::Relaxed);
        assert!(circuit.call(store.ping()).await.is_err() && circuit.is_open());
        for id in &ids {
            circuit.cancel_later(id.clone());
        }
        assert!(!circuit.send_cancels(TTL).await);
        let shutdown = CancellationToken::new();
        let (probing, stop) = (Arc::clone(&circuit), shutdown.clone());
        let probes = tokio::spawn(async move { probing.run(TTL, stop).await });
        store.down.store(false, Ordering::Relaxed);
        circuit.clear().await;
        for id in &ids {
            assert_eq!(status(&store, id).await, Status::Cancelled);
        }
        shutdown.cancel();
        probes.await.expect("joined");
    }

    #[tokio::test]
    async fn a_task_in_doubt_is_to_be_cancelled_from_the_outage_on_unless_it_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, circuit) = circuit(&dir);
        let [doubtful, kept] = [enqueued(&store).await, enqueued(&store).await];
        for id in [&doubtful, &kept] {
            circuit.trip(&StoreError::Unknown("connection reset".into()), Some(id.clone()));
        }
        circuit.close(2);
        assert!(circuit.is_open(), "no probe closes it in between");
        assert!(circuit.keep(&kept) && !circuit.keep(&kept));
        assert!(circuit.first_cancel().is_some_and(|first| first == doubtful));
        assert!(!circuit.keep(&doubtful), "it is being sent");
        assert!(circuit.send_cancels(TTL).await);
        circuit.close(2);
        assert!(circuit.is_clear());
        assert_eq!((status(&store, &doubtful).await, status(&store, &kept).await), (Status::Cancelled, Status::Queued));
    }

    #[test]
    fn a_cancel_that_waits_holds_the_workers_back_although_it_is_closed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_store, circuit) = circuit(&dir);
        assert!(circuit.is_clear());
        circuit.cancel_later(TaskId::new(UnixMs(1), 1));
        assert!(!circuit.is_open() && !circuit.is_clear());
    }
}
