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
                ("record_key", self.keys.record_key(id)),
                ("result_key", self.keys.result_key(id)),
                ("outbox", self.keys.outbox_index_key()),
            ])
            .arg("ttl_ms", clamp_ttl_ms(ttl))
            .arg("cancel_ahead_ttl_ms", as_millis_u64(CANCEL_AHEAD_TTL))
            .arg("task_id", id.as_str())
            .arg("own_instance_id", &self.instance_id)
            .arg("stream_prefix", self.keys.stream_prefix())
            .arg("group_prefix", keys::GROUP_PREFIX)
            .arg("delayed_index_prefix", self.keys.delayed_index_prefix())
            .arg("scheduled_tasks_prefix", self.keys.scheduled_tasks_prefix())
            .arg("scheduled_index_prefix", self.keys.scheduled_index_prefix())
            .arg("channel_prefix", keys::CHANNEL_PREFIX)
            .arg("tally_prefix", self.keys.tally_prefix())
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
