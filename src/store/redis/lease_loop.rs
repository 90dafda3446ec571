//! A lease call over all partitions: lease at once where there is something, else wait until an
//! entry comes and lease again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::redis::cluster::RedisStore;
use crate::store::redis::partition::Partition;
use crate::store::redis::queue::lease::QueuePoll;
use crate::store::{Lease, LeaseDemand, QueueDemand, StoreError};

/// The longest wait between two lease scripts. A wakeup connection reports new entries, but not
/// leases that were released or expired.
const LEASE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The most leases of one call: the server runs nothing else while a script runs.
const MAX_LEASES_PER_CALL: usize = 500;

/// The outcome of one round over the partitions.
#[derive(Default)]
struct PollRound<'a> {
    leases: Vec<Lease>,
    /// Whether some queue had entries, even if none of them was a task. The fields below are only
    /// set where no queue had.
    found_entries: bool,
    next_retry_in: Option<Duration>,
    idle_partitions: Vec<IdlePartition<'a>>,
}

/// A partition without entries to lease.
struct IdlePartition<'a> {
    partition: &'a Partition,
    queues: Vec<&'a QueueDemand>,
    /// The last entry id of each queue's stream that was seen.
    last_ids: Vec<String>,
}

impl RedisStore {
    /// Leases tasks; returns none once the wait is over.
    pub(crate) async fn lease_tasks(
        &self,
        demand: &LeaseDemand<'_>,
    ) -> Result<Vec<Lease>, StoreError> {
        let deadline = Instant::now() + demand.wait;
        let max = demand.max.min(MAX_LEASES_PER_CALL);
        if max == 0 || demand.queues.is_empty() {
            let _ = timeout(demand.wait, demand.stop_waiting.notified()).await;
            return Ok(Vec::new());
        }
        loop {
            let round = self.poll_partitions(demand.process_name, demand.queues, max).await?;
            let now = Instant::now();
            if !round.leases.is_empty() || now >= deadline {
                return Ok(round.leases);
            }
            if round.found_entries {
                continue;
            }
            let limit = LEASE_POLL_INTERVAL
                .min(deadline - now)
                .min(round.next_retry_in.unwrap_or(LEASE_POLL_INTERVAL));
            if wait_for_entries(&round.idle_partitions, limit, demand.stop_waiting).await {
                return Ok(Vec::new());
            }
        }
    }

    /// Polls one partition after the other, beginning with another one each time, until one has
    /// entries. A partition that fails is skipped; when all fail, that is the error.
    async fn poll_partitions<'a>(
        &'a self,
        process: &str,
        queues: &'a [QueueDemand],
        max: usize,
    ) -> Result<PollRound<'a>, StoreError> {
        let mut round = PollRound::default();
        let mut failed = None;
        let first = self.next_partition.fetch_add(1, Ordering::Relaxed) % self.partitions.len();
        for partition in self.partitions[first..].iter().chain(&self.partitions[..first]) {
            let queues = partition.leaser.rotate_queues(queues);
            match partition.leaser.poll_queues(process, &queues, max).await {
                Ok(QueuePoll { leases, found_entries: true, .. }) => {
                    return Ok(PollRound { leases, found_entries: true, ..PollRound::default() });
                }
                Ok(poll) => {
                    round.next_retry_in =
                        round.next_retry_in.into_iter().chain(poll.next_retry_in).min();
                    let last_ids = poll.last_ids;
                    round.idle_partitions.push(IdlePartition { partition, queues, last_ids });
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

/// Waits for `limit` or until a partition has an entry; returns true if `stop_waiting` was notified
/// before that.
async fn wait_for_entries(
    partitions: &[IdlePartition<'_>],
    limit: Duration,
    stop_waiting: &Notify,
) -> bool {
    let ended = CancellationToken::new();
    let waits = join_all(partitions.iter().map(async |idle| {
        let leaser = &idle.partition.leaser;
        leaser.wait_for_entry(&idle.queues, &idle.last_ids, limit, &ended).await;
        ended.cancel();
    }));
    let stopped = async {
        let stopped = ended.run_until_cancelled(stop_waiting.notified()).await.is_some();
        ended.cancel();
        stopped
    };
    tokio::join!(waits, stopped).1
}
