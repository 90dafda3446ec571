//! A circuit breaker over the store, so that a store that is gone costs a request nothing.
//!
//! Closed: calls pass, each within `store.timeout`. The first outage opens it: calls fail at once, and a
//! probe each second closes it again. Tasks whose enqueue was never answered are cancelled on the way
//! back, before anybody may read: workers of this process ask [`Circuit::is_open`] first.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{StoreError, TaskStore};
use crate::task::TaskId;

const PROBE: Duration = Duration::from_secs(1);

/// A store behind a breaker; cheap to share.
pub struct Circuit {
    store: Arc<dyn TaskStore>,
    timeout: Duration,
    open: AtomicBool,
    reason: Mutex<Option<StoreError>>,
    cancels: Mutex<Vec<TaskId>>,
    closed: Notify,
    probed: tokio::sync::watch::Sender<bool>,
}

impl Circuit {
    /// A closed circuit over `store`, whose calls may take `timeout`.
    #[must_use]
    pub fn new(store: Arc<dyn TaskStore>, timeout: Duration) -> Self {
        Self {
            store,
            timeout,
            open: AtomicBool::new(false),
            reason: Mutex::default(),
            cancels: Mutex::default(),
            closed: Notify::new(),
            probed: tokio::sync::watch::Sender::new(false),
        }
    }

    /// The store itself, for calls that wait on purpose.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn TaskStore> {
        &self.store
    }

    /// Whether the store is gone.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Why it is open; none when it is closed.
    #[must_use]
    pub fn reason(&self) -> Option<StoreError> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes one call. An open circuit fails at once; a call that outlives `store.timeout` opens it and is
    /// [`StoreError::Unknown`].
    ///
    /// # Errors
    /// Those of the call.
    pub async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if let Some(reason) = self.is_open().then(|| self.reason()).flatten() {
            return Err(StoreError::Unreachable(reason.to_string()));
        }
        self.attempt(call).await
    }

    /// Makes one call whatever the state, under the same deadline.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn attempt<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = |_| Err(StoreError::Unknown(format!("no answer within {:?}", self.timeout)));
        let result = timeout(self.timeout, call).await.unwrap_or_else(late);
        if let Err(error) = &result
            && error.is_outage()
        {
            self.trip(error);
        }
        result
    }

    /// Has `id` cancelled when the store is back, before this process's workers read.
    pub fn cancel_later(&self, id: TaskId) {
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// Waits until the store has been asked once whether it is there.
    pub async fn probed(&self) {
        let _ = self.probed.subscribe().wait_for(|done| *done).await;
    }

    /// Waits until the circuit is closed.
    pub async fn closed(&self) {
        loop {
            let closed = self.closed.notified();
            if !self.is_open() {
                return;
            }
            closed.await;
        }
    }

    /// Probes the store each second, until `shutdown`. `ttl` is how long the cancelled tasks can be read.
    pub async fn run(&self, ttl: Duration, shutdown: CancellationToken) {
        let mut ticks = interval(PROBE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            if self.attempt(self.store.ping()).await.is_ok() && self.send_cancels(ttl).await {
                self.close();
            }
            self.probed.send_replace(true);
        }
    }

    fn trip(&self, error: &StoreError) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        if !self.open.swap(true, Ordering::AcqRel) {
            tracing::warn!(%error, "store circuit opened: requests are served sync");
        }
    }

    fn close(&self) {
        if self.open.swap(false, Ordering::AcqRel) {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = None;
            tracing::info!("store circuit closed: the async path is back");
        }
        self.closed.notify_waiters();
    }

    async fn send_cancels(&self, ttl: Duration) -> bool {
        let waiting = std::mem::take(&mut *self.cancels.lock().unwrap_or_else(PoisonError::into_inner));
        let mut unsent = waiting.into_iter();
        while let Some(id) = unsent.next() {
            if self.attempt(self.store.cancel(&id, ttl)).await.is_err() {
                self.cancels.lock().unwrap_or_else(PoisonError::into_inner).extend(std::iter::once(id).chain(unsent));
                return false;
            }
        }
        true
    }
}
