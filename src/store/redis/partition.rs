//! A partition: a complete small store of its own, whose every key carries one hash tag. Outside of a Redis Cluster
//! there is one, without a tag.
//!
//! A task's id decides its partition, so that whoever knows the id finds the task; everything that is not of one task
//! (heartbeats, rollout state) lives in the first. The hash is part of what is stored: it never changes.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::attend::Seen;
use super::batch::Batch;
use super::durable::Durable;
use super::enqueue::New;
use super::events::Events;
use super::finish::Ending;
use super::keys::Keys;
use super::link::{Bell, Link};
use super::live::Live;
use super::missing::Search;
use super::watch::Watch;
use crate::store::Waiters;
use crate::task::TaskId;

/// One partition, as one process sees it.
pub(super) struct Partition {
    pub(super) link: Link,
    /// Where new tasks go, when a replica is to have them too.
    pub(super) durable: Option<Durable>,
    pub(super) keys: Keys,
    pub(super) timeout: Duration,
    /// This process's name, on whose channel it hears of its tasks' ends.
    pub(super) name: String,
    pub(super) waiters: Waiters,
    pub(super) live: Live,
    /// New tasks that wait for a call.
    pub(super) enqueuing: Arc<Batch<New, i64>>,
    /// Ends of tasks that wait for one.
    pub(super) finishing: Arc<Batch<Ending, bool>>,
    /// Connections of lease calls that wait for new entries.
    pub(super) bells: Mutex<Vec<Bell>>,
    /// The queue that the next lease call begins with.
    pub(super) turn: AtomicUsize,
    pub(super) watch: Watch,
    pub(super) events: Events,
    /// How far it has looked at what consumers of another make did, by group.
    pub(super) attended: Mutex<HashMap<String, Seen>>,
    /// Where the look for tasks without an entry is, for the queues that this process tends.
    pub(super) missing: Search,
    /// And for those that consumers of another make have to themselves.
    pub(super) missing_elsewhere: Search,
}

impl Partition {
    /// The partition with these keys behind `link`, telling `waiters` what it hears on the channel of `name`.
    pub(super) fn new(
        link: Link,
        durable: Option<Durable>,
        keys: Keys,
        timeout: Duration,
        name: &str,
        waiters: &Waiters,
    ) -> Self {
        Self {
            link,
            durable,
            keys,
            timeout,
            name: name.to_owned(),
            waiters: waiters.clone(),
            live: Live::default(),
            enqueuing: Arc::default(),
            finishing: Arc::default(),
            bells: Mutex::default(),
            turn: AtomicUsize::new(0),
            watch: Watch::default(),
            events: Events::default(),
            attended: Mutex::default(),
            missing: Search::default(),
            missing_elsewhere: Search::default(),
        }
    }
}

impl Partition {
    /// All of its links.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        [Some(&self.link), self.durable.as_ref().map(|durable| &durable.link)].into_iter().flatten()
    }
}

/// Which of `partitions` a task is in.
pub(super) fn index(id: &TaskId, partitions: usize) -> usize {
    let hash = xxhash_rust::xxh3::xxh3_64(id.as_str().as_bytes());
    let index = hash % u64::try_from(partitions.max(1)).unwrap_or(u64::MAX);
    usize::try_from(index).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_in_the_same_partition_in_every_release() {
        let of = |id: &str, partitions| index(&TaskId::parse(id).expect("an id"), partitions);
        assert_eq!(of("task_01HZX3J5Y8QKZ6V9W2M4N7P0RS", 1), 0);
        assert_eq!([of("task_a", 16), of("task_b", 16), of("task_c", 16)], [4, 9, 15]);
    }
}
