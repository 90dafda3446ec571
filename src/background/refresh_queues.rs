//! Refreshes the queue gauges, so that a scrape costs the store nothing, and enqueues delayed tasks
//! that are due. That includes tasks of `external` topics, for which no worker of this program
//! does it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::periodic::every;
use crate::metrics::Metrics;
use crate::snapshot::SnapshotHandle;
use crate::store::{Circuit, TopicQueue};

const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

/// Refreshes the gauges of the configured queues every two seconds until `shutdown`. While the
/// store is unreachable the gauges keep their last values.
pub async fn refresh_queues(
    snapshots: Arc<SnapshotHandle>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    every(REFRESH_INTERVAL, shutdown, || refresh_once(&snapshots, &circuit, &metrics)).await;
}

async fn refresh_once(snapshots: &SnapshotHandle, circuit: &Circuit, metrics: &Metrics) {
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
