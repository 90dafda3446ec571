//! Renewal of leases.

use crate::store::redis::queue::settler::LeaseSettler;
use crate::store::redis::script::runner::RENEW_LEASES;
use crate::store::redis::wire::keys;
use crate::store::redis::wire::lease_handle::LeaseHandle;
use crate::store::{Lease, StoreError};
use crate::task::TaskId;

impl LeaseSettler {
    /// Renews leases that `process` holds; returns the tasks whose lease is lost.
    pub(crate) async fn renew_leases(
        &self,
        process: &str,
        leases: &[Lease],
    ) -> Result<Vec<TaskId>, StoreError> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let record_keys: Vec<(&str, String)> = leases
            .iter()
            .flat_map(|lease| {
                [
                    ("record_key", self.core.keys.record_key(&lease.task.id)),
                    ("stream", self.core.keys.stream_key(&lease.task.topic)),
                ]
            })
            .collect();
        let mut call = RENEW_LEASES.call_with_keys(&record_keys);
        for lease in leases {
            let handle = LeaseHandle::from_lease(lease);
            call = call
                .arg("group", keys::group_name(&lease.queue))
                .arg("consumer", keys::consumer_name(&lease.queue, process))
                .arg("entry", handle.entry_id)
                .arg("attempt", lease.attempt)
                .arg("lease_number", handle.lease_number);
        }
        // positions from 1
        let lost: Vec<usize> = call.run(&self.core.link).await?;
        let (lost, renewed): (Vec<_>, Vec<_>) =
            (1..).zip(leases).partition(|(position, _)| lost.contains(position));
        self.local_leases.mark_renewed(renewed.into_iter().map(|(_, lease)| lease));
        let forget = |lease: &Lease| {
            self.local_leases.remove_lease(lease);
            lease.task.id.clone()
        };
        Ok(lost.into_iter().map(|(_, lease)| forget(lease)).collect())
    }
}
