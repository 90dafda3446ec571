//! The leases that this process holds, so that it knows which entries pending to it are not run.
//!
//! The reply to a lease call can be lost on its way: its entries are then pending to this process,
//! which does not know it. The next lease calls recover them, for as long as the lost call may
//! still reach the server. The recovery lock keeps a recovery apart from lease calls whose replies
//! are still to come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;

use crate::store::Lease;
use crate::store::redis::lock::lock_unpoisoned;
use crate::store::redis::time::unix_now;
use crate::store::redis::wire::entry::MessageExtras;
use crate::store::redis::wire::lease_handle::LeaseHandle;
use crate::store::redis::wire::result::NO_RUNNER;
use crate::task::{Topic, UnixMs};

/// A topic and the id of an entry in its stream.
type LocalLeaseKey = (Topic, String);

/// The leases by entry, and the processes that lost a reply.
#[derive(Default)]
pub(crate) struct LocalLeases {
    leases_by_entry: Mutex<HashMap<LocalLeaseKey, LocalLease>>,
    lost_replies: Mutex<HashMap<String, Instant>>,
    /// Shared by lease calls under way, exclusive for recovery.
    pub(crate) recovery_lock: RwLock<()>,
}

struct LocalLease {
    lease_number: u64,
    extras: Arc<MessageExtras>,
    process: Arc<str>,
    held_since: Instant,
    began_at: UnixMs,
    renewed_at: Instant,
}

/// A lease call under way. When it is dropped before its reply is read, its process has leases to
/// recover.
pub(crate) struct PendingLeaseCall<'a> {
    local_leases: &'a LocalLeases,
    process: &'a str,
    answered: bool,
}

impl LocalLeases {
    /// Adds a lease that begins now.
    pub(crate) fn insert_lease(&self, lease: &Lease, extras: MessageExtras, process: &str) {
        let (key, lease_number) = local_lease_key(lease);
        let now = Instant::now();
        let held = LocalLease {
            lease_number,
            extras: Arc::new(extras),
            process: process.into(),
            held_since: now,
            began_at: unix_now(),
            renewed_at: now,
        };
        lock_unpoisoned(&self.leases_by_entry).insert(key, held);
    }

    /// Removes a lease; a later lease of the same entry stays.
    pub(crate) fn remove_lease(&self, lease: &Lease) {
        let (key, lease_number) = local_lease_key(lease);
        let mut all = lock_unpoisoned(&self.leases_by_entry);
        if all.get(&key).is_some_and(|held| held.lease_number == lease_number) {
            all.remove(&key);
        }
    }

    /// Records that leases were renewed now.
    pub(crate) fn mark_renewed<'a>(&self, leases: impl Iterator<Item = &'a Lease>) {
        let mut all = lock_unpoisoned(&self.leases_by_entry);
        for lease in leases {
            let (key, lease_number) = local_lease_key(lease);
            if let Some(held) = all.get_mut(&key).filter(|held| held.lease_number == lease_number) {
                held.renewed_at = Instant::now();
            }
        }
    }

    /// Removes the leases that were not renewed for `age`: their holder is gone, and they have
    /// expired.
    pub(crate) fn remove_not_renewed_for(&self, age: Duration) {
        lock_unpoisoned(&self.leases_by_entry).retain(|_, held| held.renewed_at.elapsed() < age);
    }

    /// The ids of the leased entries of a topic.
    pub(crate) fn entries_of_topic(&self, topic: &Topic) -> Vec<String> {
        lock_unpoisoned(&self.leases_by_entry)
            .keys()
            .filter(|(of, _)| of == topic)
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// The extras of a lease's message, and the process that runs it ([`NO_RUNNER`] for a lease of
    /// another process).
    pub(crate) fn extras_and_process(&self, lease: &Lease) -> (Arc<MessageExtras>, Arc<str>) {
        let (key, lease_number) = local_lease_key(lease);
        match lock_unpoisoned(&self.leases_by_entry)
            .get(&key)
            .filter(|held| held.lease_number == lease_number)
        {
            Some(held) => (held.extras.clone(), held.process.clone()),
            None => (
                Arc::new(MessageExtras::from_task(&lease.task, lease.queue.content_form)),
                NO_RUNNER.into(),
            ),
        }
    }

    /// The process that runs a lease, and the time when it began.
    pub(crate) fn process_and_start(&self, lease: &Lease) -> Option<(String, UnixMs)> {
        let (key, lease_number) = local_lease_key(lease);
        let held = lock_unpoisoned(&self.leases_by_entry);
        held.get(&key)
            .filter(|held| held.lease_number == lease_number)
            .map(|held| (held.process.to_string(), held.began_at))
    }

    /// How long this process has held a lease; zero for a lease of another process.
    pub(crate) fn lease_age(&self, lease: &Lease) -> Duration {
        let (key, lease_number) = local_lease_key(lease);
        let all = lock_unpoisoned(&self.leases_by_entry);
        all.get(&key)
            .filter(|held| held.lease_number == lease_number)
            .map(|held| held.held_since.elapsed())
            .unwrap_or_default()
    }

    /// Begins a lease call of `process`.
    pub(crate) fn begin_lease_call<'a>(&'a self, process: &'a str) -> PendingLeaseCall<'a> {
        PendingLeaseCall { local_leases: self, process, answered: false }
    }

    /// Whether `process` lost a reply and must recover: always for `grace` after the loss, and once
    /// afterwards.
    pub(crate) fn check_lost_reply(&self, process: &str, grace: Duration) -> bool {
        let mut losses = lock_unpoisoned(&self.lost_replies);
        let Some(since) = losses.get(process) else { return false };
        if since.elapsed() >= grace {
            losses.remove(process);
        }
        true
    }
}

/// The key of a lease, and its number.
fn local_lease_key(lease: &Lease) -> (LocalLeaseKey, u64) {
    let LeaseHandle { entry_id, lease_number } = LeaseHandle::from_lease(lease);
    ((lease.task.topic.clone(), entry_id), lease_number)
}

impl PendingLeaseCall<'_> {
    /// The reply was read to its end.
    pub(crate) fn mark_answered(mut self) {
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

    fn lease_with_number(lease_number: u64) -> Lease {
        let topic = Topic::parse("t").expect("a topic");
        let task = Task::new(TaskId::new(UnixMs(1), 1), topic.clone(), "", UnixMs(1));
        let queue = TopicQueue::with_default_settings(topic, "a");
        Lease {
            task,
            attempt: 1,
            queue,
            store_handle: LeaseHandle { entry_id: "1-0".into(), lease_number }.to_string(),
        }
    }

    #[test]
    fn the_end_of_an_older_lease_leaves_the_current_one_held() {
        let (leases, older, current) =
            (LocalLeases::default(), lease_with_number(1), lease_with_number(3));
        leases.insert_lease(
            &current,
            MessageExtras::from_task(&current.task, ContentForm::String),
            "p",
        );
        leases.remove_lease(&older);
        assert_eq!(leases.entries_of_topic(&current.task.topic), ["1-0"]);
        leases.remove_lease(&current);
        assert!(leases.entries_of_topic(&current.task.topic).is_empty());
    }

    #[test]
    fn a_lost_reply_is_recovered_by_its_process_until_the_grace_is_over() {
        let leases = LocalLeases::default();
        leases.begin_lease_call("p").mark_answered();
        assert!(!leases.check_lost_reply("p", Duration::ZERO));
        drop(leases.begin_lease_call("p"));
        assert!(!leases.check_lost_reply("q", Duration::ZERO), "another process lost nothing");
        assert!(
            leases.check_lost_reply("p", Duration::from_hours(1))
                && leases.check_lost_reply("p", Duration::ZERO)
        );
        assert!(!leases.check_lost_reply("p", Duration::ZERO));
    }
}
