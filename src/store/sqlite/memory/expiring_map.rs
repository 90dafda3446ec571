//! A map by process name whose entries expire.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Values by process name, each with the steady time at which it expires.
pub(crate) struct ExpiringMap<V>(Mutex<BTreeMap<String, (V, Duration)>>);

impl<V> ExpiringMap<V> {
    /// Inserts or replaces the value of a process.
    pub(crate) fn insert(&self, process_name: &str, value: V, expires: Duration) {
        self.lock_entries().insert(process_name.to_owned(), (value, expires));
    }

    /// Removes the value of a process.
    pub(crate) fn remove(&self, process_name: &str) {
        self.lock_entries().remove(process_name);
    }

    /// The entries that have not expired at the steady time `now`, by process name; the others are
    /// removed.
    pub(crate) fn live_entries(&self, now: Duration) -> Vec<(String, V)>
    where
        V: Clone,
    {
        let mut entries = self.lock_entries();
        entries.retain(|_, (_, expires)| *expires > now);
        entries.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect()
    }

    fn lock_entries(&self) -> MutexGuard<'_, BTreeMap<String, (V, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Default for ExpiringMap<V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
