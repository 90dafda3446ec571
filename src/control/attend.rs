//! Sees to the tasks that consumers of another make run: nobody else counts what became of those.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::snapshot::SnapshotHandle;
use crate::store::{Circuit, TopicQueue};

const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

/// Attends to the configured queues, every second until `shutdown`.
pub async fn reconcile_external_queues(
    snapshots: Arc<SnapshotHandle>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let mut ticks = interval(RECONCILE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let config = snapshots.load().config.clone();
        let queues: Vec<TopicQueue> =
            config.topics.iter().map(|(topic, config)| TopicQueue::new(topic, config)).collect();
        match circuit.call(circuit.store().reconcile_external(&queues, config.results.ttl)).await {
            Ok(dead) => {
                for dead in dead {
                    let (topic, route) = (dead.topic.as_str(), dead.route.as_deref());
                    metrics.count_buried_task(topic, route, dead.trimmed);
                }
            }
            Err(error) if error.is_outage() => {}
            Err(error) => {
                tracing::warn!(%error, "tasks of other consumers could not be looked after");
            }
        }
    }
}
