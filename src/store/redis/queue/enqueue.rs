//! New tasks that may run at once, many of them in one call of the script (`script/batch.rs`).
//! Tasks that are due later are written by `queue/scheduled.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::Value;

use crate::config::GroupStartPosition;
use crate::store::redis::conn::error::unreadable_batch_reply;
use crate::store::redis::core::PartitionCore;
use crate::store::redis::queue::enqueue_target::EnqueueTarget;
use crate::store::redis::script::batch::{
    BatchCall, BatchCallResult, CallBatcher, distinct_with_positions,
};
use crate::store::redis::script::runner::{ENQUEUE_TASKS, NamedKey, parse_int_reply};
use crate::store::redis::time::{as_millis_u64, unix_now};
use crate::store::redis::wire::entry::{EncodedEntry, encode_entry};
use crate::store::redis::wire::keys;
use crate::store::redis::wire::packed_record::pack_record_fields;
use crate::store::{StoreError, StoreRefusal, TopicQueue};
use crate::task::{Task, Topic};

/// The argument of a task whose queue has no limit of open tasks.
const NO_LIMIT: i64 = -1;

/// Queues the new tasks of one partition.
pub(crate) struct TaskEnqueuer {
    core: Arc<PartitionCore>,
    /// New tasks that wait for a call.
    batcher: Arc<CallBatcher<EnqueueItem, i64>>,
}

/// A new task, as the script takes it.
pub(crate) struct EnqueueItem {
    /// The queue's keys: stream, delayed index, deadline index, scheduled tasks, group start.
    queue_keys: [NamedKey; 5],
    group: String,
    topic: Topic,
    max_backlog: u64,
    max_open_tasks: Option<u64>,
    /// Whether the group, where the script creates it, begins after the existing entries.
    starts_after_existing: bool,
    /// The task's keys: record, result.
    task_keys: [NamedKey; 2],
    queue_name: String,
    entry_data: String,
    /// The fields of the packed record after the entry id.
    record_fields: String,
    /// Within how many ms an external consumer must end the task.
    limit_ms: Option<u64>,
    /// The tally that counts the task, among the call's keys so that the script may write it.
    tally_key: Option<String>,
}

impl TaskEnqueuer {
    /// The enqueuer of a partition.
    pub(crate) fn new(core: Arc<PartitionCore>) -> Self {
        Self { core, batcher: Arc::default() }
    }

    /// Queues a task, or schedules it where it is due later.
    ///
    /// # Errors
    /// [`StoreRefusal::BacklogFull`] where `max_backlog` tasks wait already,
    /// [`StoreRefusal::Saturated`] where `max_open_tasks` wait or run.
    pub(crate) async fn enqueue_task(
        &self,
        task: &Task,
        queue: &TopicQueue,
    ) -> Result<(), StoreError> {
        let entry = encode_entry(task, queue)?;
        let reply = if let Some(due) = task.due.filter(|due| *due > unix_now()) {
            self.core.schedule_task(task, queue, entry, due).await?
        } else {
            let item = self.build_item(task, queue, entry);
            self.batcher.submit_item(item, &EnqueueTarget::new(&self.core)).await?
        };
        if reply >= 0 {
            return Ok(());
        }
        // the scripts reply −1 − depth where the backlog is full
        let depth = u64::try_from(-1 - reply).unwrap_or_default();
        Err(StoreRefusal::BacklogFull { topic: queue.topic.clone(), depth, max: queue.max_backlog }
            .into())
    }

    fn build_item(&self, task: &Task, queue: &TopicQueue, entry: EncodedEntry) -> EnqueueItem {
        let (keys, group) = (&self.core.keys, keys::group_name(queue));
        EnqueueItem {
            queue_keys: [
                ("stream", keys.stream_key(&queue.topic)),
                ("delayed_index", keys.delayed_index_key(&group)),
                ("deadline_index", keys.deadline_index_key(&group)),
                ("scheduled_tasks", keys.scheduled_tasks_key(&group)),
                ("group_start_key", keys.group_start_key(&group)),
            ],
            group,
            topic: queue.topic.clone(),
            max_backlog: queue.max_backlog,
            max_open_tasks: queue.max_open_tasks,
            starts_after_existing: queue.group_start == GroupStartPosition::NewEntries,
            task_keys: [
                ("record_key", keys.record_key(&task.id)),
                ("result_key", keys.result_key(&task.id)),
            ],
            queue_name: keys::queue_name(queue),
            record_fields: pack_record_fields(
                task,
                &self.core.instance_id,
                entry.credentials.as_deref(),
            ),
            entry_data: entry.data,
            limit_ms: queue.external_timeout.map(as_millis_u64),
            tally_key: self.core.task_tally_key(task),
        }
    }
}

impl EnqueueItem {
    /// The script's reply to this item.
    fn parse_reply(&self, reply: Value) -> Result<i64, StoreError> {
        match &reply {
            // {n}: n tasks are open
            Value::Array(open) => match (&open[..], self.max_open_tasks) {
                ([Value::Int(open)], Some(max)) => Err(StoreRefusal::Saturated {
                    topic: self.topic.clone(),
                    open: u64::try_from(*open).unwrap_or_default(),
                    max,
                }
                .into()),
                _ => Err(unreadable_batch_reply()),
            },
            _ => parse_int_reply(reply),
        }
    }

    fn has_same_queue(&self, other: &Self) -> bool {
        self.group == other.group
            && self.queue_keys == other.queue_keys
            && self.max_backlog == other.max_backlog
            && self.starts_after_existing == other.starts_after_existing
    }
}

impl BatchCall for EnqueueTarget<'_> {
    type Item = EnqueueItem;
    /// 1 for a task that was written, 0 for one that was there already, −1 − depth for one that the
    /// backlog refused.
    type Reply = i64;

    fn estimate_item_bytes(item: &EnqueueItem) -> usize {
        item.entry_data.len() + item.record_fields.len()
    }

    async fn send_batch(&self, items: &[Arc<EnqueueItem>]) -> BatchCallResult<i64> {
        let (queues, queue_positions) = distinct_with_positions(items, EnqueueItem::has_same_queue);
        let mut keys: Vec<(&str, &str)> = queues
            .iter()
            .flat_map(|item| item.queue_keys.iter())
            .chain(items.iter().flat_map(|item| item.task_keys.iter()))
            .map(|(name, key)| (*name, key.as_str()))
            .collect();
        let tally_keys: BTreeSet<&str> =
            items.iter().filter_map(|item| item.tally_key.as_deref()).collect();
        keys.extend(tally_keys.into_iter().map(|key| ("declared_tally", key)));
        let mut call = ENQUEUE_TASKS
            .call_with_keys(&keys)
            .arg("queue_count", queues.len())
            .arg("task_count", items.len());
        for item in &queues {
            call = call
                .arg("group", &item.group)
                .arg("max_backlog", item.max_backlog)
                .arg("starts_at_end", item.starts_after_existing);
        }
        for (item, queue_position) in items.iter().zip(queue_positions) {
            let limit = item.limit_ms.map(|limit| limit.to_string()).unwrap_or_default();
            call = call
                .arg("position", queue_position)
                .arg("queue_name", &item.queue_name)
                .arg("data", &item.entry_data)
                .arg("record_rest", &item.record_fields)
                .arg("max_open", item.max_open_tasks.map_or(NO_LIMIT, clamp_to_i64))
                .arg("external_timeout_ms", &limit)
                .arg("tally", item.tally_key.as_deref().unwrap_or_default());
        }
        self.check_durability().await?;
        let largest = items.iter().map(|item| Self::estimate_item_bytes(item)).max();
        let link = self.link_for(largest.unwrap_or_default());
        let replies: Vec<Value> = call.run(link).await?;
        let parse = |(item, reply): (&Arc<EnqueueItem>, Value)| item.parse_reply(reply);
        let replies: Vec<_> = items.iter().zip(replies).map(parse).collect();
        self.confirm_replies(&replies).await?;
        Ok(replies)
    }
}

fn clamp_to_i64(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
