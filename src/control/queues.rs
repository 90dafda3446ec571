//! Keeps the queue gauges fresh, so that a scrape costs the store nothing, and has delayed tasks
//! queued when they are due: those of `external` topics too, which no worker here looks after.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::snapshot::SnapshotHandle;
use crate::store::{Circuit, TopicQueue};

const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

/// Looks after the configured queues, every two seconds until `shutdown`; the last gauges stay
/// while the store is gone.
pub async fn refresh_queues(
    snapshots: Arc<SnapshotHandle>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let mut ticks = interval(REFRESH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let config = snapshots.load().config.clone();
        let queues: Vec<TopicQueue> =
            config.topics.iter().map(|(topic, config)| TopicQueue::new(topic, config)).collect();
        if let Err(error) = circuit.call(circuit.store().enqueue_due_tasks(&queues)).await
            && !error.is_outage()
        {
            tracing::warn!(%error, "delayed tasks could not be queued");
        }
        if let Ok(depths) = circuit.call(circuit.store().load_queue_depths(&queues)).await {
            for (queue, depth) in queues.iter().zip(depths) {
                metrics.set_queue_gauges(queue.topic.as_str(), depth.queued, depth.oldest_age);
            }
        }
        if let Ok(depth) = circuit.call(circuit.store().count_pending_deliveries()).await {
            metrics.outbox_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
        }
    }
}
