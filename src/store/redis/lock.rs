//! A mutex lock that ignores poisoning.
//!
//! Every value behind a mutex of this store stays valid between two statements, so a panic in
//! another thread leaves nothing half written.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also after another thread panicked while it held the lock.
pub(crate) fn lock_unpoisoned<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
