//! The leases that this process holds, so that it knows which of its pending entries nobody runs.
//!
//! A reply to a lease call can be lost on its way: its entries are then pending to us and in no hand. The next
//! calls recover them, for as long as the lost call may still reach the server; the gate keeps that apart from
//! lease calls whose replies are still to come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;

use super::message::Rest;
use super::row::Handle;
use crate::store::Lease;
use crate::task::Topic;

type Key = (Topic, String);

/// The held entries, and the processes that may have lost some.
#[derive(Default)]
pub(super) struct Live {
    held: Mutex<HashMap<Key, Held>>,
    losers: Mutex<HashMap<String, Instant>>,
    /// Shared by lease calls under way, exclusive for recovery.
    pub(super) gate: RwLock<()>,
}

struct Held {
    rest: Arc<Rest>,
    process: Arc<str>,
    renewed: Instant,
}

/// A lease call under way: dropped unanswered, its process has something to recover.
pub(super) struct Unanswered<'a> {
    live: &'a Live,
    process: &'a str,
    answered: bool,
}

impl Live {
    /// Takes a lease into the books.
    pub(super) fn hold(&self, lease: &Lease, rest: Rest, process: &str) {
        let held = Held { rest: Arc::new(rest), process: process.into(), renewed: Instant::now() };
        lock(&self.held).insert(key(lease), held);
    }

    /// Strikes a lease off.
    pub(super) fn release(&self, lease: &Lease) {
        lock(&self.held).remove(&key(lease));
    }

    /// Notes that leases live on.
    pub(super) fn renew<'a>(&self, leases: impl Iterator<Item = &'a Lease>) {
        let mut held = lock(&self.held);
        for lease in leases {
            if let Some(held) = held.get_mut(&key(lease)) {
                held.renewed = Instant::now();
            }
        }
    }

    /// Strikes off what was not renewed for `age`: whoever held it is gone, and so is the lease.
    pub(super) fn forget_older_than(&self, age: Duration) {
        lock(&self.held).retain(|_, held| held.renewed.elapsed() < age);
    }

    /// The held entries of a topic.
    pub(super) fn entries(&self, topic: &Topic) -> Vec<String> {
        lock(&self.held).keys().filter(|(of, _)| of == topic).map(|(_, entry)| entry.clone()).collect()
    }

    /// What a lease's message carried beside the task, and the process that runs it.
    pub(super) fn details(&self, lease: &Lease) -> (Arc<Rest>, Arc<str>) {
        match lock(&self.held).get(&key(lease)) {
            Some(held) => (held.rest.clone(), held.process.clone()),
            None => (Arc::new(Rest::of(lease.queue.content)), "omnidaemon".into()),
        }
    }

    /// Begins a lease call.
    pub(super) fn begin<'a>(&'a self, process: &'a str) -> Unanswered<'a> {
        Unanswered { live: self, process, answered: false }
    }

    /// Whether `process` lost a reply less than `grace` ago, or has not looked for its entries since.
    pub(super) fn take_loss(&self, process: &str, grace: Duration) -> bool {
        let mut losers = lock(&self.losers);
        let Some(since) = losers.get(process) else { return false };
        if since.elapsed() >= grace {
            losers.remove(process);
        }
        true
    }
}

fn key(lease: &Lease) -> Key {
    (lease.task.topic.clone(), Handle::of(lease).entry)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unanswered<'_> {
    /// The answer is here, whole.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.answered {
            lock(&self.live.losers).insert(self.process.to_owned(), Instant::now());
        }
    }
}
