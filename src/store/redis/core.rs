//! What every feature of one partition borrows: the link, the keys, the timeout and the waiters.
//!
//! A partition is a complete small store of its own, whose every key carries one hash tag. Outside
//! of a Redis Cluster there is one partition, without a tag. Features without state of their own
//! are methods of [`PartitionCore`]; a feature with state is a type of its own that holds the core.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use crate::store::TaskEndWaiters;
use crate::store::redis::conn::durable::DurableWriter;
use crate::store::redis::conn::link::MasterLink;
use crate::store::redis::wire::keys::RedisKeys;
use crate::task::TaskId;

/// The connection to one partition, and the settings of this process.
pub(crate) struct PartitionCore {
    /// The link for all calls but large writes and those of the durable writer.
    pub(crate) link: MasterLink,
    /// The link for large writes, whose connection is made when the first one comes: the calls of
    /// the other link do not wait behind them.
    pub(crate) large_write_link: MasterLink,
    /// Writes new tasks where a replica must confirm them.
    pub(crate) durable_writer: Option<DurableWriter>,
    /// The partition's keys.
    pub(crate) keys: RedisKeys,
    /// How long one call may take.
    pub(crate) timeout: Duration,
    /// The random name of this process, on whose channel it is notified of the ends of tasks.
    pub(crate) instance_id: String,
    /// The callers in this process that wait for the ends of tasks.
    pub(crate) waiters: TaskEndWaiters,
    /// Tasks whose result another program saved in a form that was logged as a defect.
    pub(crate) reported_defects: Mutex<HashSet<TaskId>>,
}

impl PartitionCore {
    /// The links for calls and for large writes, and that of the durable writer where there is one.
    pub(crate) fn all_links(&self) -> impl Iterator<Item = &MasterLink> {
        let durable = self.durable_writer.as_ref().map(|writer| &writer.link);
        [Some(&self.link), Some(&self.large_write_link), durable].into_iter().flatten()
    }
}
