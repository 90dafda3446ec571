//! The background loops of the store: callers that wait for the end of a task are resolved, the
//! master is followed, and advice on the servers is logged.
//!
//! A process that ends a task publishes a message, which resolves the waiter at once. Twice a
//! second a poll asks for all awaited tasks in one call. It finds ends whose message was lost with
//! a connection, and ends that Python consumers wrote, which publish no message. Most waits end
//! before their first poll.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::store::redis::cluster::RedisStore;
use crate::store::redis::conn::advice::{
    ADVICE_REFRESH_INTERVAL, fetch_server_advice, log_new_advice,
};
use crate::store::redis::wire::keys;
use crate::task::TaskId;

/// How often awaited tasks are polled, the master is checked, and new connections are noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The longest pause before the next subscription after one has ended.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_secs(1);
/// The most tasks that one poll call asks for.
const POLL_BATCH_SIZE: usize = 256;

impl RedisStore {
    /// Runs all background loops until `shutdown`. From now on the runtime of the caller drives the
    /// connections.
    pub(crate) async fn run_background_loops(&self, shutdown: CancellationToken) {
        for partition in &self.partitions {
            for link in partition.core.all_links() {
                link.use_runtime(tokio::runtime::Handle::current()).await;
            }
        }
        let loops = async {
            tokio::join!(
                self.listen_for_ended_tasks(),
                self.poll_awaited_tasks(),
                self.follow_master(),
                self.run_advice_logging()
            )
        };
        shutdown.run_until_cancelled(loops).await;
    }

    async fn listen_for_ended_tasks(&self) {
        let channel = keys::notification_channel(&self.instance_id);
        loop {
            match self.first_partition().core.link.subscribe(channel.clone()).await {
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

    /// Resolves the waiters of the tasks in a message: task ids, separated by spaces.
    async fn handle_ended_message(&self, payload: &[u8]) {
        let ids = std::str::from_utf8(payload).unwrap_or_default().split(' ');
        for id in ids.filter_map(|text| TaskId::parse(text).ok()) {
            if let Err(error) = self.partition_of_task(&id).core.resolve_if_ended(&id).await {
                tracing::debug!(
                    task = %id,
                    %error,
                    "an ended task could not be read: the poll reads it again"
                );
            }
        }
    }

    /// Asks the sentinels regularly whether another server has become the master.
    async fn follow_master(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for link in self.first_partition().core.all_links() {
                link.recheck_master().await;
            }
        }
    }

    async fn poll_awaited_tasks(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The number of polls in a row that did not find each task. A task may not be found while
        // its enqueue is under way; when more polls miss it than fit into the timeout of the
        // enqueue, the store does not have it.
        let mut miss_counts: HashMap<TaskId, u32> = HashMap::new();
        let polls_per_timeout =
            self.first_partition().core.timeout.as_millis() / POLL_INTERVAL.as_millis();
        let max_misses = 2 + u32::try_from(polls_per_timeout).unwrap_or(u32::MAX / 2);
        loop {
            ticks.tick().await;
            let awaited = self.waiters.awaited_task_ids();
            // Only tasks that the previous poll saw too are asked for, since most waits are short.
            let polled = awaited.iter().filter(|id| miss_counts.contains_key(id)).cloned();
            let polled = self.group_by_partition(polled, |id| id);
            miss_counts = awaited
                .into_iter()
                .map(|id| {
                    let misses = miss_counts.get(&id).copied().unwrap_or(0);
                    (id, misses)
                })
                .collect();
            for (partition, ids) in polled {
                for batch in ids.chunks(POLL_BATCH_SIZE) {
                    let core = &partition.core;
                    let checked = core.check_awaited_tasks(batch, &mut miss_counts, max_misses);
                    if let Err(error) = checked.await {
                        tracing::debug!(%error, "awaited tasks could not be polled");
                        break;
                    }
                }
            }
        }
    }

    /// Logs advice on the server of each new connection, and again when it changes.
    async fn run_advice_logging(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // For each partition: when the checked connection was opened, and when it was checked.
        let mut last_checks = vec![None; self.partitions.len()];
        let mut logged = HashSet::new();
        loop {
            ticks.tick().await;
            for (partition, last_check) in self.partitions.iter().zip(&mut last_checks) {
                let link = &partition.core.link;
                let Some((server, connected_at)) = link.current_connection().await else {
                    continue;
                };
                if last_check.is_some_and(|(connection, checked_at): (_, Instant)| {
                    connection == connected_at && checked_at.elapsed() < ADVICE_REFRESH_INTERVAL
                }) {
                    continue;
                }
                if let Ok(advice) = fetch_server_advice(link).await {
                    *last_check = Some((connected_at, Instant::now()));
                    log_new_advice(&mut logged, &server, &advice);
                }
            }
        }
    }
}
