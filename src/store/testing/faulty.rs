//! A real store behind a faulty connection: it can be unreachable, and its answers can get lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::intercept::{InterceptedStore, StoreInterceptor};
use crate::store::{StoreError, TaskStore};

/// A store with faults that a test switches on.
pub(crate) type FaultyStore = InterceptedStore<StoreFaults>;

/// The faults, and what was called.
#[derive(Default)]
pub(crate) struct StoreFaults {
    /// Every call fails as unreachable.
    pub(crate) is_down: AtomicBool,
    /// The number of next settlements that are applied and not answered.
    pub(crate) settle_answers_to_lose: AtomicUsize,
    /// Renewals that were answered.
    pub(crate) renewal_count: AtomicUsize,
    /// The names of the calls since the last failed one, in order.
    pub(crate) call_log: Mutex<Vec<&'static str>>,
}

impl FaultyStore {
    pub(crate) fn new(store: Arc<dyn TaskStore>) -> Self {
        Self { store, interceptor: StoreFaults::default() }
    }
}

#[async_trait]
impl StoreInterceptor for StoreFaults {
    async fn before_call(&self, call: &'static str) -> Result<(), StoreError> {
        let mut calls = self.call_log.lock().expect("not poisoned");
        if self.is_down.load(Ordering::Relaxed) {
            calls.clear();
            return Err(StoreError::Unreachable("connection refused".into()));
        }
        if !call.contains("deliver") {
            calls.push(call); // deliveries run concurrently with the rest: their order is random
        }
        Ok(())
    }

    async fn after_call(&self, call: &'static str) -> Result<(), StoreError> {
        if call == "renew" {
            self.renewal_count.fetch_add(1, Ordering::Relaxed);
        }
        let decrement = |left: usize| left.checked_sub(1);
        if call == "settle"
            && self
                .settle_answers_to_lose
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, decrement)
                .is_ok()
        {
            return Err(StoreError::OutcomeUnknown("connection reset".into()));
        }
        Ok(())
    }
}
