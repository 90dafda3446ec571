//! Leasing in one partition: one script over all queues, and the recovery of leases whose reply was
//! lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::GroupStartPosition;
use crate::store::redis::conn::wakeup::WakeupPool;
use crate::store::redis::core::PartitionCore;
use crate::store::redis::queue::settler::LeaseSettler;
use crate::store::redis::script::runner::{LEASE_TASKS, RECOVER_LEASES, ScriptCall};
use crate::store::redis::wire::keys;
use crate::store::redis::wire::lease_row::ScriptLeaseRow;
use crate::store::{Lease, QueueDemand, StoreError, TopicQueue};

/// The reply of the lease script: leases, ms until the next retry is due or −1, and the last entry
/// id of each stream that was seen.
type LeaseScriptReply = (Vec<ScriptLeaseRow>, i64, Vec<String>);

/// Leases tasks of one partition.
pub(crate) struct TaskLeaser {
    core: Arc<PartitionCore>,
    settler: Arc<LeaseSettler>,
    /// Connections of lease calls that wait for new entries.
    idle_wakeups: WakeupPool,
    /// The queue that the next lease call begins with.
    next_queue: AtomicUsize,
}

/// The outcome of one lease script.
pub(crate) struct QueuePoll {
    /// The leases.
    pub(crate) leases: Vec<Lease>,
    /// Whether some queue had entries, even if none of them was a task.
    pub(crate) found_entries: bool,
    /// When the next retry is due.
    pub(crate) next_retry_in: Option<Duration>,
    /// The last entry id of each queue's stream that was seen.
    pub(crate) last_ids: Vec<String>,
}

impl TaskLeaser {
    /// The leaser of a partition; `settler` keeps the leases.
    pub(crate) fn new(core: Arc<PartitionCore>, settler: Arc<LeaseSettler>) -> Self {
        let (idle_wakeups, next_queue) = (WakeupPool::default(), AtomicUsize::new(0));
        Self { core, settler, idle_wakeups, next_queue }
    }

    /// The queues, beginning with another one each time, so that none is always last.
    pub(crate) fn rotate_queues<'a>(&self, queues: &'a [QueueDemand]) -> Vec<&'a QueueDemand> {
        let first = self.next_queue.fetch_add(1, Ordering::Relaxed) % queues.len();
        queues[first..].iter().chain(&queues[..first]).collect()
    }

    /// Leases at most `max` tasks to `process`, without waiting.
    pub(crate) async fn poll_queues(
        &self,
        process: &str,
        demands: &[&QueueDemand],
        max: usize,
    ) -> Result<QueuePoll, StoreError> {
        let queues: &[&TopicQueue] =
            &demands.iter().map(|demand| &demand.queue).collect::<Vec<_>>();
        let local_leases = &self.settler.local_leases;
        if local_leases.check_lost_reply(process, self.core.timeout * 2) {
            let leases = self.recover_lost_leases(process, queues, max).await?;
            if !leases.is_empty() {
                return Ok(QueuePoll {
                    leases,
                    found_entries: true,
                    next_retry_in: None,
                    last_ids: Vec::new(),
                });
            }
        }
        let call = self.lease_call(process, demands, max);
        let _not_recovering = local_leases.recovery_lock.read().await;
        let pending = local_leases.begin_lease_call(process);
        let (rows, next_retry_ms, last_ids): LeaseScriptReply = call.run(&self.core.link).await?;
        let found_entries = !rows.is_empty();
        let leases = self.open_leases(process, queues, rows).await?;
        pending.mark_answered();
        Ok(QueuePoll {
            leases,
            found_entries,
            next_retry_in: u64::try_from(next_retry_ms).ok().map(Duration::from_millis),
            last_ids,
        })
    }

    fn lease_call(&self, process: &str, demands: &[&QueueDemand], max: usize) -> ScriptCall {
        let keys = &self.core.keys;
        let queue_keys: Vec<(&str, String)> = demands
            .iter()
            .flat_map(|QueueDemand { queue, .. }| {
                let group = keys::group_name(queue);
                [
                    ("stream", keys.stream_key(&queue.topic)),
                    ("delayed_index", keys.delayed_index_key(&group)),
                    ("group_start_key", keys.group_start_key(&group)),
                ]
            })
            .collect();
        let mut call = LEASE_TASKS
            .call_with_keys(&queue_keys)
            .arg("record_prefix", keys.record_prefix())
            .arg("result_prefix", keys.result_prefix())
            .arg("max", max);
        for QueueDemand { queue, max } in demands {
            call = push_queue_args(call, queue, process)
                .arg("max_of_queue", *max)
                .arg("starts_at_end", queue.group_start == GroupStartPosition::NewEntries);
        }
        call
    }

    /// Leases the entries again that a lost reply delivered to `process`.
    async fn recover_lost_leases(
        &self,
        process: &str,
        queues: &[&TopicQueue],
        max: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let local_leases = &self.settler.local_leases;
        let _no_lease_call = local_leases.recovery_lock.write().await;
        let pending = local_leases.begin_lease_call(process);
        let keys = &self.core.keys;
        let streams: Vec<(&str, String)> =
            queues.iter().map(|queue| ("stream", keys.stream_key(&queue.topic))).collect();
        let mut call = RECOVER_LEASES
            .call_with_keys(&streams)
            .arg("record_prefix", keys.record_prefix())
            .arg("result_prefix", keys.result_prefix())
            .arg("max", max);
        let mut all_held = Vec::new();
        for queue in queues {
            let held = local_leases.entries_of_topic(&queue.topic);
            call = push_queue_args(call, queue, process).arg("held_count_of_queue", held.len());
            all_held.extend(held);
        }
        call = call.arg_each("held_entry", all_held);
        let (rows, has_more): (Vec<ScriptLeaseRow>, bool) = call.run(&self.core.link).await?;
        if !rows.is_empty() {
            tracing::warn!(
                process,
                tasks = rows.len(),
                "leases whose delivery was lost are recovered"
            );
        }
        let leases = self.open_leases(process, queues, rows).await?;
        if !has_more {
            pending.mark_answered();
        }
        Ok(leases)
    }

    /// Registers rows as local leases; entries that are no tasks become dead letters. Registration
    /// comes last: a lease that is lost before it is recovered later.
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
                Err(why) => match self.settler.reject_entry(queue, &row, why).await {
                    Err(error) if error.is_outage() => return Err(error),
                    // the entry stays pending; it is rejected again when its lease has expired
                    Err(error) => {
                        tracing::error!(
                            entry = row.entry_id,
                            %error,
                            "a dead letter could not be written"
                        );
                    }
                    Ok(()) => {}
                },
            }
        }
        let register = |(lease, extras)| {
            self.settler.local_leases.insert_lease(&lease, extras, process);
            self.settler.agent_events.record_attempt_start(&lease, process);
            lease
        };
        Ok(opened.into_iter().map(register).collect())
    }

    /// Waits for `limit`, until one of the queues' streams has an entry after the id at the same
    /// position of `last_ids`, or until `cancelled`.
    pub(crate) async fn wait_for_entry(
        &self,
        queues: &[&QueueDemand],
        last_ids: &[String],
        limit: Duration,
        cancelled: &CancellationToken,
    ) {
        let streams: Vec<String> =
            queues.iter().map(|demand| self.core.keys.stream_key(&demand.queue.topic)).collect();
        self.idle_wakeups
            .wait_for_entry(&self.core.link, &streams, last_ids, limit, cancelled)
            .await;
    }
}

fn push_queue_args(call: ScriptCall, queue: &TopicQueue, process: &str) -> ScriptCall {
    call.arg("topic", queue.topic.as_str())
        .arg("agent", &queue.agent)
        .arg("group", keys::group_name(queue))
        .arg("consumer", keys::consumer_name(queue, process))
}
