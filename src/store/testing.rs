//! A real store behind a bad connection: it can be down, and its answers can get lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::around::{InterceptedStore, StoreInterceptor};
use super::{StoreError, TaskStore};

/// The store and what is wrong with the way to it.
pub(crate) type FaultyStore = InterceptedStore<StoreFaults>;

/// What is wrong.
#[derive(Default)]
pub(crate) struct StoreFaults {
    /// Nothing gets through.
    pub(crate) is_down: AtomicBool,
    /// So many settlements are applied and never answered.
    pub(crate) settle_answers_to_lose: AtomicUsize,
    /// Renewals that were answered.
    pub(crate) renewal_count: AtomicUsize,
    /// What was called, in order, from the last outage on.
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
            calls.push(call); // deliveries go on beside the rest, and their order is no matter
        }
        Ok(())
    }

    async fn after_call(&self, call: &'static str) -> Result<(), StoreError> {
        if call == "renew" {
            self.renewal_count.fetch_add(1, Ordering::Relaxed);
        }
        let less = |left: usize| left.checked_sub(1);
        if call == "settle"
            && self
                .settle_answers_to_lose
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok()
        {
            return Err(StoreError::OutcomeUnknown("connection reset".into()));
        }
        Ok(())
    }
}
