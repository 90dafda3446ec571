//! Reaping: expired leases are taken from their holders, and their tasks run again or are buried.
//!
//! `schedule.rs` decides what a round may do. A round takes a third of the store's timeout at most,
//! and the next one continues at the saved position: a round over very many expired leases would
//! otherwise time out and count as an outage of the store. An error of one queue or entry is
//! logged, the round goes on with the others, and the next round tries again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::redis::core::PartitionCore;
use crate::store::redis::maintenance::buried::buried_task;
use crate::store::redis::maintenance::schedule::ReapSchedule;
use crate::store::redis::maintenance::trimmed::TrimmedTaskBurier;
use crate::store::redis::queue::requeue::RequeueOptions;
use crate::store::redis::queue::settler::LeaseSettler;
use crate::store::redis::script::runner::{LIST_ENTRY_HOLDERS, SCAN_EXPIRED_LEASES};
use crate::store::redis::time::{as_millis_u64, to_unix_seconds, unix_now};
use crate::store::redis::wire::keys;
use crate::store::redis::wire::lease_row::ScriptLeaseRow;
use crate::store::redis::wire::outcome::EntryOutcome;
use crate::store::{
    BuriedTask, SettleResult, StoreError, TopicQueue, lease_duration, may_rerun_after_crash,
};
use crate::task::{FailureKind, TaskFailure};

/// The number of expired leases that one call reads.
const REAP_PAGE_SIZE: usize = 100;

/// Reaps the expired leases of one partition.
pub(crate) struct LeaseReaper {
    core: Arc<PartitionCore>,
    settler: Arc<LeaseSettler>,
    schedule: ReapSchedule,
    trimmed_tasks: TrimmedTaskBurier,
}

/// A consumer of an omnidaemon process that holds stream entries.
struct EntryHolder {
    /// The index of its queue in the call.
    queue_index: usize,
    consumer: String,
    process: String,
}

/// The state of one round.
struct ReapRound<'a> {
    /// The name of the process that runs the round.
    process: &'a str,
    /// How long results are kept.
    result_ttl: Duration,
    deadline: Instant,
    buried: Vec<BuriedTask>,
}

/// The criteria of a scan for expired leases.
struct ExpiredLeaseScan<'a> {
    queue: &'a TopicQueue,
    /// The least time since an entry was last leased or renewed.
    min_idle: Duration,
    /// The consumer whose entries are scanned; none for all consumers.
    consumer: Option<&'a str>,
}

impl LeaseReaper {
    /// The reaper of a partition, before its first round.
    pub(crate) fn new(core: Arc<PartitionCore>, settler: Arc<LeaseSettler>) -> Self {
        let trimmed_tasks = TrimmedTaskBurier::new(settler.clone());
        Self { core, settler, schedule: ReapSchedule::default(), trimmed_tasks }
    }

    /// Runs one round; returns the tasks that were buried. Heartbeats are in
    /// `heartbeat_partition`.
    pub(crate) async fn reap_queues(
        &self,
        heartbeat_partition: &PartitionCore,
        process: &str,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        self.drop_expired_index_entries(ttl).await?;
        self.settler.local_leases.remove_not_renewed_for(lease_duration() * 2);
        let start = Instant::now();
        let permissions = self.schedule.begin_round(start);
        self.settler.agent_events.flush_events(&self.core, permissions.may_sweep).await?;
        let mut round = ReapRound {
            process,
            result_ttl: ttl,
            deadline: start + self.core.timeout / 3,
            buried: Vec::new(),
        };
        let first = permissions.round_number % queues.len().max(1);
        for queue in queues[first..].iter().chain(&queues[..first]) {
            if permissions.may_sweep {
                self.sweep_queue(queue).await?;
            }
            if permissions.may_reap {
                log_unless_outage(queue, self.reap_expired_leases(&mut round, queue).await)?;
            }
        }
        // with `may_reap`, every live holder has had time to renew since the last outage
        if permissions.may_reap && self.trimmed_tasks.is_due(start) {
            let buried = self.trimmed_tasks.bury_trimmed_tasks(queues, ttl, round.deadline).await?;
            round.buried.extend(buried);
        }
        for holder in self.find_dead_holders(heartbeat_partition, process, queues).await? {
            let queue = &queues[holder.queue_index];
            let reaped = self.reap_dead_consumer(&mut round, queue, &holder.consumer).await;
            log_unless_outage(queue, reaped)?;
        }
        Ok(round.buried)
    }

    /// Removes results that have expired from the index of results.
    async fn drop_expired_index_entries(&self, ttl: Duration) -> Result<(), StoreError> {
        let horizon = to_unix_seconds(unix_now()) - ttl.as_secs_f64();
        let mut remove = redis::cmd("ZREMRANGEBYSCORE");
        remove.arg(self.core.keys.results_index_key()).arg("-inf").arg(horizon);
        self.core.link.send_command::<u64>(&remove).await.map(|_| ())
    }

    async fn sweep_queue(&self, queue: &TopicQueue) -> Result<(), StoreError> {
        let core = &self.core;
        log_unless_outage(queue, core.remove_idle_consumers(queue).await)?;
        log_unless_outage(queue, core.trim_finished_entries(&self.schedule, queue).await)?;
        log_unless_outage(queue, core.register_agent(queue).await)?;
        Ok(())
    }

    /// The holders of entries whose process has no heartbeat and counts as gone.
    async fn find_dead_holders(
        &self,
        heartbeat_partition: &PartitionCore,
        process: &str,
        queues: &[TopicQueue],
    ) -> Result<Vec<EntryHolder>, StoreError> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let mut holders = self.list_entry_holders(queues).await?;
        holders.retain(|holder| holder.process != process);
        let mut silent: HashSet<String> =
            holders.iter().map(|holder| holder.process.clone()).collect();
        if !silent.is_empty() {
            for heartbeat in heartbeat_partition.read_heartbeats().await? {
                silent.remove(&heartbeat.process);
            }
        }
        let gone = self.schedule.update_gone_processes(Instant::now(), silent);
        holders.retain(|holder| gone.contains(&holder.process));
        Ok(holders)
    }

    async fn list_entry_holders(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<EntryHolder>, StoreError> {
        let keys = &self.core.keys;
        let streams: Vec<(&str, String)> =
            queues.iter().map(|queue| ("stream", keys.stream_key(&queue.topic))).collect();
        let groups: Vec<String> = queues.iter().map(keys::group_name).collect();
        let consumers_by_queue: Vec<Vec<String>> = LIST_ENTRY_HOLDERS
            .call_with_keys(&streams)
            .arg("consumer_mark", keys::OUR_CONSUMER_MARK)
            .arg_each("group", groups)
            .run(&self.core.link)
            .await?;
        let mut holders = Vec::new();
        for (queue_index, consumers) in consumers_by_queue.into_iter().enumerate() {
            for consumer in consumers {
                let process = keys::process_of_consumer(&queues[queue_index], &consumer);
                if let Some(process) = process.map(str::to_owned) {
                    holders.push(EntryHolder { queue_index, consumer, process });
                }
            }
        }
        Ok(holders)
    }

    /// Reaps a queue's expired leases from the saved position on, so that several rounds together
    /// read a long pending list to its end.
    async fn reap_expired_leases(
        &self,
        round: &mut ReapRound<'_>,
        queue: &TopicQueue,
    ) -> Result<(), StoreError> {
        let group = keys::group_name(queue);
        let scan = ExpiredLeaseScan { queue, min_idle: lease_duration(), consumer: None };
        let mut position = self.schedule.resume_position(&group);
        loop {
            position = self.reap_page(round, &scan, &position).await?;
            if position.is_empty() || Instant::now() >= round.deadline {
                break;
            }
        }
        self.schedule.save_position(&group, position);
        Ok(())
    }

    /// Reaps the leases of a consumer whose process is gone.
    async fn reap_dead_consumer(
        &self,
        round: &mut ReapRound<'_>,
        queue: &TopicQueue,
        consumer: &str,
    ) -> Result<(), StoreError> {
        // a live process renews its leases several times within this time, even if its heartbeat
        // is missing
        let min_idle = lease_duration() / 3;
        let scan = ExpiredLeaseScan { queue, min_idle, consumer: Some(consumer) };
        let mut position = "-".to_owned();
        while !position.is_empty() && Instant::now() < round.deadline {
            position = self.reap_page(round, &scan, &position).await?;
        }
        Ok(())
    }

    /// Reaps one page of leases; returns the position of the next page, empty at the end.
    async fn reap_page(
        &self,
        round: &mut ReapRound<'_>,
        scan: &ExpiredLeaseScan<'_>,
        start: &str,
    ) -> Result<String, StoreError> {
        let (keys, queue) = (&self.core.keys, scan.queue);
        let group = keys::group_name(queue);
        let (next, rows): (String, Vec<(u64, ScriptLeaseRow)>) = SCAN_EXPIRED_LEASES
            .call_with_keys(&[
                ("stream", keys.stream_key(&queue.topic)),
                ("delayed_index", keys.delayed_index_key(&group)),
            ])
            .arg("record_prefix", keys.record_prefix())
            .arg("result_prefix", keys.result_prefix())
            .arg("tally_prefix", keys.tally_prefix())
            .arg("topic", queue.topic.as_str())
            .arg("agent", &queue.agent)
            .arg("group", &group)
            .arg("our_min_idle_ms", as_millis_u64(scan.min_idle))
            .arg("external_min_idle_ms", as_millis_u64(queue.reclaim_idle))
            .arg("range_start", start)
            .arg("page_size", REAP_PAGE_SIZE)
            .arg("consumer", scan.consumer.unwrap_or_default())
            .run(&self.core.link)
            .await?;
        for (idle_ms, row) in rows {
            let reaped = self.reap_lease(round, queue, &row, Duration::from_millis(idle_ms)).await;
            round.buried.extend(log_unless_outage(queue, reaped)?.flatten());
            if Instant::now() >= round.deadline {
                return Ok(start.to_owned());
            }
        }
        Ok(next)
    }

    /// Takes one lease from its holder if it has still not been renewed for `idle`. Returns the
    /// task if it may not run again and is buried.
    async fn reap_lease(
        &self,
        round: &ReapRound<'_>,
        queue: &TopicQueue,
        row: &ScriptLeaseRow,
        idle: Duration,
    ) -> Result<Option<BuriedTask>, StoreError> {
        let Some(lease) = row.to_whole_or_bare_lease(queue) else {
            let why = row.parse_lease(queue).err().unwrap_or_default();
            self.settler.reject_entry(queue, row, why).await?;
            return Ok(None);
        };
        let failure = TaskFailure::new(
            FailureKind::WorkerCrash,
            format!("the worker died in attempt {}", lease.attempt),
        );
        let runs_again = may_rerun_after_crash(lease.attempt, lease.task.retries);
        let settled = if runs_again {
            let options = RequeueOptions::for_expired(&lease, &failure, idle);
            self.settler.requeue_task(&lease, options).await?
        } else {
            let outcome = EntryOutcome::Failed(&failure);
            self.settler.finish_task(&lease, &outcome, round.result_ttl, Some(idle)).await?
        };
        if settled != SettleResult::Applied {
            return Ok(None);
        }
        tracing::warn!(
            process = round.process,
            task = %lease.task.id,
            attempt = lease.attempt,
            "a lease expired: its worker is gone"
        );
        self.settler.local_leases.remove_lease(&lease);
        Ok((!runs_again).then(|| buried_task(lease, false)))
    }
}

/// The value of a result. An outage is returned and ends the round; any other error is logged, and
/// the round continues.
fn log_unless_outage<T>(
    queue: &TopicQueue,
    result: Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_outage() => Err(error),
        Err(error) => {
            tracing::error!(
                topic = %queue.topic,
                %error,
                "maintenance of a queue failed: the next round tries again"
            );
            Ok(None)
        }
    }
}
