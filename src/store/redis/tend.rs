//! Housekeeping: leases that nobody renews are taken back, parked entries kept, old index entries
//! dropped.
//!
//! When that may be done is `watch.rs`'s to say. One round takes a part of the store's timeout at
//! most and goes on where it was cut short, so that many dead leases never look like a dead store;
//! and what is wrong with one queue or entry is said and left for the next round, so that it holds
//! up no other.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::message::{EntryOutcome, to_unix_seconds};
use super::partition::Partition;
use super::row::ScriptLeaseRow;
use super::script::{LIST_ENTRY_HOLDERS, REMOVE_IDLE_CONSUMERS, SCAN_EXPIRED_LEASES, TRIM_STREAM};
use super::settle::RequeueOptions;
use super::{as_millis_u64, keys, unix_now};
use crate::store::{
    BuriedTask, SettleResult, StoreError, TopicQueue, lease_duration, may_rerun_after_crash,
};
use crate::task::{FailureKind, TaskFailure};

/// How long a consumer must have been silent to be forgotten.
const CONSUMER_IDLE_LIMIT: Duration = Duration::from_mins(10);
const REAP_PAGE_SIZE: usize = 100;

/// A consumer of ours that holds entries, by its queue's position.
type EntryHolder = (usize, String);

/// What one round works with.
struct ReapContext<'a> {
    process: &'a str,
    result_ttl: Duration,
    deadline: Instant,
    buried: Vec<BuriedTask>,
}

impl Partition {
    /// One round; heartbeats are in `home`.
    pub(super) async fn reap_queues(
        &self,
        heartbeat_partition: &Self,
        process: &str,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let horizon = to_unix_seconds(unix_now()) - ttl.as_secs_f64();
        let mut drop_old = redis::cmd("ZREMRANGEBYSCORE");
        self.link
            .send_command::<u64>(
                drop_old.arg(self.keys.results_index_key()).arg("-inf").arg(horizon),
            )
            .await?;
        self.local_leases.remove_not_renewed_for(lease_duration() * 2);
        let start = Instant::now();
        let may = self.reap_schedule.begin_round(start);
        self.flush_events(may.may_sweep).await?;
        let mut round = ReapContext {
            process,
            result_ttl: ttl,
            deadline: start + self.timeout / 3,
            buried: Vec::new(),
        };
        let first = may.round_number % queues.len().max(1);
        for queue in queues[first..].iter().chain(&queues[..first]) {
            if may.may_sweep {
                log_unless_outage(queue, self.remove_idle_consumers(queue).await)?;
                log_unless_outage(queue, self.trim_finished_entries(queue).await)?;
                log_unless_outage(queue, self.register_agent(queue).await)?;
            }
            if may.may_reap {
                log_unless_outage(queue, self.reap_expired_leases(&mut round, queue).await)?;
            }
        }
        // whoever renews has done so since the last outage
        if may.may_reap && self.trimmed_scan.is_due(start) {
            round.buried.extend(
                self.bury_trimmed_tasks(&self.trimmed_scan, queues, ttl, round.deadline).await?,
            );
        }
        for (index, consumer) in
            self.find_dead_holders(heartbeat_partition, process, queues).await?
        {
            log_unless_outage(
                &queues[index],
                self.reap_dead_consumer(&mut round, &queues[index], &consumer).await,
            )?;
        }
        Ok(round.buried)
    }

    async fn remove_idle_consumers(&self, queue: &TopicQueue) -> Result<(), StoreError> {
        let call = REMOVE_IDLE_CONSUMERS
            .call_with_keys(&[self.keys.stream_key(&queue.topic)])
            .arg(&[&keys::group_name(queue), keys::OUR_CONSUMER_MARK]);
        call.arg(as_millis_u64(CONSUMER_IDLE_LIMIT)).run::<u64>(&self.link).await.map(|_| ())
    }

    /// Takes off a stream what all of its groups are done with, and says which group keeps the rest
    /// alone.
    async fn trim_finished_entries(&self, queue: &TopicQueue) -> Result<(), StoreError> {
        let stream = self.keys.stream_key(&queue.topic);
        let (_, group, kept): (u64, String, String) = TRIM_STREAM
            .call_with_keys(&[&stream])
            .arg(keys::group_name(queue))
            .run(&self.link)
            .await?;
        if self.reap_schedule.should_warn_of_group(&stream, &group, kept) {
            tracing::warn!(
                stream,
                group,
                "a group that does not read keeps what all others are done with, and the stream grows: run its \
                 consumers, or XGROUP DESTROY it"
            );
        }
        Ok(())
    }

    /// The holders of entries whose processes are gone.
    async fn find_dead_holders(
        &self,
        heartbeat_partition: &Self,
        process: &str,
        queues: &[TopicQueue],
    ) -> Result<Vec<EntryHolder>, StoreError> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let streams: Vec<String> =
            queues.iter().map(|queue| self.keys.stream_key(&queue.topic)).collect();
        let groups: Vec<String> = queues.iter().map(keys::group_name).collect();
        let found: Vec<Vec<String>> = LIST_ENTRY_HOLDERS
            .call_with_keys(&streams)
            .arg(keys::OUR_CONSUMER_MARK)
            .arg(groups)
            .run(&self.link)
            .await?;
        let holders = found
            .into_iter()
            .enumerate()
            .flat_map(|(n, names)| names.into_iter().map(move |name| (n, name)));
        let process_of = |(n, name): &EntryHolder| {
            keys::process_of_consumer(&queues[*n], name).map(str::to_owned)
        };
        let of_others =
            |holder: &EntryHolder| process_of(holder).is_some_and(|holder| holder != process);
        let holders: Vec<EntryHolder> = holders.filter(of_others).collect();
        let mut silent: HashSet<String> = holders.iter().filter_map(process_of).collect();
        if !silent.is_empty() {
            for beat in heartbeat_partition.read_heartbeats().await? {
                silent.remove(&beat.process);
            }
        }
        let gone = self.reap_schedule.update_gone_processes(Instant::now(), silent);
        Ok(holders
            .into_iter()
            .filter(|holder| process_of(holder).is_some_and(|name| gone.contains(&name)))
            .collect())
    }

    /// Looks through all that is overdue, so that an old head never hides what is behind it.
    async fn reap_expired_leases(
        &self,
        round: &mut ReapContext<'_>,
        queue: &TopicQueue,
    ) -> Result<(), StoreError> {
        let group = keys::group_name(queue);
        let mut page = self.reap_schedule.resume_position(&group);
        loop {
            page = self.reap_page(round, queue, lease_duration(), &page, None).await?;
            if page.is_empty() || Instant::now() >= round.deadline {
                break;
            }
        }
        self.reap_schedule.save_position(&group, page);
        Ok(())
    }

    /// Takes back what a consumer holds whose process is gone.
    async fn reap_dead_consumer(
        &self,
        round: &mut ReapContext<'_>,
        queue: &TopicQueue,
        consumer: &str,
    ) -> Result<(), StoreError> {
        // even without a heartbeat: a live holder has renewed three times meanwhile
        let idle = lease_duration() / 3;
        let mut page = "-".to_owned();
        while !page.is_empty() && Instant::now() < round.deadline {
            page = self.reap_page(round, queue, idle, &page, Some(consumer)).await?;
        }
        Ok(())
    }

    /// Takes back one page of what nobody has touched for `idle`; where the look goes on, or empty.
    async fn reap_page(
        &self,
        round: &mut ReapContext<'_>,
        queue: &TopicQueue,
        idle: Duration,
        start: &str,
        consumer: Option<&str>,
    ) -> Result<String, StoreError> {
        let group = keys::group_name(queue);
        let (next, rows): (String, Vec<(u64, ScriptLeaseRow)>) = SCAN_EXPIRED_LEASES
            .call_with_keys(&[
                self.keys.stream_key(&queue.topic),
                self.keys.delayed_index_key(&group),
            ])
            .arg(&[
                &self.keys.record_prefix(),
                &self.keys.result_prefix(),
                queue.topic.as_str(),
                &queue.agent,
                &group,
            ])
            .arg(&[as_millis_u64(idle), as_millis_u64(queue.reclaim_idle)])
            .arg(&[&self.keys.tally_prefix(), start, "+"])
            .arg(REAP_PAGE_SIZE)
            .arg(consumer)
            .run(&self.link)
            .await?;
        for (idle, row) in rows {
            let taken = self
                .reap_lease(
                    round.process,
                    queue,
                    &row,
                    Duration::from_millis(idle),
                    round.result_ttl,
                )
                .await;
            round.buried.extend(log_unless_outage(queue, taken)?.flatten());
            if Instant::now() >= round.deadline {
                return Ok(start.to_owned());
            }
        }
        Ok(next)
    }

    /// Gives the task if it may not run again, and is dead now.
    async fn reap_lease(
        &self,
        process: &str,
        queue: &TopicQueue,
        row: &ScriptLeaseRow,
        idle: Duration,
        ttl: Duration,
    ) -> Result<Option<BuriedTask>, StoreError> {
        // whole where it can be read: its end may have to be told
        let whole = row.parse_lease(queue).ok().map(|(lease, _)| lease);
        let Some(lease) = whole.or_else(|| row.to_bare_lease(queue)) else {
            self.reject_entry(queue, row, row.parse_lease(queue).err().unwrap_or_default()).await?;
            return Ok(None);
        };
        let failure = TaskFailure::new(
            FailureKind::WorkerCrash,
            format!("the worker died in attempt {}", lease.attempt),
        );
        let again = may_rerun_after_crash(lease.attempt, lease.task.retries);
        let settled = if again {
            let (attempt, failure) = (lease.attempt, Some(&failure));
            self.requeue_task(
                &lease,
                RequeueOptions {
                    attempts_begun: attempt,
                    lease_number_increment: 2,
                    due: None,
                    failure,
                    min_idle: Some(idle),
                },
            )
            .await?
        } else {
            self.finish_task(&lease, &EntryOutcome::Failed(&failure), ttl, Some(idle)).await?
        };
        if settled == SettleResult::Applied {
            tracing::warn!(process, task = %lease.task.id, attempt = lease.attempt, "a lease expired: its worker is gone");
            self.local_leases.remove_lease(&lease);
        }
        let dead = settled == SettleResult::Applied && !again;
        Ok(dead.then(|| BuriedTask::from_lease(lease)))
    }
}

/// What came out, where anything did. An outage ends the round; another error is said, and the
/// round goes on.
fn log_unless_outage<T>(
    queue: &TopicQueue,
    result: Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_outage() => Err(error),
        Err(error) => {
            tracing::error!(topic = %queue.topic, %error, "housekeeping met an error: it is tried again");
            Ok(None)
        }
    }
}
