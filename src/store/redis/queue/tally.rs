//! The tally key of a task that a route's rollout counts.

use crate::store::redis::core::PartitionCore;
use crate::store::redis::wire::packed_record::tally_route_and_epoch;
use crate::task::Task;

impl PartitionCore {
    /// The key of the tally that counts a task, where a rollout counts it.
    pub(crate) fn task_tally_key(&self, task: &Task) -> Option<String> {
        tally_route_and_epoch(task).map(|(route, epoch)| self.keys.tally_key(route, epoch))
    }
}
