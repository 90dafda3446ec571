//! A partition: a complete small store of its own, whose every key carries one hash tag. Outside of
//! a Redis Cluster there is one, without a tag.
//!
//! A task's id decides its partition, so that whoever knows the id finds the task; everything that
//! is not of one task (heartbeats, rollout state) lives in the first. The hash is part of what is
//! stored: it never changes.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::attend::ExternalScanCursor;
use super::batch::CallBatcher;
use super::durable::DurableWriter;
use super::enqueue::EnqueueItem;
use super::events::AgentEventBuffer;
use super::finish::FinishItem;
use super::keys::RedisKeys;
use super::link::{MasterLink, WakeupConnection};
use super::live::LocalLeases;
use super::missing::TrimmedScan;
use super::watch::ReapSchedule;
use crate::store::TaskEndWaiters;
use crate::task::TaskId;

/// One partition, as one process sees it.
pub(super) struct Partition {
    pub(super) link: MasterLink,
    /// Where new tasks go, when a replica is to have them too.
    pub(super) durable_writer: Option<DurableWriter>,
    pub(super) keys: RedisKeys,
    pub(super) timeout: Duration,
    /// This process's name, on whose channel it hears of its tasks' ends.
    pub(super) instance_id: String,
    pub(super) waiters: TaskEndWaiters,
    pub(super) local_leases: LocalLeases,
    /// New tasks that wait for a call.
    pub(super) enqueue_batch: Arc<CallBatcher<EnqueueItem, i64>>,
    /// Ends of tasks that wait for one.
    pub(super) finish_batch: Arc<CallBatcher<FinishItem, bool>>,
    /// Connections of lease calls that wait for new entries.
    pub(super) idle_wakeups: Mutex<Vec<WakeupConnection>>,
    /// The queue that the next lease call begins with.
    pub(super) next_queue: AtomicUsize,
    pub(super) reap_schedule: ReapSchedule,
    pub(super) agent_events: AgentEventBuffer,
    /// How far it has looked at what consumers of another make did, by group.
    pub(super) external_cursors: Mutex<HashMap<String, ExternalScanCursor>>,
    /// Where the look for tasks without an entry is, for the queues that this process tends.
    pub(super) trimmed_scan: TrimmedScan,
    /// And for those that consumers of another make have to themselves.
    pub(super) external_trimmed_scan: TrimmedScan,
}

impl Partition {
    /// The partition with these keys behind `link`, telling `waiters` what it hears on the channel
    /// of `name`.
    pub(super) fn new(
        link: MasterLink,
        durable_writer: Option<DurableWriter>,
        keys: RedisKeys,
        timeout: Duration,
        instance_id: &str,
        waiters: &TaskEndWaiters,
    ) -> Self {
        Self {
            link,
            durable_writer,
            keys,
            timeout,
            instance_id: instance_id.to_owned(),
            waiters: waiters.clone(),
            local_leases: LocalLeases::default(),
            enqueue_batch: Arc::default(),
            finish_batch: Arc::default(),
            idle_wakeups: Mutex::default(),
            next_queue: AtomicUsize::new(0),
            reap_schedule: ReapSchedule::default(),
            agent_events: AgentEventBuffer::default(),
            external_cursors: Mutex::default(),
            trimmed_scan: TrimmedScan::default(),
            external_trimmed_scan: TrimmedScan::default(),
        }
    }
}

impl Partition {
    /// All of its links.
    pub(super) fn all_links(&self) -> impl Iterator<Item = &MasterLink> {
        [Some(&self.link), self.durable_writer.as_ref().map(|durable| &durable.link)]
            .into_iter()
            .flatten()
    }
}

/// Which of `partitions` a task is in.
pub(super) fn partition_index(id: &TaskId, partitions: usize) -> usize {
    let hash = xxhash_rust::xxh3::xxh3_64(id.as_str().as_bytes());
    let index = hash % u64::try_from(partitions.max(1)).unwrap_or(u64::MAX);
    usize::try_from(index).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_in_the_same_partition_in_every_release() {
        let of =
            |id: &str, partitions| partition_index(&TaskId::parse(id).expect("an id"), partitions);
        assert_eq!(of("task_01HZX3J5Y8QKZ6V9W2M4N7P0RS", 1), 0);
        assert_eq!([of("task_a", 16), of("task_b", 16), of("task_c", 16)], [4, 9, 15]);
    }
}
