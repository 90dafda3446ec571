//! Who waits here is told: at once where another process publishes an end, else within a poll.
//!
//! The poll asks for all waited-for tasks in one call and catches what no message told: a message
//! lost with its connection, and the ends of Python's consumers, who only write a result. Most
//! waits are over before they are asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::partition::Partition;
use super::script::CHECK_ENDED;
use super::{RedisStore, keys};
use crate::store::StoreError;
use crate::task::TaskId;

const POLL_INTERVAL: Duration = Duration::from_millis(500);
const RESUBSCRIBE_PAUSE: Duration = Duration::from_secs(1);
/// Tasks asked for in one call.
const POLL_BATCH_SIZE: usize = 256;

impl RedisStore {
    pub(super) async fn run_background_loops(&self, shutdown: CancellationToken) {
        for partition in &self.partitions {
            for link in partition.all_links() {
                link.use_runtime(tokio::runtime::Handle::current()).await;
            }
        }
        let work = async {
            tokio::join!(
                self.listen_for_ended_tasks(),
                self.poll_awaited_tasks(),
                self.follow_master(),
                self.run_advice_logging()
            )
        };
        shutdown.run_until_cancelled(work).await;
    }

    async fn listen_for_ended_tasks(&self) {
        loop {
            match self
                .first_partition()
                .link
                .subscribe(keys::notification_channel(&self.instance_id))
                .await
            {
                Ok(subscriber) => {
                    let mut messages = subscriber.into_on_message();
                    while let Some(message) = messages.next().await {
                        self.handle_ended_message(message.get_payload_bytes()).await;
                    }
                    tracing::debug!("notifications are interrupted: polling until they are back");
                }
                Err(error) => tracing::debug!(%error, "notifications are not available: polling"),
            }
            sleep(RESUBSCRIBE_PAUSE.mul_f32(rand::random_range(0.2..1.0))).await;
        }
    }

    async fn handle_ended_message(&self, payload: &[u8]) {
        let ids = std::str::from_utf8(payload).unwrap_or_default().split(' ');
        for id in ids.filter_map(|text| TaskId::parse(text).ok()) {
            if let Err(error) = self.partition_of_task(&id).resolve_if_ended(&id).await {
                tracing::debug!(task = %id, %error, "an ended task could not be read: the poll will");
            }
        }
    }

    /// Follows the master where it goes; matters under Sentinel only.
    async fn follow_master(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for link in self.first_partition().all_links() {
                link.recheck_master().await;
            }
        }
    }

    async fn poll_awaited_tasks(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // how often each was not found; a task whose enqueue is under way is not there yet
        let mut asked: HashMap<TaskId, u32> = HashMap::new();
        let grace = 2 + u32::try_from(
            self.first_partition().timeout.as_millis() / POLL_INTERVAL.as_millis(),
        )
        .unwrap_or(u32::MAX / 2);
        loop {
            ticks.tick().await;
            let waiting = self.waiters.awaited_task_ids();
            let known = self.group_by_partition(
                waiting.iter().filter(|id| asked.contains_key(id)).cloned(),
                |id| id,
            );
            asked = waiting
                .into_iter()
                .map(|id| {
                    let misses = asked.get(&id).copied().unwrap_or(0);
                    (id, misses)
                })
                .collect();
            for (partition, known) in known {
                for batch in known.chunks(POLL_BATCH_SIZE) {
                    if let Err(error) =
                        partition.check_awaited_tasks(batch, &mut asked, grace).await
                    {
                        tracing::debug!(%error, "waiting tasks could not be asked for");
                        break;
                    }
                }
            }
        }
    }
}

impl Partition {
    async fn check_awaited_tasks(
        &self,
        batch: &[TaskId],
        miss_counts: &mut HashMap<TaskId, u32>,
        max_misses: u32,
    ) -> Result<(), StoreError> {
        let task_keys: Vec<String> = batch
            .iter()
            .flat_map(|id| [self.keys.record_key(id), self.keys.result_key(id)])
            .collect();
        let found: Vec<u8> = CHECK_ENDED
            .call_with_keys(&task_keys)
            .run::<Vec<i64>>(&self.link)
            .await?
            .into_iter()
            .map(|n| u8::try_from(n).unwrap_or(0))
            .collect();
        for (id, found) in batch.iter().zip(found) {
            let misses = miss_counts.entry(id.clone()).or_default();
            match found {
                1 => self.resolve_if_ended(id).await?,
                2 => *misses += 1,
                _ => *misses = 0,
            }
            if *misses >= max_misses {
                self.waiters.resolve_task(id, None);
            }
        }
        Ok(())
    }

    /// Reads a task for those who wait for it, if it has ended.
    pub(super) async fn resolve_if_ended(&self, id: &TaskId) -> Result<(), StoreError> {
        if self.waiters.has_waiter_for(id)
            && let Some(record) = self.read_record(id).await?
            && record.status.is_final()
        {
            self.waiters.resolve_task(id, Some(&Arc::new(record)));
        }
        Ok(())
    }
}
