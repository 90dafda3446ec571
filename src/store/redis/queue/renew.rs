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
        let record_keys: Vec<String> = leases
            .iter()
            .flat_map(|lease| {
                [
                    self.core.keys.record_key(&lease.task.id),
                    self.core.keys.stream_key(&lease.task.topic),
                ]
            })
            .collect();
        let mut call = RENEW_LEASES.call_with_keys(&record_keys);
        for lease in leases {
            let handle = LeaseHandle::from_lease(lease);
            call = call
                .arg(&[
                    keys::group_name(&lease.queue),
                    keys::consumer_name(&lease.queue, process),
                    handle.entry_id,
                ])
                .arg(lease.attempt)
                .arg(handle.lease_number);
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
