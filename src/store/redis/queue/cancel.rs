//! Cancellation of tasks, also of tasks that are not queued yet.

use std::time::Duration;

use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::CANCEL_TASK;
use crate::store::redis::time::{as_millis_u64, clamp_ttl_ms};
use crate::store::redis::wire::keys;
use crate::store::{CancelResult, StoreError};
use crate::task::{TaskId, TaskStatus};

/// How long a cancellation that came before its task is kept.
const CANCEL_AHEAD_TTL: Duration = Duration::from_mins(1);

impl PartitionCore {
    /// Cancels a task, whose record is then kept for `ttl`.
    pub(crate) async fn cancel_task(
        &self,
        id: &TaskId,
        ttl: Duration,
    ) -> Result<CancelResult, StoreError> {
        let found: Option<String> = CANCEL_TASK
            .call_with_keys(&[
                self.keys.record_key(id),
                self.keys.result_key(id),
                self.keys.outbox_index_key(),
            ])
            .arg(clamp_ttl_ms(ttl))
            .arg(&[
                id.as_str(),
                &self.instance_id,
                &self.keys.stream_prefix(),
                keys::GROUP_PREFIX,
                &self.keys.delayed_index_prefix(),
                keys::CHANNEL_PREFIX,
            ])
            .arg(as_millis_u64(CANCEL_AHEAD_TTL))
            .arg(&[
                self.keys.scheduled_tasks_prefix(),
                self.keys.scheduled_index_prefix(),
                self.keys.tally_prefix(),
            ])
            .run(&self.link)
            .await?;
        let Some(found) = found else { return Ok(CancelResult::NoSuchTask) };
        if matches!(found.as_str(), "done" | "running") && self.waiters.has_waiter_for(id) {
            self.resolve_if_ended(id).await?;
        }
        Ok(match found.as_str() {
            "done" => CancelResult::Cancelled,
            "running" => CancelResult::WasRunning,
            "failed" => CancelResult::AlreadyEnded(TaskStatus::Failed),
            _ => CancelResult::AlreadyEnded(TaskStatus::Completed),
        })
    }
}
