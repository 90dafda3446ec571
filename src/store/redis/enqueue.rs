//! New tasks, many in one call of the script (`batch.rs`); those that are not to run yet in calls of their own.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::Value;

use super::batch::{Answers, Calls, distinct};
use super::durable::Durable;
use super::link::Link;
use super::message::write;
use super::partition::Partition;
use super::script::{ENQUEUE, SCHEDULE, number};
use super::{keys, millis, now, until};
use crate::config::GroupStart;
use crate::store::{Queue, Refusal, StoreError};
use crate::task::{Task, UnixMs};

/// A new task, as the script takes it.
pub(super) struct New {
    /// The queue's keys: stream, delayed index, index of limits, delayed new tasks, where the group began.
    queue: [String; 5],
    group: String,
    max: u64,
    /// Whether the group begins after what others have read.
    late: bool,
    /// The task's keys: record, result.
    keys: [String; 2],
    /// `<topic>:<agent>`
    name: String,
    data: String,
    /// What its record says beside name and entry.
    rest: String,
    /// Within what others must end it, ms.
    limit: Option<u64>,
    /// The tally that it is counted in: declared, so that it is there.
    tally: Option<String>,
}

/// Where the calls go.
struct To<'a> {
    link: &'a Link,
    durable: Option<&'a Durable>,
}

impl Partition {
    pub(super) async fn enqueue_task(&self, task: &Task, queue: &Queue) -> Result<(), StoreError> {
        let (data, secret) = write(task, queue)?;
        let reply = match task.due.filter(|due| *due > now()) {
            Some(due) => self.schedule(task, queue, data, secret, due).await?,
            None => self.enqueuing.run(self.new_task(task, queue, data, secret), &self.to()).await?,
        };
        if reply >= 0 {
            return Ok(());
        }
        let depth = u64::try_from(-1 - reply).unwrap_or_default();
        Err(Refusal::Backlog { topic: queue.topic.clone(), depth, max: queue.max_backlog }.into())
    }

    fn to(&self) -> To<'_> {
        let durable = self.durable.as_ref();
        To { link: durable.map_or(&self.link, |durable| &durable.link), durable }
    }

    fn new_task(&self, task: &Task, queue: &Queue, data: String, secret: Option<String>) -> New {
        let group = keys::group(queue);
        let owner = task.owner.as_ref().map_or("", |owner| owner.digest());
        let (route, secret) = (task.route.as_deref().unwrap_or_default(), secret.unwrap_or_default());
        let epoch = written_epoch(task).unwrap_or_default();
        let mut rest = format!("{} {} {}", task.created.0, task.retries, self.name);
        if [owner, route, &secret].iter().any(|known| !known.is_empty()) {
            rest = format!("{rest}\n{owner}\n{route}\n{epoch}\n{secret}");
        }
        New {
            queue: [
                self.keys.stream(&queue.topic),
                self.keys.delayed(&group),
                self.keys.limits(&group),
                self.keys.scheduled(&group),
                self.keys.start(&group),
            ],
            group,
            max: queue.max_backlog,
            late: queue.start == GroupStart::New,
            keys: [self.keys.record(&task.id), self.keys.result(&task.id)],
            name: format!("{}:{}", queue.topic, queue.agent),
            data,
            rest,
            limit: queue.limit.map(millis),
            tally: self.tally_of(task),
        }
    }

    /// The tally that a task is counted in, if it is.
    pub(super) fn tally_of(&self, task: &Task) -> Option<String> {
        counted(task).map(|(route, epoch)| self.keys.tally(route, epoch))
    }

    async fn schedule(
        &self,
        task: &Task,
        queue: &Queue,
        data: String,
        secret: Option<String>,
        due: UnixMs,
    ) -> Result<i64, StoreError> {
        let group = keys::group(queue);
        let tally = self.tally_of(task);
        let mut all = vec![
            self.keys.record(&task.id),
            self.keys.stream(&queue.topic),
            self.keys.delayed(&group),
            self.keys.result(&task.id),
            self.keys.scheduled(&group),
            self.keys.due(&group),
        ];
        all.extend(tally.clone());
        let mut call = SCHEDULE
            .keys(&all)
            .arg(&group)
            .arg(queue.max_backlog)
            .arg(data)
            .arg(queue.limit.map(|limit| millis(limit).to_string()).unwrap_or_default())
            .arg(format!("{}:{}", queue.topic, queue.agent))
            .arg(task.created.0)
            .arg(task.retries)
            .arg(&self.name)
            .arg(tally.unwrap_or_default())
            .arg(until(due));
        let owner = task.owner.as_ref().map(|owner| owner.digest().to_owned());
        let (route, epoch) = (task.route.clone(), written_epoch(task));
        for (field, value) in [("owner", owner), ("route", route), ("epoch", epoch), ("secret", secret)] {
            if let Some(value) = value {
                call = call.arg(field).arg(value);
            }
        }
        let to = self.to();
        to.begin().await?;
        let reply = call.run(to.link).await?;
        to.confirm(&[Ok(reply)]).await?;
        Ok(reply)
    }
}

/// The route and the epoch that a task is counted under.
fn counted(task: &Task) -> Option<(&str, u64)> {
    task.route.as_deref().zip(task.epoch)
}

/// The epoch and the group of its client, as [`super::row`] reads them.
fn written_epoch(task: &Task) -> Option<String> {
    let (_, epoch) = counted(task)?;
    Some(task.clients.map_or_else(|| epoch.to_string(), |clients| format!("{epoch}.{clients}")))
}

impl To<'_> {
    async fn begin(&self) -> Result<(), StoreError> {
        match self.durable {
            Some(durable) => durable.check().await,
            None => Ok(()),
        }
    }

    /// Has confirmed what the call made, or found.
    async fn confirm(&self, replies: &[Result<i64, StoreError>]) -> Result<(), StoreError> {
        match self.durable {
            Some(durable) if replies.iter().flatten().any(|reply| *reply >= 0) => {
                durable.confirm(replies.contains(&Ok(1))).await
            }
            _ => Ok(()),
        }
    }
}

impl Calls for To<'_> {
    type Item = New;
    /// As the script has it.
    type Reply = i64;

    fn bytes(new: &New) -> usize {
        new.data.len() + new.rest.len()
    }

    async fn call(&self, tasks: &[Arc<New>]) -> Answers<i64> {
        let (queues, of_queue) = distinct(tasks, |one, other| {
            one.group == other.group && one.queue == other.queue && one.max == other.max && one.late == other.late
        });
        let mut all: Vec<&str> = queues.iter().flat_map(|new| new.queue.iter().map(String::as_str)).collect();
        all.extend(tasks.iter().flat_map(|new| new.keys.iter().map(String::as_str)));
        let tallies: BTreeSet<&str> = tasks.iter().filter_map(|new| new.tally.as_deref()).collect();
        all.extend(tallies);
        let mut call = ENQUEUE.keys(&all).arg(queues.len()).arg(tasks.len());
        for new in &queues {
            call = call.arg(&new.group).arg(new.max).arg(new.late);
        }
        for (new, queue) in tasks.iter().zip(of_queue) {
            let limit = new.limit.map(|limit| limit.to_string()).unwrap_or_default();
            call = call.arg(queue).arg(&[
                &new.name,
                &new.data,
                &new.rest,
                &limit,
                new.tally.as_deref().unwrap_or_default(),
            ]);
        }
        self.begin().await?;
        let replies: Vec<Value> = call.run(self.link).await?;
        let replies: Vec<_> = replies.into_iter().map(number).collect();
        self.confirm(&replies).await?;
        Ok(replies)
    }
}
