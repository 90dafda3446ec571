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
use crate::task::{Topic, UnixMs};

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
    turn: u64,
    rest: Arc<Rest>,
    process: Arc<str>,
    since: Instant,
    began: UnixMs,
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
        let (key, turn) = key(lease);
        let now = Instant::now();
        let (process, began) = (process.into(), super::now());
        let held = Held { turn, rest: Arc::new(rest), process, since: now, began, renewed: now };
        lock(&self.held).insert(key, held);
    }

    /// Strikes a lease off; a later one of the same entry stays.
    pub(super) fn release(&self, lease: &Lease) {
        let (key, turn) = key(lease);
        let mut all = lock(&self.held);
        if all.get(&key).is_some_and(|held| held.turn == turn) {
            all.remove(&key);
        }
    }

    /// Notes that leases live on.
    pub(super) fn renew<'a>(&self, leases: impl Iterator<Item = &'a Lease>) {
        let mut all = lock(&self.held);
        for lease in leases {
            let (key, turn) = key(lease);
            if let Some(held) = all.get_mut(&key).filter(|held| held.turn == turn) {
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
        let (key, turn) = key(lease);
        match lock(&self.held).get(&key).filter(|held| held.turn == turn) {
            Some(held) => (held.rest.clone(), held.process.clone()),
            None => (Arc::new(Rest::of_task(&lease.task, lease.queue.content)), "omnidaemon".into()),
        }
    }

    /// The process that runs a lease, and since when.
    pub(super) fn holder(&self, lease: &Lease) -> Option<(String, UnixMs)> {
        let (key, turn) = key(lease);
        let held = lock(&self.held);
        held.get(&key).filter(|held| held.turn == turn).map(|held| (held.process.to_string(), held.began))
    }

    /// How long a lease is in the books.
    pub(super) fn age(&self, lease: &Lease) -> Duration {
        let (key, turn) = key(lease);
        let all = lock(&self.held);
        all.get(&key).filter(|held| held.turn == turn).map(|held| held.since.elapsed()).unwrap_or_default()
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

fn key(lease: &Lease) -> (Key, u64) {
    let Handle { entry, turn } = Handle::of(lease);
    ((lease.task.topic.clone(), entry), turn)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ContentForm;
    use crate::store::Queue;
    use crate::task::{Task, TaskId};

    fn lease(turn: u64) -> Lease {
        let topic = Topic::parse("t").expect("a topic");
        let task = Task::new(TaskId::new(UnixMs(1), 1), topic.clone(), "", UnixMs(1));
        let queue = Queue::with_defaults(topic, "a");
        Lease { task, attempt: 1, queue, entry: Handle { entry: "1-0".into(), turn }.to_string() }
    }

    #[test]
    fn the_end_of_an_older_lease_leaves_the_current_one_held() {
        let (live, older, current) = (Live::default(), lease(1), lease(3));
        live.hold(&current, Rest::of_task(&current.task, ContentForm::String), "p");
        live.release(&older);
        assert_eq!(live.entries(&current.task.topic), ["1-0"]);
        live.release(&current);
        assert!(live.entries(&current.task.topic).is_empty());
    }

    #[test]
    fn a_call_that_was_never_answered_is_a_loss_for_its_process_until_the_grace_is_over() {
        let live = Live::default();
        live.begin("p").answered();
        assert!(!live.take_loss("p", Duration::ZERO));
        drop(live.begin("p"));
        assert!(!live.take_loss("q", Duration::ZERO), "another process lost nothing");
        assert!(live.take_loss("p", Duration::from_hours(1)) && live.take_loss("p", Duration::ZERO));
        assert!(!live.take_loss("p", Duration::ZERO));
    }
}
