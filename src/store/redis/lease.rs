//! Leasing: one script over all queues, then one blocked read that only wakes, then the script again.

use std::pin::pin;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::link::Bell;
use super::partition::Partition;
use super::row::Row;
use super::script::{Call, LEASE, RECOVER};
use super::{RedisStore, keys, millis};
use crate::config::GroupStart;
use crate::store::{Lease, Queue, StoreError};

/// The longest sleep between two looks at what no stream shows: leases given back or taken back.
const GLANCE: Duration = Duration::from_secs(1);

/// Leases of one call: a script holds up the server for as long as it runs.
const MOST: usize = 500;

/// A script's answer: leases, ms until the next retry is due or −1, and how far each stream is read.
type Answer = (Vec<Row>, i64, Vec<String>);

/// What one look at the queues found.
struct Look {
    leases: Vec<Lease>,
    /// Whether anything was there, be it no task.
    found: bool,
    due: Option<Duration>,
    read_up_to: Vec<String>,
}

/// What one look at all partitions found.
#[derive(Default)]
struct Round<'a> {
    leases: Vec<Lease>,
    /// As in [`Look`]; the rest only when nothing was.
    found: bool,
    due: Option<Duration>,
    /// The partitions that have nothing, their queues, and how far these are read.
    asleep: Vec<(&'a Partition, Vec<&'a Queue>, Vec<String>)>,
}

impl RedisStore {
    pub(super) async fn lease_tasks(
        &self,
        process: &str,
        queues: &[Queue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let deadline = Instant::now() + wait;
        if max == 0 || queues.is_empty() {
            sleep(wait).await;
            return Ok(Vec::new());
        }
        let max = max.min(MOST);
        loop {
            let round = self.look_around(process, queues, max).await?;
            let now = Instant::now();
            if !round.leases.is_empty() || now >= deadline {
                return Ok(round.leases);
            }
            if round.found {
                continue;
            }
            let nap = GLANCE.min(deadline - now).min(round.due.unwrap_or(GLANCE));
            let woken = CancellationToken::new();
            let naps = round.asleep.iter().map(async |(partition, queues, up_to)| {
                partition.nap(queues, up_to, nap, &woken).await;
                woken.cancel();
            });
            join_all(naps).await;
        }
    }

    /// Looks into one partition after the other, from the next one on, until something is there. One that does not
    /// answer is passed over; when none does, that is the error.
    async fn look_around<'a>(
        &'a self,
        process: &str,
        queues: &'a [Queue],
        max: usize,
    ) -> Result<Round<'a>, StoreError> {
        let mut round = Round::default();
        let mut failed = None;
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % self.partitions.len();
        for partition in self.partitions[first..].iter().chain(&self.partitions[..first]) {
            let queues = partition.rotated(queues);
            match partition.look(process, &queues, max).await {
                Ok(Look { leases, found: true, .. }) => return Ok(Round { leases, found: true, ..Round::default() }),
                Ok(look) => {
                    round.due = round.due.into_iter().chain(look.due).min();
                    round.asleep.push((partition, queues, look.read_up_to));
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if round.asleep.is_empty() => Err(error),
            _ => Ok(round),
        }
    }
}

impl Partition {
    /// The queues from the next one on, so that none is always last.
    fn rotated<'a>(&self, queues: &'a [Queue]) -> Vec<&'a Queue> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % queues.len();
        queues[first..].iter().chain(&queues[..first]).collect()
    }

    async fn look(&self, process: &str, queues: &[&Queue], max: usize) -> Result<Look, StoreError> {
        if self.live.take_loss(process, self.timeout * 2) {
            let leases = self.recover(process, queues, max).await?;
            if !leases.is_empty() {
                return Ok(Look { leases, found: true, due: None, read_up_to: Vec::new() });
            }
        }
        let stream_keys: Vec<String> = queues
            .iter()
            .flat_map(|queue| {
                let group = keys::group(queue);
                [self.keys.stream(&queue.topic), self.keys.delayed(&group), self.keys.start(&group)]
            })
            .collect();
        let mut call = LEASE.keys(&stream_keys).arg(&[self.keys.record_prefix(), self.keys.result_prefix()]).arg(max);
        for queue in queues {
            call = queue_args(call, queue, process).arg(queue.start == GroupStart::New);
        }
        let _under_way = self.live.gate.read().await;
        let unanswered = self.live.begin(process);
        let (rows, due, read_up_to): Answer = call.run(&self.link).await?;
        let found = !rows.is_empty();
        let leases = self.take(process, queues, rows).await?;
        unanswered.answered();
        Ok(Look { leases, found, due: u64::try_from(due).ok().map(Duration::from_millis), read_up_to })
    }

    /// Leases again what a lost reply delivered to `process`.
    async fn recover(&self, process: &str, queues: &[&Queue], max: usize) -> Result<Vec<Lease>, StoreError> {
        let _alone = self.live.gate.write().await;
        let unanswered = self.live.begin(process);
        let streams: Vec<String> = queues.iter().map(|queue| self.keys.stream(&queue.topic)).collect();
        let mut call = RECOVER.keys(&streams).arg(&[self.keys.record_prefix(), self.keys.result_prefix()]).arg(max);
        for queue in queues {
            let held = self.live.entries(&queue.topic);
            call = queue_args(call, queue, process).arg(held.len()).arg(held);
        }
        let (rows, more): (Vec<Row>, bool) = call.run(&self.link).await?;
        if !rows.is_empty() {
            tracing::warn!(process, tasks = rows.len(), "leases whose delivery was lost are recovered");
        }
        let leases = self.take(process, queues, rows).await?;
        if !more {
            unanswered.answered();
        }
        Ok(leases)
    }

    /// Takes rows into the books as leases; entries that are no tasks become dead letters. The books come last: what
    /// is lost before is recovered.
    async fn take(&self, process: &str, queues: &[&Queue], rows: Vec<Row>) -> Result<Vec<Lease>, StoreError> {
        let mut opened = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(queue) = row.queue.checked_sub(1).and_then(|index| queues.get(index)) else { continue };
            match row.open(queue) {
                Ok(lease) => opened.push(lease),
                Err(why) => match self.reject(queue, &row, why).await {
                    Err(error) if error.is_outage() => return Err(error),
                    // it stays pending, and housekeeping tries again when its lease is over
                    Err(error) => tracing::error!(entry = row.entry, %error, "a dead letter could not be written"),
                    Ok(()) => {}
                },
            }
        }
        let hold = |(lease, rest)| {
            self.live.hold(&lease, rest, process);
            self.note_begin(&lease, process);
            lease
        };
        Ok(opened.into_iter().map(hold).collect())
    }

    /// Sleeps for `nap`, or until an entry comes that nobody has read (a read that consumes nothing), or until another
    /// partition has woken.
    async fn nap(&self, queues: &[&Queue], read_up_to: &[String], nap: Duration, woken: &CancellationToken) {
        let until = Instant::now() + nap;
        let bell = match self.idle_bell() {
            Some(bell) => Some(bell),
            None => woken.run_until_cancelled(self.link.bell()).await.and_then(Result::ok),
        };
        let Some(mut bell) = bell else {
            woken.run_until_cancelled(sleep_until(until)).await;
            return;
        };
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(millis(nap).max(1)).arg("STREAMS");
        for queue in queues {
            read.arg(self.keys.stream(&queue.topic));
        }
        read.arg(read_up_to);
        let number = bell.number;
        let answer = {
            let mut reading = pin!(timeout(nap + self.timeout, bell.connection.query::<redis::Value>(&read)));
            if let Some(answer) = woken.run_until_cancelled(&mut reading).await {
                answer
            } else {
                self.link.unblock(number).await;
                reading.await
            }
        };
        match answer {
            Ok(Ok(_)) => self.bells.lock().unwrap_or_else(PoisonError::into_inner).push(bell),
            // gone or mute: the next look says what is wrong
            Ok(Err(_)) | Err(_) => sleep(until.saturating_duration_since(Instant::now()).min(GLANCE / 10)).await,
        }
    }

    fn idle_bell(&self) -> Option<Bell> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|bell| !bell.connection.is_over());
        bells.pop()
    }
}

fn queue_args(call: Call, queue: &Queue, process: &str) -> Call {
    call.arg(queue.topic.as_str()).arg(&queue.agent).arg(keys::group(queue)).arg(keys::consumer(queue, process))
}
