//! A circuit breaker in front of the store, so that an unreachable store does not delay requests.
//!
//! Closed: calls pass, each limited to `store.timeout`; large writes have a lane and a time limit
//! of their own, which opens nothing. The first outage opens the circuit: calls
//! fail at once, and a probe each second closes the circuit again, unless another call failed since
//! the probe began. A task whose enqueue was never answered is cancelled when the store is back,
//! before this process runs any task: the pending cancel is recorded together with the outage, the
//! circuit closes only when no cancel is pending, and workers run leased tasks only while
//! [`Circuit::is_clear_to_run`].

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::error::{StoreError, StoreRefusal};
use super::large_write_lane::{LARGE_WRITE_BYTES, LargeWriteLane, MAX_LANE_WAIT, extra_write_time};
use super::lease::{Lease, SettleResult, Settlement};
use super::queue::TopicQueue;
use super::task_store::TaskStore;
use super::wait::TaskWatchers;
use crate::task::{Task, TaskId};

/// How often the store is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A store behind a circuit breaker.
pub struct Circuit {
    store: Arc<dyn TaskStore>,
    call_timeout: Duration,
    large_writes: LargeWriteLane,
    /// Written under the lock of `state`.
    open_flag: AtomicBool,
    state: Mutex<CircuitState>,
    closed_notify: Notify,
    task_watchers: Arc<TaskWatchers>,
    first_probe_done: tokio::sync::watch::Sender<bool>,
}

#[derive(Default)]
struct CircuitState {
    /// Why the circuit is open; none when closed.
    open_reason: Option<StoreError>,
    /// Failed calls so far. A probe closes the circuit only if none was added while it ran.
    outage_count: u64,
    /// Tasks to cancel; each stays in the queue until the store has confirmed.
    pending_cancels: VecDeque<TaskId>,
    /// Whether the cancel of the first task in the queue is being sent.
    cancel_in_flight: bool,
}

impl Circuit {
    /// A closed circuit in front of `store`, whose calls may take `call_timeout`.
    #[must_use]
    pub fn new(store: Arc<dyn TaskStore>, call_timeout: Duration) -> Self {
        Self {
            store,
            call_timeout,
            large_writes: LargeWriteLane::default(),
            open_flag: AtomicBool::new(false),
            state: Mutex::default(),
            closed_notify: Notify::new(),
            task_watchers: Arc::default(),
            first_probe_done: tokio::sync::watch::Sender::new(false),
        }
    }

    /// The store itself, for calls that wait on purpose, such as `lease`.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn TaskStore> {
        &self.store
    }

    /// The registry of this process's task watchers.
    #[must_use]
    pub fn task_watchers(&self) -> &Arc<TaskWatchers> {
        &self.task_watchers
    }

    /// Whether the store is unreachable, so that calls fail at once.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open_flag.load(Ordering::Acquire)
    }

    /// The error that opened the circuit; none when it is closed.
    #[must_use]
    pub fn open_reason(&self) -> Option<StoreError> {
        self.lock_state().open_reason.clone()
    }

    /// How many calls found the store unreachable so far. A changed number means an outage between
    /// two reads.
    #[must_use]
    pub fn outage_count(&self) -> u64 {
        self.lock_state().outage_count
    }

    /// Whether this process may run the tasks that it has leased: the circuit is closed, and no
    /// cancel is pending.
    #[must_use]
    pub fn is_clear_to_run(&self) -> bool {
        !self.is_open() && self.lock_state().pending_cancels.is_empty()
    }

    /// Makes one call. An open circuit fails at once. A call that takes longer than `store.timeout`
    /// opens the circuit and fails with [`StoreError::OutcomeUnknown`].
    ///
    /// # Errors
    /// The error of `call`.
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

    /// Makes a task durable, like [`Self::call`]. If the outcome stays unknown, the task's cancel
    /// is pending from the moment that the circuit opens; [`Self::withdraw_cancel`] undoes that. A
    /// large task waits for its turn in a lane; that of a canaried request, which could be served
    /// sync, waits no longer than a small call.
    ///
    /// # Errors
    /// The error of the enqueue; [`StoreError::Unreachable`] while the circuit is open, and
    /// [`StoreRefusal::LargeWritesBusy`] if the turn did not come.
    pub async fn enqueue(&self, task: &Task, queue: &TopicQueue) -> Result<(), StoreError> {
        self.check_closed()?;
        let (bytes, call) = (task.input_bytes(), self.store.enqueue(task, queue));
        if bytes < LARGE_WRITE_BYTES {
            return self.call_recording_outage(call, Some(&task.id)).await;
        }
        let max_wait = if task.route.is_some() { self.call_timeout } else { MAX_LANE_WAIT };
        self.write_in_lane(bytes, max_wait, call, Some(&task.id)).await
    }

    /// Settles a lease, like [`Self::call`]; a large result waits for its turn in the lane.
    ///
    /// # Errors
    /// Those of the store, and [`StoreRefusal::LargeWritesBusy`].
    pub async fn settle(
        &self,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<SettleResult, StoreError> {
        self.check_closed()?;
        let (bytes, call) = (settlement.answer_bytes(), self.store.settle(lease, settlement));
        if bytes < LARGE_WRITE_BYTES {
            return self.call_even_if_open(call).await;
        }
        self.write_in_lane(bytes, MAX_LANE_WAIT, call, None).await
    }

    /// Makes a large write when its turn comes. That it takes too long is no outage: only the
    /// cancel of `enqueued` is pending then.
    async fn write_in_lane<T>(
        &self,
        bytes: usize,
        max_wait: Duration,
        call: impl Future<Output = Result<T, StoreError>>,
        enqueued: Option<&TaskId>,
    ) -> Result<T, StoreError> {
        let Ok(Some(_permit)) = timeout(max_wait, self.large_writes.enter(bytes)).await else {
            return Err(StoreRefusal::LargeWritesBusy.into());
        };
        self.check_closed()?;
        let limit = self.call_timeout + extra_write_time(bytes);
        if let Ok(result) = timeout(limit, call).await {
            return self.note_outage(result, enqueued);
        }
        if let Some(id) = enqueued {
            self.cancel_on_recovery(id.clone());
        }
        let what = format!("a write of {} MiB had no answer within {limit:?}", bytes >> 20);
        tracing::warn!("{what}: the circuit stays as it is");
        Err(StoreError::OutcomeUnknown(what))
    }

    /// Makes one call even while the circuit is open, with the same time limit.
    ///
    /// # Errors
    /// The error of `call`.
    pub async fn call_even_if_open<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.call_recording_outage(call, None).await
    }

    /// Makes one call and opens the circuit on an outage. If the outcome is unknown, the cancel of
    /// `enqueued` is pending from the same moment.
    async fn call_recording_outage<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
        enqueued: Option<&TaskId>,
    ) -> Result<T, StoreError> {
        let result = self.await_with_timeout(call).await;
        self.note_outage(result, enqueued)
    }

    /// Opens the circuit where the result of a call is an outage.
    fn note_outage<T>(
        &self,
        result: Result<T, StoreError>,
        enqueued: Option<&TaskId>,
    ) -> Result<T, StoreError> {
        if let Err(error) = &result
            && error.is_outage()
        {
            let outcome_unknown = matches!(error, StoreError::OutcomeUnknown(_));
            self.record_outage(error, enqueued.filter(|_| outcome_unknown).cloned());
        }
        result
    }

    async fn await_with_timeout<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let limit = self.call_timeout + self.large_writes.delay_of_small_calls();
        let timed_out = |_| Err(StoreError::OutcomeUnknown(format!("no answer within {limit:?}")));
        timeout(limit, call).await.unwrap_or_else(timed_out)
    }

    /// Adds a pending cancel: task `id` is cancelled when the store is back, before this process's
    /// workers lease.
    pub fn cancel_on_recovery(&self, id: TaskId) {
        self.lock_state().pending_cancels.push_back(id);
    }

    /// Removes the pending cancel of task `id`, which turned out to be stored. False when there is
    /// none, or when the cancel is being sent already.
    #[must_use]
    pub fn withdraw_cancel(&self, id: &TaskId) -> bool {
        let mut state = self.lock_state();
        let Some(at) = state.pending_cancels.iter().position(|pending| pending == id) else {
            return false;
        };
        let withdrawn = at > 0 || !state.cancel_in_flight;
        if withdrawn {
            state.pending_cancels.remove(at);
        }
        withdrawn
    }

    /// Waits until the first probe of the store has ended, whatever its result.
    pub async fn wait_for_first_probe(&self) {
        let _ = self.first_probe_done.subscribe().wait_for(|done| *done).await;
    }

    /// Waits until [`Self::is_clear_to_run`].
    pub async fn wait_until_clear_to_run(&self) {
        loop {
            let closed = self.closed_notify.notified();
            if self.is_clear_to_run() {
                return;
            }
            closed.await;
        }
    }

    /// Probes the store each second and reads the watched tasks, until `shutdown`. The records of
    /// tasks that a pending cancel ends are kept for `ttl`.
    pub async fn run(&self, ttl: Duration, shutdown: CancellationToken) {
        let look_up = |ids: Vec<TaskId>| async move { self.call(self.store.statuses(&ids)).await };
        tokio::join!(
            self.run_probes(ttl, &shutdown),
            shutdown.run_until_cancelled(self.task_watchers.poll_watched_tasks(look_up))
        );
    }

    async fn run_probes(&self, ttl: Duration, shutdown: &CancellationToken) {
        let mut ticks = interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let outages_before = self.outage_count();
            if self.call_even_if_open(self.store.ping()).await.is_ok()
                && self.send_pending_cancels(ttl).await
            {
                self.close_after_probe(outages_before);
            }
            self.first_probe_done.send_replace(true);
        }
    }

    /// Opens the circuit. The cancel of `task_in_doubt` must be sent before it can close again.
    fn record_outage(&self, error: &StoreError, task_in_doubt: Option<TaskId>) {
        let mut state = self.lock_state();
        state.pending_cancels.extend(task_in_doubt);
        state.outage_count += 1;
        state.open_reason = Some(error.clone());
        if !self.open_flag.swap(true, Ordering::AcqRel) {
            tracing::warn!(%error, "store circuit opened: requests are served sync");
        }
    }

    /// Closes the circuit after a successful probe that began after `outages_before` outages,
    /// unless an outage or a pending cancel was added since: then the next probe tries again.
    fn close_after_probe(&self, outages_before: u64) {
        let mut state = self.lock_state();
        if state.outage_count != outages_before || !state.pending_cancels.is_empty() {
            return;
        }
        state.open_reason = None;
        if self.open_flag.swap(false, Ordering::AcqRel) {
            tracing::info!("store circuit closed: the async path is back");
        }
        drop(state);
        self.closed_notify.notify_waiters();
    }

    /// Sends all pending cancels; false when one of them failed.
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

    /// The task to cancel next; from now on its cancel cannot be withdrawn.
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
mod tests;
