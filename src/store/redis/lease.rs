//! Leasing: one script over all queues, then one blocked read that only wakes, then the script
//! again.

use std::pin::pin;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::link::WakeupConnection;
use super::partition::Partition;
use super::row::ScriptLeaseRow;
use super::script::{LEASE_TASKS, RECOVER_LEASES, ScriptCall};
use super::{RedisStore, as_millis_u64, keys};
use crate::config::GroupStartPosition;
use crate::store::{Lease, StoreError, TopicQueue};

/// The longest sleep between two looks at what no stream shows: leases given back or taken back.
const LEASE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Leases of one call: a script holds up the server for as long as it runs.
const MAX_LEASES_PER_CALL: usize = 500;

/// A script's answer: leases, ms until the next retry is due or −1, and how far each stream is
/// read.
type LeaseScriptReply = (Vec<ScriptLeaseRow>, i64, Vec<String>);

/// What one look at the queues found.
struct PartitionPoll {
    leases: Vec<Lease>,
    /// Whether anything was there, be it no task.
    found_entries: bool,
    next_retry_in: Option<Duration>,
    read_up_to: Vec<String>,
}

/// What one look at all partitions found.
#[derive(Default)]
struct PollRound<'a> {
    leases: Vec<Lease>,
    /// As in [`Look`]; the rest only when nothing was.
    found_entries: bool,
    next_retry_in: Option<Duration>,
    /// The partitions that have nothing, their queues, and how far these are read.
    idle_partitions: Vec<(&'a Partition, Vec<&'a TopicQueue>, Vec<String>)>,
}

impl RedisStore {
    pub(super) async fn lease_tasks(
        &self,
        process: &str,
        queues: &[TopicQueue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let deadline = Instant::now() + wait;
        if max == 0 || queues.is_empty() {
            sleep(wait).await;
            return Ok(Vec::new());
        }
        let max = max.min(MAX_LEASES_PER_CALL);
        loop {
            let round = self.poll_partitions(process, queues, max).await?;
            let now = Instant::now();
            if !round.leases.is_empty() || now >= deadline {
                return Ok(round.leases);
            }
            if round.found_entries {
                continue;
            }
            let nap = LEASE_POLL_INTERVAL
                .min(deadline - now)
                .min(round.next_retry_in.unwrap_or(LEASE_POLL_INTERVAL));
            let woken = CancellationToken::new();
            let naps = round.idle_partitions.iter().map(async |(partition, queues, up_to)| {
                partition.wait_for_entry(queues, up_to, nap, &woken).await;
                woken.cancel();
            });
            join_all(naps).await;
        }
    }

    /// Looks into one partition after the other, from the next one on, until something is there.
    /// One that does not answer is passed over; when none does, that is the error.
    async fn poll_partitions<'a>(
        &'a self,
        process: &str,
        queues: &'a [TopicQueue],
        max: usize,
    ) -> Result<PollRound<'a>, StoreError> {
        let mut round = PollRound::default();
        let mut failed = None;
        let first = self.next_partition.fetch_add(1, Ordering::Relaxed) % self.partitions.len();
        for partition in self.partitions[first..].iter().chain(&self.partitions[..first]) {
            let queues = partition.rotate_queues(queues);
            match partition.poll_queues(process, &queues, max).await {
                Ok(PartitionPoll { leases, found_entries: true, .. }) => {
                    return Ok(PollRound { leases, found_entries: true, ..PollRound::default() });
                }
                Ok(look) => {
                    round.next_retry_in =
                        round.next_retry_in.into_iter().chain(look.next_retry_in).min();
                    round.idle_partitions.push((partition, queues, look.read_up_to));
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if round.idle_partitions.is_empty() => Err(error),
            _ => Ok(round),
        }
    }
}

impl Partition {
    /// The queues from the next one on, so that none is always last.
    fn rotate_queues<'a>(&self, queues: &'a [TopicQueue]) -> Vec<&'a TopicQueue> {
        let first = self.next_queue.fetch_add(1, Ordering::Relaxed) % queues.len();
        queues[first..].iter().chain(&queues[..first]).collect()
    }

    async fn poll_queues(
        &self,
        process: &str,
        queues: &[&TopicQueue],
        max: usize,
    ) -> Result<PartitionPoll, StoreError> {
        if self.local_leases.check_lost_reply(process, self.timeout * 2) {
            let leases = self.recover_lost_leases(process, queues, max).await?;
            if !leases.is_empty() {
                return Ok(PartitionPoll {
                    leases,
                    found_entries: true,
                    next_retry_in: None,
                    read_up_to: Vec::new(),
                });
            }
        }
        let stream_keys: Vec<String> = queues
            .iter()
            .flat_map(|queue| {
                let group = keys::group_name(queue);
                [
                    self.keys.stream_key(&queue.topic),
                    self.keys.delayed_index_key(&group),
                    self.keys.group_start_key(&group),
                ]
            })
            .collect();
        let mut call = LEASE_TASKS
            .call_with_keys(&stream_keys)
            .arg(&[self.keys.record_prefix(), self.keys.result_prefix()])
            .arg(max);
        for queue in queues {
            call = push_queue_args(call, queue, process)
                .arg(queue.group_start == GroupStartPosition::NewEntries);
        }
        let _under_way = self.local_leases.recovery_lock.read().await;
        let unanswered = self.local_leases.begin_lease_call(process);
        let (rows, due, read_up_to): LeaseScriptReply = call.run(&self.link).await?;
        let found = !rows.is_empty();
        let leases = self.open_leases(process, queues, rows).await?;
        unanswered.mark_answered();
        Ok(PartitionPoll {
            leases,
            found_entries: found,
            next_retry_in: u64::try_from(due).ok().map(Duration::from_millis),
            read_up_to,
        })
    }

    /// Leases again what a lost reply delivered to `process`.
    async fn recover_lost_leases(
        &self,
        process: &str,
        queues: &[&TopicQueue],
        max: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let _alone = self.local_leases.recovery_lock.write().await;
        let unanswered = self.local_leases.begin_lease_call(process);
        let streams: Vec<String> =
            queues.iter().map(|queue| self.keys.stream_key(&queue.topic)).collect();
        let mut call = RECOVER_LEASES
            .call_with_keys(&streams)
            .arg(&[self.keys.record_prefix(), self.keys.result_prefix()])
            .arg(max);
        for queue in queues {
            let held = self.local_leases.entries_of_topic(&queue.topic);
            call = push_queue_args(call, queue, process).arg(held.len()).arg(held);
        }
        let (rows, more): (Vec<ScriptLeaseRow>, bool) = call.run(&self.link).await?;
        if !rows.is_empty() {
            tracing::warn!(
                process,
                tasks = rows.len(),
                "leases whose delivery was lost are recovered"
            );
        }
        let leases = self.open_leases(process, queues, rows).await?;
        if !more {
            unanswered.mark_answered();
        }
        Ok(leases)
    }

    /// Takes rows into the books as leases; entries that are no tasks become dead letters. The
    /// books come last: what is lost before is recovered.
    async fn open_leases(
        &self,
        process: &str,
        queues: &[&TopicQueue],
        rows: Vec<ScriptLeaseRow>,
    ) -> Result<Vec<Lease>, StoreError> {
        let mut opened = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(queue) = row.queue_position.checked_sub(1).and_then(|index| queues.get(index))
            else {
                continue;
            };
            match row.parse_lease(queue) {
                Ok(lease) => opened.push(lease),
                Err(why) => match self.reject_entry(queue, &row, why).await {
                    Err(error) if error.is_outage() => return Err(error),
                    // it stays pending, and housekeeping tries again when its lease is over
                    Err(error) => {
                        tracing::error!(entry = row.entry_id, %error, "a dead letter could not be written");
                    }
                    Ok(()) => {}
                },
            }
        }
        let hold = |(lease, rest)| {
            self.local_leases.insert_lease(&lease, rest, process);
            self.record_attempt_start(&lease, process);
            lease
        };
        Ok(opened.into_iter().map(hold).collect())
    }

    /// Sleeps for `nap`, or until an entry comes that nobody has read (a read that consumes
    /// nothing), or until another partition has woken.
    async fn wait_for_entry(
        &self,
        queues: &[&TopicQueue],
        read_up_to: &[String],
        nap: Duration,
        woken: &CancellationToken,
    ) {
        let until = Instant::now() + nap;
        let bell = match self.pop_idle_wakeup() {
            Some(bell) => Some(bell),
            None => woken
                .run_until_cancelled(self.link.open_wakeup_connection())
                .await
                .and_then(Result::ok),
        };
        let Some(mut bell) = bell else {
            woken.run_until_cancelled(sleep_until(until)).await;
            return;
        };
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(as_millis_u64(nap).max(1)).arg("STREAMS");
        for queue in queues {
            read.arg(self.keys.stream_key(&queue.topic));
        }
        read.arg(read_up_to);
        let number = bell.client_id;
        let answer = {
            let mut reading = pin!(timeout(
                nap + self.timeout,
                bell.connection.send_query::<redis::Value>(&read)
            ));
            if let Some(answer) = woken.run_until_cancelled(&mut reading).await {
                answer
            } else {
                self.link.unblock_client(number).await;
                reading.await
            }
        };
        match answer {
            Ok(Ok(_)) => {
                self.idle_wakeups.lock().unwrap_or_else(PoisonError::into_inner).push(bell);
            }
            // gone or mute: the next look says what is wrong
            Ok(Err(_)) | Err(_) => {
                sleep(
                    until.saturating_duration_since(Instant::now()).min(LEASE_POLL_INTERVAL / 10),
                )
                .await;
            }
        }
    }

    fn pop_idle_wakeup(&self) -> Option<WakeupConnection> {
        let mut bells = self.idle_wakeups.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|bell| !bell.connection.is_closed());
        bells.pop()
    }
}

fn push_queue_args(call: ScriptCall, queue: &TopicQueue, process: &str) -> ScriptCall {
    call.arg(queue.topic.as_str())
        .arg(&queue.agent)
        .arg(keys::group_name(queue))
        .arg(keys::consumer_name(queue, process))
}
