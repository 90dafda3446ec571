//! What goes to more than one partition: housekeeping, counts, lists.
//!
//! Partitions are asked at the same time, so that one of them that does not answer costs one
//! timeout.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};

use super::RedisStore;
use super::partition::{Partition, partition_index};
use crate::store::error::invalid_cursor;
use crate::store::{
    BuriedTask, DeadLetter, Delivery, IdempotencyClaim, Lease, QueueDepth, RedriveResult,
    StoreError, StoreRefusal, TaskListPage, TaskListRequest, TaskLookup, TopicQueue,
};
use crate::task::{Task, TaskId};

impl RedisStore {
    /// The partition of a task.
    pub(super) fn partition_of_task(&self, id: &TaskId) -> &Partition {
        &self.partitions[partition_index(id, self.partitions.len())]
    }

    /// The partition of what is of no task.
    pub(super) fn first_partition(&self) -> &Partition {
        &self.partitions[0]
    }

    /// Things of tasks, by partition; without the partitions of none.
    pub(super) fn group_by_partition<T>(
        &self,
        things: impl IntoIterator<Item = T>,
        id: impl Fn(&T) -> &TaskId,
    ) -> Vec<(&Partition, Vec<T>)> {
        let mut sorted: Vec<_> =
            self.partitions.iter().map(|partition| (partition, Vec::new())).collect();
        for thing in things {
            let at = partition_index(id(&thing), self.partitions.len());
            sorted[at].1.push(thing);
        }
        sorted.retain(|(_, things)| !things.is_empty());
        sorted
    }

    /// Whether each partition answers.
    pub(super) async fn ping_all_partitions(&self) -> Result<(), StoreError> {
        let pings = self.partitions.iter().map(async |partition| {
            let mut ping = redis::cmd("PING");
            if self.partitions[0].keys.has_hash_tag() {
                // a ping tells nothing of whose the slot is
                ping = redis::cmd("EXISTS");
                ping.arg(partition.keys.partition_count_key());
            }
            partition.link.send_command::<redis::Value>(&ping).await
        });
        try_join_all(pings).await.map(|_| ())
    }

    pub(super) async fn promote_all_partitions(
        &self,
        queues: &[TopicQueue],
    ) -> Result<(), StoreError> {
        try_join_all(self.partitions.iter().map(|partition| partition.promote_due_tasks(queues)))
            .await
            .map(|_| ())
    }

    /// Each gives its share; what was taken is given, even where another partition fails.
    pub(super) async fn take_deliveries_all_partitions(
        &self,
        max: usize,
        hold: std::time::Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        let share = max.div_ceil(self.partitions.len());
        let (mut taken, mut failed) = (Vec::new(), None);
        for partition in join_all(
            self.partitions.iter().map(|partition| partition.claim_due_deliveries(share, hold)),
        )
        .await
        {
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

    pub(super) async fn outbox_depth_all_partitions(&self) -> Result<u64, StoreError> {
        let counts =
            try_join_all(self.partitions.iter().map(Partition::count_outbox_entries)).await?;
        Ok(counts.into_iter().sum())
    }

    /// The partition of a claim: its scope is a digest, and as good a name as a task's.
    pub(super) fn partition_of_claim(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<&Partition, StoreError> {
        TaskId::parse(&claim.scope_digest)
            .map(|name| self.partition_of_task(&name))
            .map_err(|error| StoreError::Malformed(error.to_string()))
    }

    /// Each partition takes its share of the backlog.
    pub(super) async fn enqueue_in_partition(
        &self,
        task: &Task,
        queue: &TopicQueue,
    ) -> Result<(), StoreError> {
        let partition = self.partition_of_task(&task.id);
        let count = u64::try_from(self.partitions.len()).unwrap_or(1);
        if count == 1 {
            return partition.enqueue_task(task, queue).await;
        }
        let share = TopicQueue { max_backlog: queue.max_backlog.div_ceil(count), ..queue.clone() };
        partition.enqueue_task(task, &share).await.map_err(|error| match error {
            StoreError::Refused(StoreRefusal::BacklogFull { topic, depth, .. }) => {
                StoreRefusal::BacklogFull {
                    topic,
                    depth: depth.saturating_mul(count),
                    max: queue.max_backlog,
                }
                .into()
            }
            other => other,
        })
    }

    pub(super) async fn renew_all_partitions(
        &self,
        process: &str,
        leases: &[Lease],
    ) -> Result<Vec<TaskId>, StoreError> {
        if let [only] = &self.partitions[..] {
            return only.renew_leases(process, leases).await;
        }
        let sorted = self.group_by_partition(leases.iter().cloned(), |lease| &lease.task.id);
        let renewals =
            sorted.iter().map(|(partition, leases)| partition.renew_leases(process, leases));
        Ok(join_all(renewals).await.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    pub(super) async fn reap_expired_all_partitions(
        &self,
        process: &str,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let rounds = self
            .partitions
            .iter()
            .map(|partition| partition.reap_queues(self.first_partition(), process, queues, ttl));
        collect_buried(rounds).await
    }

    pub(super) async fn reconcile_all_partitions(
        &self,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        collect_buried(
            self.partitions
                .iter()
                .map(|partition| partition.reconcile_external_queues(queues, ttl)),
        )
        .await
    }

    /// In the order of `ids`.
    pub(super) async fn statuses_all_partitions(
        &self,
        ids: &[TaskId],
    ) -> Result<Vec<TaskLookup>, StoreError> {
        let sorted = self.group_by_partition(ids.iter().enumerate(), |(_, id)| id);
        let looks = sorted.iter().map(|(partition, asked)| async move {
            let ids: Vec<TaskId> = asked.iter().map(|(_, id)| (*id).clone()).collect();
            partition.read_statuses(&ids).await
        });
        let mut seen = vec![TaskLookup::NotFound; ids.len()];
        for ((_, asked), looked) in sorted.iter().zip(try_join_all(looks).await?) {
            for ((at, _), glance) in asked.iter().zip(looked) {
                seen[*at] = glance;
            }
        }
        Ok(seen)
    }

    /// A partition after the other: a page is of one of them, and its cursor says which.
    pub(super) async fn list_all_partitions(
        &self,
        queues: &[TopicQueue],
        listing: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError> {
        if let [only] = &self.partitions[..] {
            return only.list_tasks(queues, listing).await;
        }
        let (at, after) = match listing.after_cursor.as_deref() {
            None => (0, ""),
            Some(cursor) => cursor
                .split_once('.')
                .and_then(|(at, rest)| Some((at.parse().ok()?, rest)))
                .ok_or_else(|| invalid_cursor("after"))?,
        };
        let partition = self.partitions.get(at).ok_or_else(|| invalid_cursor("after"))?;
        let after = Some(after.to_owned()).filter(|after| !after.is_empty());
        let mut page = partition
            .list_tasks(queues, &TaskListRequest { after_cursor: after, ..listing.clone() })
            .await?;
        let next_partition = (at + 1 < self.partitions.len()).then(|| format!("{}.", at + 1));
        page.next_cursor = page.next_cursor.map(|next| format!("{at}.{next}")).or(next_partition);
        Ok(page)
    }

    pub(super) async fn depths_all_partitions(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueDepth>, StoreError> {
        let mut sums = vec![QueueDepth::default(); queues.len()];
        for depths in try_join_all(
            self.partitions.iter().map(|partition| partition.read_queue_depths(queues)),
        )
        .await?
        {
            for (sum, depth) in sums.iter_mut().zip(depths) {
                sum.queued += depth.queued;
                sum.processing += depth.processing;
                sum.dead_letters += depth.dead_letters;
                sum.oldest_age = sum.oldest_age.max(depth.oldest_age);
            }
        }
        Ok(sums)
    }

    pub(super) async fn dead_letters_all_partitions(
        &self,
        queue: &TopicQueue,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let asked = self
            .partitions
            .iter()
            .map(|partition| partition.read_dead_letters(queue, before, limit));
        let mut letters = try_join_all(asked).await?.concat();
        if self.partitions.len() > 1 {
            letters.sort_by_key(|letter| std::cmp::Reverse(letter.failed_at));
            letters.truncate(limit);
        }
        Ok(letters)
    }

    /// A dead letter is where its task was; one without a task's id may be anywhere.
    pub(super) async fn redrive_in_any_partition(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: crate::task::UnixMs,
    ) -> Result<RedriveResult, StoreError> {
        for partition in &self.partitions {
            match partition.redrive_dead_letter(queue, id, now).await? {
                RedriveResult::NoSuchDeadLetter => {}
                redriven => return Ok(redriven),
            }
        }
        Ok(RedriveResult::NoSuchDeadLetter)
    }

    pub(super) async fn discard_in_any_partition(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<bool, StoreError> {
        for partition in &self.partitions {
            if partition.discard_dead_letter(queue, id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What was buried counts, even where another partition fails.
async fn collect_buried(
    rounds: impl Iterator<Item = impl Future<Output = Result<Vec<BuriedTask>, StoreError>>>,
) -> Result<Vec<BuriedTask>, StoreError> {
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
