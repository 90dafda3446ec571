//! New tasks, many in one call of the script (`batch.rs`); those that are not to run yet in calls
//! of their own.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::Value;

use super::batch::{BatchCall, BatchCallResult, distinct_with_positions};
use super::durable::DurableWriter;
use super::link::MasterLink;
use super::message::encode_entry;
use super::partition::Partition;
use super::script::{ENQUEUE_TASKS, SCHEDULE_TASK, parse_int_reply};
use super::{as_millis_u64, keys, millis_until, unix_now};
use crate::config::GroupStartPosition;
use crate::store::{StoreError, StoreRefusal, TopicQueue};
use crate::task::{Task, UnixMs};

/// A new task, as the script takes it.
pub(super) struct EnqueueItem {
    /// The queue's keys: stream, delayed index, index of limits, delayed new tasks, where the
    /// group began.
    queue_keys: [String; 5],
    group: String,
    max_backlog: u64,
    /// Whether the group begins after what others have read.
    starts_after_existing: bool,
    /// The task's keys: record, result.
    task_keys: [String; 2],
    /// `<topic>:<agent>`
    queue_name: String,
    entry_data: String,
    /// What its record says beside name and entry.
    record_fields: String,
    /// Within what others must end it, ms.
    limit_ms: Option<u64>,
    /// The tally that it is counted in: declared, so that it is there.
    tally_key: Option<String>,
}

/// Where the calls go.
struct EnqueueTarget<'a> {
    link: &'a MasterLink,
    durable: Option<&'a DurableWriter>,
}

impl Partition {
    pub(super) async fn enqueue_task(
        &self,
        task: &Task,
        queue: &TopicQueue,
    ) -> Result<(), StoreError> {
        let (data, secret) = encode_entry(task, queue)?;
        let reply = match task.due.filter(|due| *due > unix_now()) {
            Some(due) => self.schedule_task(task, queue, data, secret, due).await?,
            None => {
                self.enqueue_batch
                    .submit_item(
                        self.build_enqueue_item(task, queue, data, secret),
                        &self.enqueue_target(),
                    )
                    .await?
            }
        };
        if reply >= 0 {
            return Ok(());
        }
        let depth = u64::try_from(-1 - reply).unwrap_or_default();
        Err(StoreRefusal::BacklogFull { topic: queue.topic.clone(), depth, max: queue.max_backlog }
            .into())
    }

    fn enqueue_target(&self) -> EnqueueTarget<'_> {
        let durable = self.durable_writer.as_ref();
        EnqueueTarget { link: durable.map_or(&self.link, |durable| &durable.link), durable }
    }

    fn build_enqueue_item(
        &self,
        task: &Task,
        queue: &TopicQueue,
        data: String,
        secret: Option<String>,
    ) -> EnqueueItem {
        let group = keys::group_name(queue);
        let owner = task.owner.as_ref().map_or("", |owner| owner.digest());
        let (route, secret) =
            (task.route.as_deref().unwrap_or_default(), secret.unwrap_or_default());
        let epoch = format_epoch_and_group(task).unwrap_or_default();
        let mut rest = format!("{} {} {}", task.created.0, task.retries, self.instance_id);
        if [owner, route, &secret].iter().any(|known| !known.is_empty()) {
            rest = format!("{rest}\n{owner}\n{route}\n{epoch}\n{secret}");
        }
        EnqueueItem {
            queue_keys: [
                self.keys.stream_key(&queue.topic),
                self.keys.delayed_index_key(&group),
                self.keys.deadline_index_key(&group),
                self.keys.scheduled_tasks_key(&group),
                self.keys.group_start_key(&group),
            ],
            group,
            max_backlog: queue.max_backlog,
            starts_after_existing: queue.group_start == GroupStartPosition::NewEntries,
            task_keys: [self.keys.record_key(&task.id), self.keys.result_key(&task.id)],
            queue_name: format!("{}:{}", queue.topic, queue.agent),
            entry_data: data,
            record_fields: rest,
            limit_ms: queue.external_timeout.map(as_millis_u64),
            tally_key: self.task_tally_key(task),
        }
    }

    /// The tally that a task is counted in, if it is.
    pub(super) fn task_tally_key(&self, task: &Task) -> Option<String> {
        tally_route_and_epoch(task).map(|(route, epoch)| self.keys.tally_key(route, epoch))
    }

    async fn schedule_task(
        &self,
        task: &Task,
        queue: &TopicQueue,
        data: String,
        secret: Option<String>,
        due: UnixMs,
    ) -> Result<i64, StoreError> {
        let group = keys::group_name(queue);
        let tally = self.task_tally_key(task);
        let mut all = vec![
            self.keys.record_key(&task.id),
            self.keys.stream_key(&queue.topic),
            self.keys.delayed_index_key(&group),
            self.keys.result_key(&task.id),
            self.keys.scheduled_tasks_key(&group),
            self.keys.scheduled_index_key(&group),
        ];
        all.extend(tally.clone());
        let mut call = SCHEDULE_TASK
            .call_with_keys(&all)
            .arg(&group)
            .arg(queue.max_backlog)
            .arg(data)
            .arg(
                queue
                    .external_timeout
                    .map(|limit| as_millis_u64(limit).to_string())
                    .unwrap_or_default(),
            )
            .arg(format!("{}:{}", queue.topic, queue.agent))
            .arg(task.created.0)
            .arg(task.retries)
            .arg(&self.instance_id)
            .arg(tally.unwrap_or_default())
            .arg(millis_until(due));
        let owner = task.owner.as_ref().map(|owner| owner.digest().to_owned());
        let (route, epoch) = (task.route.clone(), format_epoch_and_group(task));
        for (field, value) in
            [("owner", owner), ("route", route), ("epoch", epoch), ("secret", secret)]
        {
            if let Some(value) = value {
                call = call.arg(field).arg(value);
            }
        }
        let to = self.enqueue_target();
        to.check_durability().await?;
        let reply = call.run(to.link).await?;
        to.confirm_replies(&[Ok(reply)]).await?;
        Ok(reply)
    }
}

/// The route and the epoch that a task is counted under.
fn tally_route_and_epoch(task: &Task) -> Option<(&str, u64)> {
    task.route.as_deref().zip(task.epoch)
}

/// The epoch and the group of its client, as [`super::row`] reads them.
fn format_epoch_and_group(task: &Task) -> Option<String> {
    let (_, epoch) = tally_route_and_epoch(task)?;
    Some(
        task.client_group.map_or_else(|| epoch.to_string(), |clients| format!("{epoch}.{clients}")),
    )
}

impl EnqueueTarget<'_> {
    async fn check_durability(&self) -> Result<(), StoreError> {
        match self.durable {
            Some(durable) => durable.refuse_if_unconfirmed().await,
            None => Ok(()),
        }
    }

    /// Has confirmed what the call made, or found.
    async fn confirm_replies(&self, replies: &[Result<i64, StoreError>]) -> Result<(), StoreError> {
        match self.durable {
            Some(durable) if replies.iter().flatten().any(|reply| *reply >= 0) => {
                durable.await_confirmation(replies.contains(&Ok(1))).await
            }
            _ => Ok(()),
        }
    }
}

impl BatchCall for EnqueueTarget<'_> {
    type Item = EnqueueItem;
    /// As the script has it.
    type Reply = i64;

    fn estimate_item_bytes(new: &EnqueueItem) -> usize {
        new.entry_data.len() + new.record_fields.len()
    }

    async fn send_batch(&self, tasks: &[Arc<EnqueueItem>]) -> BatchCallResult<i64> {
        let (queues, of_queue) = distinct_with_positions(tasks, |one, other| {
            one.group == other.group
                && one.queue_keys == other.queue_keys
                && one.max_backlog == other.max_backlog
                && one.starts_after_existing == other.starts_after_existing
        });
        let mut all: Vec<&str> =
            queues.iter().flat_map(|new| new.queue_keys.iter().map(String::as_str)).collect();
        all.extend(tasks.iter().flat_map(|new| new.task_keys.iter().map(String::as_str)));
        let tallies: BTreeSet<&str> =
            tasks.iter().filter_map(|new| new.tally_key.as_deref()).collect();
        all.extend(tallies);
        let mut call = ENQUEUE_TASKS.call_with_keys(&all).arg(queues.len()).arg(tasks.len());
        for new in &queues {
            call = call.arg(&new.group).arg(new.max_backlog).arg(new.starts_after_existing);
        }
        for (new, queue) in tasks.iter().zip(of_queue) {
            let limit = new.limit_ms.map(|limit| limit.to_string()).unwrap_or_default();
            call = call.arg(queue).arg(&[
                &new.queue_name,
                &new.entry_data,
                &new.record_fields,
                &limit,
                new.tally_key.as_deref().unwrap_or_default(),
            ]);
        }
        self.check_durability().await?;
        let replies: Vec<Value> = call.run(self.link).await?;
        let replies: Vec<_> = replies.into_iter().map(parse_int_reply).collect();
        self.confirm_replies(&replies).await?;
        Ok(replies)
    }
}
