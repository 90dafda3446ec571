//! Reconciles tasks that consumers of another make run (`handler: external`): the store finds those
//! that failed for good, and they are counted here, since no worker of this program does it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::periodic::every;
use crate::metrics::Metrics;
use crate::snapshot::SnapshotHandle;
use crate::store::{Circuit, TopicQueue};

const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

/// Reconciles the configured queues every second until `shutdown`.
pub async fn reconcile_external_queues(
    snapshots: Arc<SnapshotHandle>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    every(RECONCILE_INTERVAL, shutdown, || reconcile_once(&snapshots, &circuit, &metrics)).await;
}

async fn reconcile_once(snapshots: &SnapshotHandle, circuit: &Circuit, metrics: &Metrics) {
    let config = snapshots.load().config.clone();
    let queues: Vec<TopicQueue> =
        config.topics.iter().map(|(topic, config)| TopicQueue::new(topic, config)).collect();
    match circuit.call(circuit.store().reconcile_external(&queues, config.results.ttl)).await {
        Ok(buried) => {
            for task in buried {
                let (topic, route) = (task.topic.as_str(), task.route.as_deref());
                metrics.count_buried_task(topic, route, task.trimmed);
            }
        }
        Err(error) if error.is_outage() => {}
        Err(error) => {
            tracing::warn!(%error, "tasks of external consumers could not be reconciled");
        }
    }
}
