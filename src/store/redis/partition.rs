//! One partition of the store: the core, and the features that have state of their own.

use std::sync::Arc;

use crate::store::redis::core::PartitionCore;
use crate::store::redis::maintenance::external::ExternalReconciler;
use crate::store::redis::maintenance::reap::LeaseReaper;
use crate::store::redis::queue::enqueue::TaskEnqueuer;
use crate::store::redis::queue::lease::TaskLeaser;
use crate::store::redis::queue::settler::LeaseSettler;

/// One partition, as one process uses it.
pub(crate) struct Partition {
    /// Calls without state in this process.
    pub(crate) core: Arc<PartitionCore>,
    /// Queues new tasks.
    pub(crate) enqueuer: TaskEnqueuer,
    /// Leases tasks.
    pub(crate) leaser: TaskLeaser,
    /// Ends and renews leases.
    pub(crate) settler: Arc<LeaseSettler>,
    /// Takes expired leases back.
    pub(crate) reaper: LeaseReaper,
    /// Ends tasks that external consumers run.
    pub(crate) reconciler: ExternalReconciler,
}

impl Partition {
    /// The partition that `core` connects to. Makes no call.
    pub(crate) fn new(core: PartitionCore) -> Self {
        let core = Arc::new(core);
        let settler = Arc::new(LeaseSettler::new(core.clone()));
        Self {
            enqueuer: TaskEnqueuer::new(core.clone()),
            leaser: TaskLeaser::new(core.clone(), settler.clone()),
            reaper: LeaseReaper::new(core.clone(), settler.clone()),
            reconciler: ExternalReconciler::new(core.clone(), settler.clone()),
            settler,
            core,
        }
    }
}
