//! What goes to more than one partition: housekeeping, counts, lists.
//!
//! Partitions are asked at the same time, so that one of them that does not answer costs one timeout.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};

use super::RedisStore;
use super::partition::{Partition, index};
use crate::store::list::no_cursor;
use crate::store::{
    Buried, Claim, DeadLetter, Delivery, Depth, Glance, Lease, Listing, Page, Queue, Redriven, Refusal, StoreError,
};
use crate::task::{Task, TaskId};

impl RedisStore {
    /// The partition of a task.
    pub(super) fn of(&self, id: &TaskId) -> &Partition {
        &self.partitions[index(id, self.partitions.len())]
    }

    /// The partition of what is of no task.
    pub(super) fn first(&self) -> &Partition {
        &self.partitions[0]
    }

    /// Things of tasks, by partition; without the partitions of none.
    pub(super) fn by_partition<T>(
        &self,
        things: impl IntoIterator<Item = T>,
        id: impl Fn(&T) -> &TaskId,
    ) -> Vec<(&Partition, Vec<T>)> {
        let mut sorted: Vec<_> = self.partitions.iter().map(|partition| (partition, Vec::new())).collect();
        for thing in things {
            let at = index(id(&thing), self.partitions.len());
            sorted[at].1.push(thing);
        }
        sorted.retain(|(_, things)| !things.is_empty());
        sorted
    }

    /// Whether each partition answers.
    pub(super) async fn ping_all(&self) -> Result<(), StoreError> {
        let pings = self.partitions.iter().map(async |partition| {
            let mut ping = redis::cmd("PING");
            if self.partitions[0].keys.is_tagged() {
                // a ping tells nothing of whose the slot is
                ping = redis::cmd("EXISTS");
                ping.arg(partition.keys.partitions());
            }
            partition.link.call::<redis::Value>(&ping).await
        });
        try_join_all(pings).await.map(|_| ())
    }

    pub(super) async fn promote_everywhere(&self, queues: &[Queue]) -> Result<(), StoreError> {
        try_join_all(self.partitions.iter().map(|partition| partition.promote_due(queues))).await.map(|_| ())
    }

    /// Each gives its share; what was taken is given, even where another partition fails.
    pub(super) async fn take_everywhere(
        &self,
        max: usize,
        hold: std::time::Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        let share = max.div_ceil(self.partitions.len());
        let (mut taken, mut failed) = (Vec::new(), None);
        for partition in join_all(self.partitions.iter().map(|partition| partition.take_due(share, hold))).await {
            match partition {
                Ok(deliveries) => taken.extend(deliveries),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if taken.is_empty() => Err(error),
            _ => Ok(taken),
        }
    }

    pub(super) async fn outbox_everywhere(&self) -> Result<u64, StoreError> {
        let counts = try_join_all(self.partitions.iter().map(Partition::count_outbox)).await?;
        Ok(counts.into_iter().sum())
    }

    /// The partition of a claim: its scope is a digest, and as good a name as a task's.
    pub(super) fn of_claim(&self, claim: &Claim) -> Result<&Partition, StoreError> {
        TaskId::parse(&claim.scope).map(|name| self.of(&name)).map_err(|error| StoreError::Malformed(error.to_string()))
    }

    /// Each partition takes its share of the backlog.
    pub(super) async fn enqueue_in_partition(&self, task: &Task, queue: &Queue) -> Result<(), StoreError> {
        let partition = self.of(&task.id);
        let count = u64::try_from(self.partitions.len()).unwrap_or(1);
        if count == 1 {
            return partition.enqueue_task(task, queue).await;
        }
        let share = Queue { max_backlog: queue.max_backlog.div_ceil(count), ..queue.clone() };
        partition.enqueue_task(task, &share).await.map_err(|error| match error {
            StoreError::Refused(Refusal::Backlog { topic, depth, .. }) => {
                Refusal::Backlog { topic, depth: depth.saturating_mul(count), max: queue.max_backlog }.into()
            }
            other => other,
        })
    }

    pub(super) async fn renew_everywhere(&self, process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        if let [only] = &self.partitions[..] {
            return only.renew_leases(process, leases).await;
        }
        let sorted = self.by_partition(leases.iter().cloned(), |lease| &lease.task.id);
        let renewals = sorted.iter().map(|(partition, leases)| partition.renew_leases(process, leases));
        Ok(join_all(renewals).await.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    pub(super) async fn tend_everywhere(
        &self,
        process: &str,
        queues: &[Queue],
        ttl: Duration,
    ) -> Result<Vec<Buried>, StoreError> {
        let rounds = self.partitions.iter().map(|partition| partition.tend_queues(self.first(), process, queues, ttl));
        all_buried(rounds).await
    }

    pub(super) async fn attend_everywhere(&self, queues: &[Queue], ttl: Duration) -> Result<Vec<Buried>, StoreError> {
        all_buried(self.partitions.iter().map(|partition| partition.attend_queues(queues, ttl))).await
    }

    /// In the order of `ids`.
    pub(super) async fn glance_everywhere(&self, ids: &[TaskId]) -> Result<Vec<Glance>, StoreError> {
        let sorted = self.by_partition(ids.iter().enumerate(), |(_, id)| id);
        let looks = sorted.iter().map(|(partition, asked)| async move {
            let ids: Vec<TaskId> = asked.iter().map(|(_, id)| (*id).clone()).collect();
            partition.glance_at(&ids).await
        });
        let mut seen = vec![Glance::Unknown; ids.len()];
        for ((_, asked), looked) in sorted.iter().zip(try_join_all(looks).await?) {
            for ((at, _), glance) in asked.iter().zip(looked) {
                seen[*at] = glance;
            }
        }
        Ok(seen)
    }

    /// A partition after the other: a page is of one of them, and its cursor says which.
    pub(super) async fn list_everywhere(&self, queues: &[Queue], listing: &Listing) -> Result<Page, StoreError> {
        if let [only] = &self.partitions[..] {
            return only.list_tasks(queues, listing).await;
        }
        let (at, after) = match listing.after.as_deref() {
            None => (0, ""),
            Some(cursor) => cursor
                .split_once('.')
                .and_then(|(at, rest)| Some((at.parse().ok()?, rest)))
                .ok_or_else(|| no_cursor("after"))?,
        };
        let partition = self.partitions.get(at).ok_or_else(|| no_cursor("after"))?;
        let after = Some(after.to_owned()).filter(|after| !after.is_empty());
        let mut page = partition.list_tasks(queues, &Listing { after, ..listing.clone() }).await?;
        let next_partition = (at + 1 < self.partitions.len()).then(|| format!("{}.", at + 1));
        page.next = page.next.map(|next| format!("{at}.{next}")).or(next_partition);
        Ok(page)
    }

    pub(super) async fn depths_everywhere(&self, queues: &[Queue]) -> Result<Vec<Depth>, StoreError> {
        let mut sums = vec![Depth::default(); queues.len()];
        for depths in try_join_all(self.partitions.iter().map(|partition| partition.read_depths(queues))).await? {
            for (sum, depth) in sums.iter_mut().zip(depths) {
                sum.queued += depth.queued;
                sum.processing += depth.processing;
                sum.dead += depth.dead;
                sum.oldest = sum.oldest.max(depth.oldest);
            }
        }
        Ok(sums)
    }

    pub(super) async fn dead_letters_everywhere(
        &self,
        queue: &Queue,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let asked = self.partitions.iter().map(|partition| partition.read_dead_letters(queue, before, limit));
        let mut letters = try_join_all(asked).await?.concat();
        if self.partitions.len() > 1 {
            letters.sort_by_key(|letter| std::cmp::Reverse(letter.failed));
            letters.truncate(limit);
        }
        Ok(letters)
    }

    /// A dead letter is where its task was; one without a task's id may be anywhere.
    pub(super) async fn redrive_anywhere(
        &self,
        queue: &Queue,
        id: &str,
        now: crate::task::UnixMs,
    ) -> Result<Redriven, StoreError> {
        for partition in &self.partitions {
            match partition.redrive_letter(queue, id, now).await? {
                Redriven::Unknown => {}
                redriven => return Ok(redriven),
            }
        }
        Ok(Redriven::Unknown)
    }

    pub(super) async fn discard_anywhere(&self, queue: &Queue, id: &str) -> Result<bool, StoreError> {
        for partition in &self.partitions {
            if partition.discard_letter(queue, id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What was buried counts, even where another partition fails.
async fn all_buried(
    rounds: impl Iterator<Item = impl Future<Output = Result<Vec<Buried>, StoreError>>>,
) -> Result<Vec<Buried>, StoreError> {
    let (mut buried, mut failed) = (Vec::new(), None);
    for round in join_all(rounds).await {
        match round {
            Ok(dead) => buried.extend(dead),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if buried.is_empty() => Err(error),
        _ => Ok(buried),
    }
}
