//! The part of a partition that keeps the leases of this process and ends them. Its methods are in
//! `settle.rs`, `requeue.rs` and `renew.rs`.

use std::sync::Arc;

use crate::store::redis::core::PartitionCore;
use crate::store::redis::python::events::AgentEventBuffer;
use crate::store::redis::queue::finish::FinishItem;
use crate::store::redis::queue::local_leases::LocalLeases;
use crate::store::redis::script::batch::CallBatcher;

/// Keeps and ends leases.
pub(crate) struct LeaseSettler {
    /// The partition.
    pub(crate) core: Arc<PartitionCore>,
    /// The leases that this process holds.
    pub(crate) local_leases: LocalLeases,
    /// Events of attempts, for Python's `metrics` command.
    pub(crate) agent_events: AgentEventBuffer,
    /// Ends of tasks that wait for a call.
    pub(crate) finish_batcher: Arc<CallBatcher<FinishItem, bool>>,
}

impl LeaseSettler {
    /// The settler of a partition, without leases.
    pub(crate) fn new(core: Arc<PartitionCore>) -> Self {
        Self {
            core,
            local_leases: LocalLeases::default(),
            agent_events: AgentEventBuffer::default(),
            finish_batcher: Arc::default(),
        }
    }
}
