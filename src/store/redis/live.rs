//! The leases that this process holds, so that it knows which of its pending entries nobody runs.
//!
//! A reply to a lease call can be lost on its way: its entries are then pending to us and in no
//! hand. The next calls recover them, for as long as the lost call may still reach the server; the
//! gate keeps that apart from lease calls whose replies are still to come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;

use super::message::MessageExtras;
use super::row::LeaseHandle;
use crate::store::Lease;
use crate::task::{Topic, UnixMs};

type LocalLeaseKey = (Topic, String);

/// The held entries, and the processes that may have lost some.
#[derive(Default)]
pub(super) struct LocalLeases {
    leases_by_entry: Mutex<HashMap<LocalLeaseKey, LocalLease>>,
    lost_replies: Mutex<HashMap<String, Instant>>,
    /// Shared by lease calls under way, exclusive for recovery.
    pub(super) recovery_lock: RwLock<()>,
}

struct LocalLease {
    lease_number: u64,
    extras: Arc<MessageExtras>,
    process: Arc<str>,
    held_since: Instant,
    began_at: UnixMs,
    renewed_at: Instant,
}

/// A lease call under way: dropped unanswered, its process has something to recover.
pub(super) struct PendingLeaseCall<'a> {
    local_leases: &'a LocalLeases,
    process: &'a str,
    answered: bool,
}

impl LocalLeases {
    /// Takes a lease into the books.
    pub(super) fn insert_lease(&self, lease: &Lease, rest: MessageExtras, process: &str) {
        let (key, turn) = local_lease_key(lease);
        let now = Instant::now();
        let (process, began) = (process.into(), super::unix_now());
        let held = LocalLease {
            lease_number: turn,
            extras: Arc::new(rest),
            process,
            held_since: now,
            began_at: began,
            renewed_at: now,
        };
        lock_unpoisoned(&self.leases_by_entry).insert(key, held);
    }

    /// Strikes a lease off; a later one of the same entry stays.
    pub(super) fn remove_lease(&self, lease: &Lease) {
        let (key, turn) = local_lease_key(lease);
        let mut all = lock_unpoisoned(&self.leases_by_entry);
        if all.get(&key).is_some_and(|held| held.lease_number == turn) {
            all.remove(&key);
        }
    }

    /// Notes that leases live on.
    pub(super) fn mark_renewed<'a>(&self, leases: impl Iterator<Item = &'a Lease>) {
        let mut all = lock_unpoisoned(&self.leases_by_entry);
        for lease in leases {
            let (key, turn) = local_lease_key(lease);
            if let Some(held) = all.get_mut(&key).filter(|held| held.lease_number == turn) {
                held.renewed_at = Instant::now();
            }
        }
    }

    /// Strikes off what was not renewed for `age`: whoever held it is gone, and so is the lease.
    pub(super) fn remove_not_renewed_for(&self, age: Duration) {
        lock_unpoisoned(&self.leases_by_entry).retain(|_, held| held.renewed_at.elapsed() < age);
    }

    /// The held entries of a topic.
    pub(super) fn entries_of_topic(&self, topic: &Topic) -> Vec<String> {
        lock_unpoisoned(&self.leases_by_entry)
            .keys()
            .filter(|(of, _)| of == topic)
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// What a lease's message carried beside the task, and the process that runs it.
    pub(super) fn extras_and_process(&self, lease: &Lease) -> (Arc<MessageExtras>, Arc<str>) {
        let (key, turn) = local_lease_key(lease);
        match lock_unpoisoned(&self.leases_by_entry)
            .get(&key)
            .filter(|held| held.lease_number == turn)
        {
            Some(held) => (held.extras.clone(), held.process.clone()),
            None => (
                Arc::new(MessageExtras::from_task(&lease.task, lease.queue.content_form)),
                "omnidaemon".into(),
            ),
        }
    }

    /// The process that runs a lease, and since when.
    pub(super) fn process_and_start(&self, lease: &Lease) -> Option<(String, UnixMs)> {
        let (key, turn) = local_lease_key(lease);
        let held = lock_unpoisoned(&self.leases_by_entry);
        held.get(&key)
            .filter(|held| held.lease_number == turn)
            .map(|held| (held.process.to_string(), held.began_at))
    }

    /// How long a lease is in the books.
    pub(super) fn lease_age(&self, lease: &Lease) -> Duration {
        let (key, turn) = local_lease_key(lease);
        let all = lock_unpoisoned(&self.leases_by_entry);
        all.get(&key)
            .filter(|held| held.lease_number == turn)
            .map(|held| held.held_since.elapsed())
            .unwrap_or_default()
    }

    /// Begins a lease call.
    pub(super) fn begin_lease_call<'a>(&'a self, process: &'a str) -> PendingLeaseCall<'a> {
        PendingLeaseCall { local_leases: self, process, answered: false }
    }

    /// Whether `process` lost a reply less than `grace` ago, or has not looked for its entries
    /// since.
    pub(super) fn check_lost_reply(&self, process: &str, grace: Duration) -> bool {
        let mut losers = lock_unpoisoned(&self.lost_replies);
        let Some(since) = losers.get(process) else { return false };
        if since.elapsed() >= grace {
            losers.remove(process);
        }
        true
    }
}

fn local_lease_key(lease: &Lease) -> (LocalLeaseKey, u64) {
    let LeaseHandle { entry_id: entry, lease_number: turn } = LeaseHandle::from_lease(lease);
    ((lease.task.topic.clone(), entry), turn)
}

fn lock_unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PendingLeaseCall<'_> {
    /// The answer is here, whole.
    pub(super) fn mark_answered(mut self) {
        self.answered = true;
    }
}

impl Drop for PendingLeaseCall<'_> {
    fn drop(&mut self) {
        if !self.answered {
            lock_unpoisoned(&self.local_leases.lost_replies)
                .insert(self.process.to_owned(), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ContentForm;
    use crate::store::TopicQueue;
    use crate::task::{Task, TaskId};

    fn lease_with_number(turn: u64) -> Lease {
        let topic = Topic::parse("t").expect("a topic");
        let task = Task::new(TaskId::new(UnixMs(1), 1), topic.clone(), "", UnixMs(1));
        let queue = TopicQueue::with_default_settings(topic, "a");
        Lease {
            task,
            attempt: 1,
            queue,
            store_handle: LeaseHandle { entry_id: "1-0".into(), lease_number: turn }.to_string(),
        }
    }

    #[test]
    fn the_end_of_an_older_lease_leaves_the_current_one_held() {
        let (live, older, current) =
            (LocalLeases::default(), lease_with_number(1), lease_with_number(3));
        live.insert_lease(
            &current,
            MessageExtras::from_task(&current.task, ContentForm::String),
            "p",
        );
        live.remove_lease(&older);
        assert_eq!(live.entries_of_topic(&current.task.topic), ["1-0"]);
        live.remove_lease(&current);
        assert!(live.entries_of_topic(&current.task.topic).is_empty());
    }

    #[test]
    fn a_call_that_was_never_answered_is_a_loss_for_its_process_until_the_grace_is_over() {
        let live = LocalLeases::default();
        live.begin_lease_call("p").mark_answered();
        assert!(!live.check_lost_reply("p", Duration::ZERO));
        drop(live.begin_lease_call("p"));
        assert!(!live.check_lost_reply("q", Duration::ZERO), "another process lost nothing");
        assert!(
            live.check_lost_reply("p", Duration::from_hours(1))
                && live.check_lost_reply("p", Duration::ZERO)
        );
        assert!(!live.check_lost_reply("p", Duration::ZERO));
    }
}
