//! Scheduled tasks: new tasks that are due later. They are kept out of the streams, where any
//! consumer would take them at once, and are moved into their stream when they are due.
//!
//! `omni:scheduled:<group>` holds their messages and is authoritative; `omni:due:<group>` is the
//! index by due time. Tasks that the index lost are added to it again from their records at the
//! next promotion, which each process runs about every second.

use crate::store::redis::conn::error;
use crate::store::redis::core::PartitionCore;
use crate::store::redis::queue::enqueue_target::EnqueueTarget;
use crate::store::redis::script::runner::{PROMOTE_DUE_TASKS, SCHEDULE_TASK};
use crate::store::redis::time::{as_millis_u64, millis_until};
use crate::store::redis::wire::entry::EncodedEntry;
use crate::store::redis::wire::keys;
use crate::store::redis::wire::packed_record::format_epoch_and_group;
use crate::store::{StoreError, TopicQueue};
use crate::task::{Task, UnixMs};

/// The most tasks that one call promotes.
const PROMOTE_BATCH_SIZE: usize = 200;

impl PartitionCore {
    /// Stores a new task that is due at `due`; replies as the enqueue script does: 1 for a task
    /// that was written, 0 for one that was there already, −1 − depth for a full backlog.
    pub(crate) async fn schedule_task(
        &self,
        task: &Task,
        queue: &TopicQueue,
        entry: EncodedEntry,
        due: UnixMs,
    ) -> Result<i64, StoreError> {
        let group = keys::group_name(queue);
        let tally_key = self.task_tally_key(task);
        let mut keys = vec![
            ("record_key", self.keys.record_key(&task.id)),
            ("stream", self.keys.stream_key(&queue.topic)),
            ("delayed_index", self.keys.delayed_index_key(&group)),
            ("result_key", self.keys.result_key(&task.id)),
            ("scheduled_tasks", self.keys.scheduled_tasks_key(&group)),
            ("scheduled_index", self.keys.scheduled_index_key(&group)),
        ];
        keys.extend(tally_key.clone().map(|key| ("declared_tally", key)));
        let limit_ms = queue.external_timeout.map(|limit| as_millis_u64(limit).to_string());
        let bytes = entry.data.len();
        let mut call = SCHEDULE_TASK
            .call_with_keys(&keys)
            .arg("group", &group)
            .arg("max_backlog", queue.max_backlog)
            .arg("data", entry.data)
            .arg("external_timeout_ms", limit_ms.unwrap_or_default())
            .arg("queue_name", keys::queue_name(queue))
            .arg("created_ms", task.created.0)
            .arg("retries", task.retries)
            .arg("own_instance_id", &self.instance_id)
            .arg("tally", tally_key.unwrap_or_default())
            .arg("delay_ms", millis_until(due));
        let owner = task.owner.as_ref().map(|owner| owner.digest().to_owned());
        let (route, epoch) = (task.route.clone(), format_epoch_and_group(task));
        let optional_fields =
            [("owner", owner), ("route", route), ("epoch", epoch), ("secret", entry.credentials)];
        for (field, value) in optional_fields {
            if let Some(value) = value {
                call = call.arg("field_name", field).arg("field_value", value);
            }
        }
        let target = EnqueueTarget::new(self);
        target.check_durability().await?;
        let reply = call.run(target.link_for(bytes)).await?;
        target.confirm_replies(&[Ok(reply)]).await?;
        Ok(reply)
    }

    /// Moves the scheduled tasks that are due into their streams.
    pub(crate) async fn promote_due_tasks(&self, queues: &[TopicQueue]) -> Result<(), StoreError> {
        if queues.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = queues.iter().map(keys::group_name).collect();
        let queue_keys: Vec<(&str, String)> = queues
            .iter()
            .zip(&groups)
            .flat_map(|(queue, group)| {
                [
                    ("stream", self.keys.stream_key(&queue.topic)),
                    ("scheduled_tasks", self.keys.scheduled_tasks_key(group)),
                    ("scheduled_index", self.keys.scheduled_index_key(group)),
                    ("deadline_index", self.keys.deadline_index_key(group)),
                ]
            })
            .collect();
        loop {
            let call = PROMOTE_DUE_TASKS
                .call_with_keys(&queue_keys)
                .arg("record_prefix", self.keys.record_prefix())
                .arg("max_tasks", PROMOTE_BATCH_SIZE)
                .arg_each("group", &groups);
            let (promoted, error): (usize, String) = call.run(&self.link).await?;
            if promoted < PROMOTE_BATCH_SIZE {
                return if error.is_empty() { Ok(()) } else { Err(error::from_error_text(&error)) };
            }
        }
    }
}
