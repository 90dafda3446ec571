//! The progress that attempts report, stored in the task's record.

use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::RECORD_PROGRESS;
use crate::store::redis::wire::json::to_json;
use crate::store::redis::wire::lease_handle::LeaseHandle;
use crate::store::redis::wire::progress::RecordProgress;
use crate::store::{LeaseHolder, StoreError};
use crate::task::{TaskId, TaskProgress};

impl PartitionCore {
    /// Stores the progress of an attempt; returns whether `holder` still holds the lease.
    pub(crate) async fn record_progress(
        &self,
        id: &TaskId,
        holder: &LeaseHolder,
        progress: &TaskProgress,
    ) -> Result<bool, StoreError> {
        let lease_number = LeaseHandle::parse(&holder.store_handle).lease_number;
        let note = progress.note().map(str::to_owned);
        let stored =
            to_json(&RecordProgress { lease_number, fraction: progress.fraction(), note })?;
        let call = RECORD_PROGRESS
            .call_with_keys(&[("record_key", self.keys.record_key(id))])
            .arg("attempt", holder.attempt)
            .arg("lease_number", lease_number)
            .arg("progress", stored);
        call.run(&self.link).await
    }
}
