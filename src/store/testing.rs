//! A real store behind a bad connection: it can be down, and its answers can get lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::around::{Around, Hook};
use super::{StoreError, TaskStore};

/// The store and what is wrong with the way to it.
pub(crate) type Faulty = Around<Fault>;

/// What is wrong.
#[derive(Default)]
pub(crate) struct Fault {
    /// Nothing gets through.
    pub(crate) down: AtomicBool,
    /// So many settlements are applied and never answered.
    pub(crate) lose_answers: AtomicUsize,
    /// Renewals that were answered.
    pub(crate) renewals: AtomicUsize,
    /// What was called, in order, from the last outage on.
    pub(crate) calls: Mutex<Vec<&'static str>>,
}

impl Faulty {
    pub(crate) fn new(store: Arc<dyn TaskStore>) -> Self {
        Self { store, hook: Fault::default() }
    }
}

#[async_trait]
impl Hook for Fault {
    async fn before(&self, call: &'static str) -> Result<(), StoreError> {
        let mut calls = self.calls.lock().expect("not poisoned");
        if self.down.load(Ordering::Relaxed) {
            calls.clear();
            return Err(StoreError::Unreachable("connection refused".into()));
        }
        if !call.contains("deliver") {
            calls.push(call); // deliveries go on beside the rest, and their order is no matter
        }
        Ok(())
    }

    async fn after(&self, call: &'static str) -> Result<(), StoreError> {
        if call == "renew" {
            self.renewals.fetch_add(1, Ordering::Relaxed);
        }
        let less = |left: usize| left.checked_sub(1);
        if call == "settle" && self.lose_answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Err(StoreError::Unknown("connection reset".into()));
        }
        Ok(())
    }
}
