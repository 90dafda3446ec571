//! Calls that concern every partition: maintenance, counts and lists.
//!
//! Partitions are called at the same time, so that one that does not reply costs one timeout.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};

use crate::store::error::invalid_cursor;
use crate::store::redis::cluster::RedisStore;
use crate::store::redis::conn::advice::fetch_server_advice;
use crate::store::redis::wire::keys;
use crate::store::{
    BuriedTask, DeadLetter, Delivery, Lease, QueueConsumers, QueueDepth, ReprocessResult,
    ServerAdvice, StoreError, StoreRefusal, StoredEvidence, TaskListPage, TaskListRequest,
    TaskLookup, TopicQueue,
};
use crate::task::{Task, TaskId, UnixMs};

impl RedisStore {
    /// Succeeds if every partition replies.
    pub(crate) async fn ping_all_partitions(&self) -> Result<(), StoreError> {
        let pings = self.partitions.iter().map(async |partition| {
            let mut ping = redis::cmd("PING");
            if self.partitions[0].core.keys.has_hash_tag() {
                // PING succeeds on every node; a key command only on the owner of the slot
                ping = redis::cmd("EXISTS");
                ping.arg(partition.core.keys.partition_count_key());
            }
            partition.core.link.send_command::<redis::Value>(&ping).await
        });
        try_join_all(pings).await.map(|_| ())
    }

    /// Moves the scheduled tasks that are due into their streams.
    pub(crate) async fn promote_all_partitions(
        &self,
        queues: &[TopicQueue],
    ) -> Result<(), StoreError> {
        try_join_all(
            self.partitions.iter().map(|partition| partition.core.promote_due_tasks(queues)),
        )
        .await
        .map(|_| ())
    }

    /// Claims an equal share of `max` in each partition. Deliveries that were claimed are returned
    /// even if another partition fails.
    pub(crate) async fn take_deliveries_all_partitions(
        &self,
        max: usize,
        hold: Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        let share = max.div_ceil(self.partitions.len());
        collect_successes(
            self.partitions
                .iter()
                .map(|partition| partition.core.claim_due_deliveries(share, hold)),
        )
        .await
    }

    /// The number of pending deliveries.
    pub(crate) async fn outbox_depth_all_partitions(&self) -> Result<u64, StoreError> {
        let counts = try_join_all(
            self.partitions.iter().map(|partition| partition.core.count_outbox_entries()),
        )
        .await?;
        Ok(counts.into_iter().sum())
    }

    /// Queues a task in its partition, which may hold an equal share of `max_backlog` tasks.
    pub(crate) async fn enqueue_in_partition(
        &self,
        task: &Task,
        queue: &TopicQueue,
    ) -> Result<(), StoreError> {
        let partition = self.partition_of_task(&task.id);
        let count = u64::try_from(self.partitions.len()).unwrap_or(1);
        if count == 1 {
            return partition.enqueuer.enqueue_task(task, queue).await;
        }
        let max_open_tasks = queue
            .max_open_tasks
            .map(|max| max.saturating_sub(self.open_tasks_elsewhere(&task.id, queue)));
        let max_backlog = queue.max_backlog.div_ceil(count);
        let share = TopicQueue { max_backlog, max_open_tasks, ..queue.clone() };
        partition.enqueuer.enqueue_task(task, &share).await.map_err(|error| match error {
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

    /// The open tasks of a queue in the partitions other than that of `id`, as they were when they
    /// were last counted, about a second ago at most while [`Self::consumers_all_partitions`] is
    /// called every second. A limit is exact within one partition only.
    fn open_tasks_elsewhere(&self, id: &TaskId, queue: &TopicQueue) -> u64 {
        let own = self.index_of_task(id);
        let counts = self.open_tasks.load();
        let of_queue = counts.get(&keys::group_name(queue)).into_iter().flatten().enumerate();
        of_queue.filter(|(index, _)| *index != own).map(|(_, open)| *open).sum()
    }

    /// Who reads `queues` beside the workers of this program, over all partitions.
    pub(crate) async fn consumers_all_partitions(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueConsumers>, StoreError> {
        let reads =
            self.partitions.iter().map(|partition| partition.core.read_queue_consumers(queues));
        let mut merged = vec![QueueConsumers::default(); queues.len()];
        let mut open_tasks: HashMap<String, Vec<u64>> = HashMap::new();
        for rows in try_join_all(reads).await? {
            for ((queue, merged), row) in queues.iter().zip(&mut merged).zip(rows) {
                open_tasks.entry(keys::group_name(queue)).or_default().push(row.open_tasks);
                merge_consumers(merged, row.consumers);
            }
        }
        self.open_tasks.store(Arc::new(open_tasks));
        Ok(merged)
    }

    /// Renews leases; returns the tasks whose lease is lost.
    pub(crate) async fn renew_all_partitions(
        &self,
        process: &str,
        leases: &[Lease],
    ) -> Result<Vec<TaskId>, StoreError> {
        if let [only] = &self.partitions[..] {
            return only.settler.renew_leases(process, leases).await;
        }
        let grouped = self.group_by_partition(leases.iter().cloned(), |lease| &lease.task.id);
        let renewals = grouped
            .iter()
            .map(|(partition, leases)| partition.settler.renew_leases(process, leases));
        Ok(join_all(renewals).await.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Runs one maintenance round; returns the tasks that were buried.
    pub(crate) async fn reap_expired_all_partitions(
        &self,
        process: &str,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let rounds = self.partitions.iter().map(|partition| {
            partition.reaper.reap_queues(&self.first_partition().core, process, queues, ttl)
        });
        collect_successes(rounds).await
    }

    /// Ends tasks of external consumers; returns those that failed.
    pub(crate) async fn reconcile_all_partitions(
        &self,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        collect_successes(
            self.partitions
                .iter()
                .map(|partition| partition.reconciler.reconcile_external_queues(queues, ttl)),
        )
        .await
    }

    /// The states of tasks, in the order of `ids`.
    pub(crate) async fn statuses_all_partitions(
        &self,
        ids: &[TaskId],
    ) -> Result<Vec<TaskLookup>, StoreError> {
        let grouped = self.group_by_partition(ids.iter().enumerate(), |(_, id)| id);
        let reads = grouped.iter().map(|(partition, positions)| async move {
            let ids: Vec<TaskId> = positions.iter().map(|(_, id)| (*id).clone()).collect();
            partition.core.read_statuses(&ids).await
        });
        let mut lookups = vec![TaskLookup::NotFound; ids.len()];
        for ((_, positions), found) in grouped.iter().zip(try_join_all(reads).await?) {
            for ((position, _), lookup) in positions.iter().zip(found) {
                lookups[*position] = lookup;
            }
        }
        Ok(lookups)
    }

    /// Lists one partition after the other: a page comes from one of them, which its cursor names
    /// (`<partition>.<cursor within it>`).
    pub(crate) async fn list_all_partitions(
        &self,
        queues: &[TopicQueue],
        listing: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError> {
        if let [only] = &self.partitions[..] {
            return only.core.list_tasks(queues, listing).await;
        }
        let (index, after) = match listing.after_cursor.as_deref() {
            None => (0, ""),
            Some(cursor) => cursor
                .split_once('.')
                .and_then(|(index, rest)| Some((index.parse().ok()?, rest)))
                .ok_or_else(|| invalid_cursor("after"))?,
        };
        let partition = self.partitions.get(index).ok_or_else(|| invalid_cursor("after"))?;
        let after = Some(after.to_owned()).filter(|after| !after.is_empty());
        let mut page = partition
            .core
            .list_tasks(queues, &TaskListRequest { after_cursor: after, ..listing.clone() })
            .await?;
        let next_partition = (index + 1 < self.partitions.len()).then(|| format!("{}.", index + 1));
        page.next_cursor =
            page.next_cursor.map(|next| format!("{index}.{next}")).or(next_partition);
        Ok(page)
    }

    /// The depths of `queues`, in their order, summed over all partitions.
    pub(crate) async fn depths_all_partitions(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueDepth>, StoreError> {
        let mut sums = vec![QueueDepth::default(); queues.len()];
        for depths in try_join_all(
            self.partitions.iter().map(|partition| partition.core.read_queue_depths(queues)),
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

    /// At most `limit` dead letters of a queue, the newest first; with the cursor `before`, only
    /// older ones of each partition.
    pub(crate) async fn dead_letters_all_partitions(
        &self,
        queue: &TopicQueue,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let reads = self
            .partitions
            .iter()
            .map(|partition| partition.core.read_dead_letters(queue, before, limit));
        let mut letters = try_join_all(reads).await?.concat();
        if self.partitions.len() > 1 {
            letters.sort_by_key(|letter| std::cmp::Reverse(letter.failed_at));
            letters.truncate(limit);
        }
        Ok(letters)
    }

    /// Reprocesses a dead letter in whichever partition has it: it is where its task was, but a
    /// dead letter without a task id may be in any partition.
    pub(crate) async fn reprocess_in_any_partition(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: UnixMs,
    ) -> Result<ReprocessResult, StoreError> {
        for partition in &self.partitions {
            match partition.core.reprocess_dead_letter(queue, id, now).await? {
                ReprocessResult::NoSuchDeadLetter => {}
                reprocessed => return Ok(reprocessed),
            }
        }
        Ok(ReprocessResult::NoSuchDeadLetter)
    }

    /// A dead letter of whichever partition has it, with its payload.
    pub(crate) async fn dead_letter_in_any_partition(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<Option<DeadLetter>, StoreError> {
        for partition in &self.partitions {
            if let Some(letter) = partition.core.read_dead_letter(queue, id).await? {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    /// Deletes a dead letter in whichever partition has it; returns whether one had.
    pub(crate) async fn discard_in_any_partition(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<bool, StoreError> {
        for partition in &self.partitions {
            if partition.core.discard_dead_letter(queue, id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The evidence of each of `epochs`, summed over all partitions.
    pub(crate) async fn evidence_all_partitions(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<StoredEvidence>, StoreError> {
        let mut sums = vec![StoredEvidence::default(); epochs.len()];
        if epochs.is_empty() {
            return Ok(sums);
        }
        for evidence in try_join_all(
            self.partitions.iter().map(|partition| partition.core.read_evidence(route, epochs)),
        )
        .await?
        {
            for (sum, (tallies, counts)) in sums.iter_mut().zip(evidence) {
                for (tally, count) in tallies {
                    sum.add_tally(&tally, count);
                }
                sum.replica_counts.extend(counts);
            }
        }
        for sum in &mut sums {
            sum.replica_counts.sort();
        }
        Ok(sums)
    }

    /// Advice on the servers of all partitions, each problem once.
    pub(crate) async fn advice_all_partitions(&self) -> Result<Vec<ServerAdvice>, StoreError> {
        let mut all: Vec<ServerAdvice> = Vec::new();
        for partition in &self.partitions {
            for advice in fetch_server_advice(&partition.core.link).await? {
                if !all
                    .iter()
                    .any(|known| (&known.server, known.setting) == (&advice.server, advice.setting))
                {
                    all.push(advice);
                }
            }
        }
        Ok(all)
    }
}

/// Adds what one partition says of a queue. A consumer that reads several partitions is one
/// consumer, and the partition that it read last tells how long it has been idle.
fn merge_consumers(merged: &mut QueueConsumers, partition: QueueConsumers) {
    for group in partition.groups {
        if !merged.groups.contains(&group) {
            merged.groups.push(group);
        }
    }
    for consumer in partition.external {
        match merged.external.iter_mut().find(|known| known.name == consumer.name) {
            Some(known) => {
                known.idle = known.idle.min(consumer.idle);
                known.held_entries += consumer.held_entries;
            }
            None => merged.external.push(consumer),
        }
    }
}

/// The results of all calls that succeeded; the last error if none returned anything.
async fn collect_successes<T>(
    calls: impl Iterator<Item = impl Future<Output = Result<Vec<T>, StoreError>>>,
) -> Result<Vec<T>, StoreError> {
    let (mut collected, mut failed) = (Vec::new(), None);
    for result in join_all(calls).await {
        match result {
            Ok(items) => collected.extend(items),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if collected.is_empty() => Err(error),
        _ => Ok(collected),
    }
}
