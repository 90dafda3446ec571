//! Refreshes what the fleet can run, each second: the heartbeats of the other processes' workers,
//! the consumers of other programs, and the median duration of each route's calls on the sync path.
//!
//! Logs when a topic of a route has no live consumer, and when it has one again; and once a minute
//! how many calls were served sync because the topic's consumers were busy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::recent_durations::RecentDurations;
use crate::capacity::{CapacityHandle, FleetCapacity, heartbeat_capacity};
use crate::cohort_hash::{RequestPath, Weight};
use crate::config::{Config, RouteConfig, TopicConfig};
use crate::metrics::{FallbackReason, Metrics};
use crate::route::TopicCapacity;
use crate::snapshot::SnapshotHandle;
use crate::store::{Circuit, QueueConsumers, StoreError, TopicQueue, WorkerHeartbeat};
use crate::task::Topic;

const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest interval between two log lines about busy consumers.
const SATURATION_LOG_INTERVAL: Duration = Duration::from_mins(1);

/// The refresh of one process.
pub struct CapacityRefresher {
    /// This process, whose workers report to the handle directly.
    process_name: Arc<str>,
    snapshots: Arc<SnapshotHandle>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    capacity: Arc<CapacityHandle>,
    started_at: Instant,
    by_topic: BTreeMap<Topic, TopicCapacity>,
    groups: BTreeMap<Topic, Vec<String>>,
    sync_durations: BTreeMap<String, RecentDurations>,
    /// The topics that had no consumer at the last refresh, each with whether this is logged.
    without_consumer: BTreeMap<Topic, bool>,
    saturation_logged_at: Instant,
    /// The saturated calls by route when they were last logged.
    saturated_calls: BTreeMap<String, u64>,
}

// === impl CapacityRefresher ===

impl CapacityRefresher {
    /// The refresh of the process `process_name`.
    #[must_use]
    pub fn new(
        process_name: Arc<str>,
        snapshots: Arc<SnapshotHandle>,
        circuit: Arc<Circuit>,
        metrics: Arc<Metrics>,
        capacity: Arc<CapacityHandle>,
    ) -> Self {
        let now = Instant::now();
        Self {
            process_name,
            snapshots,
            circuit,
            metrics,
            capacity,
            started_at: now,
            by_topic: BTreeMap::new(),
            groups: BTreeMap::new(),
            sync_durations: BTreeMap::new(),
            without_consumer: BTreeMap::new(),
            saturation_logged_at: now,
            saturated_calls: BTreeMap::new(),
        }
    }

    /// Refreshes every second until `shutdown`. While the store is unreachable, the last known
    /// consumers stay.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // `periodic::every` cannot lend `self` to each round
        let mut ticks = interval(REFRESH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.refresh().await;
        }
    }

    async fn refresh(&mut self) {
        let config = self.snapshots.load().config.clone();
        match self.read_consumers(&config).await {
            Ok(()) => {}
            Err(error) if error.is_outage() => {}
            Err(error) => tracing::warn!(%error, "the live consumers could not be read"),
        }
        let sync_medians = self.measure_sync_medians(&config);
        self.capacity
            .publish_fleet(FleetCapacity { by_topic: self.by_topic.clone(), sync_medians });
        for topic in config.topics.keys() {
            let slots = self.capacity.topic_capacity(topic).slots;
            self.metrics.set_topic_slots(topic.as_str(), slots);
        }
        self.log_missing_consumers(&config);
        self.log_saturation(&config);
    }

    /// Reads the live consumers outside of this process.
    async fn read_consumers(&mut self, config: &Config) -> Result<(), StoreError> {
        let store = self.circuit.store();
        let queues: Vec<TopicQueue> =
            config.topics.iter().map(|(topic, config)| TopicQueue::new(topic, config)).collect();
        let heartbeats = self.circuit.call(store.list_heartbeats()).await?;
        let consumers = self.circuit.call(store.load_queue_consumers(&queues)).await?;
        self.by_topic.clear();
        self.groups.clear();
        for ((topic, topic_config), consumers) in config.topics.iter().zip(consumers) {
            let others = heartbeats.iter().filter(|heartbeat| self.is_live_elsewhere(heartbeat));
            let workers = others
                .map(|heartbeat| heartbeat_capacity(heartbeat, topic))
                .fold(TopicCapacity::default(), TopicCapacity::combine);
            let external = external_capacity(&consumers, topic_config);
            self.by_topic.insert(topic.clone(), workers.combine(external));
            self.groups.insert(topic.clone(), consumers.groups);
        }
        Ok(())
    }

    fn is_live_elsewhere(&self, heartbeat: &WorkerHeartbeat) -> bool {
        heartbeat.is_fresh() && *heartbeat.process != *self.process_name
    }

    fn measure_sync_medians(&mut self, config: &Config) -> BTreeMap<String, Duration> {
        let uptime = self.started_at.elapsed();
        let mut medians = BTreeMap::new();
        for route in &config.routes {
            let counters = self.metrics.request_counters.route_counters(&route.name);
            let counts = counters.path_totals(RequestPath::Sync).duration_counts;
            let durations = self.sync_durations.entry(route.name.clone()).or_default();
            if let Some(median) = durations.update_median(uptime, counts) {
                medians.insert(route.name.clone(), median);
            }
        }
        medians
    }

    /// Logs the topics of routes that lost their last consumer, or got one. A topic is logged at
    /// the second refresh in a row that finds none, so that a start in parallel logs nothing.
    fn log_missing_consumers(&mut self, config: &Config) {
        if self.circuit.is_open() {
            return;
        }
        let routed: BTreeSet<&Topic> = config
            .routes
            .iter()
            .filter(|route| allows_async(route))
            .map(|route| &route.topic)
            .collect();
        self.without_consumer.retain(|topic, _| routed.contains(topic));
        for topic in routed {
            if self.capacity.topic_capacity(topic).slots > 0 {
                if self.without_consumer.remove(topic) == Some(true) {
                    tracing::info!(%topic, "the topic has a live consumer again");
                }
                continue;
            }
            let Some(is_logged) = self.without_consumer.get_mut(topic) else {
                self.without_consumer.insert(topic.clone(), false);
                continue;
            };
            if !std::mem::replace(is_logged, true) {
                let group = config.topics.get(topic).map(|config| config.agent.as_str());
                let groups = self.groups.get(topic).map(|groups| groups.join(", "));
                tracing::warn!(
                    %topic,
                    agent = group.unwrap_or_default(),
                    consumer_groups = groups.unwrap_or_default(),
                    "no live consumer reads this topic: its canaried calls are served sync until \
                     a worker or an agent of this name runs"
                );
            }
        }
    }

    fn log_saturation(&mut self, config: &Config) {
        if self.saturation_logged_at.elapsed() < SATURATION_LOG_INTERVAL {
            return;
        }
        self.saturation_logged_at = Instant::now();
        for route in &config.routes {
            let total = self.metrics.read_fallbacks(&route.name, FallbackReason::Saturated);
            let before = self.saturated_calls.insert(route.name.clone(), total).unwrap_or(0);
            if total > before {
                tracing::warn!(
                    route = route.name,
                    topic = %route.topic,
                    calls = total - before,
                    slots = self.capacity.topic_capacity(&route.topic).slots,
                    "canaried calls of the last minute were served sync because their tasks would \
                     have started late: add workers, or raise the topic's concurrency"
                );
            }
        }
    }
}

/// Whether the configuration allows calls of the route to become tasks.
fn allows_async(route: &RouteConfig) -> bool {
    route.rollout.percent > Weight::default()
}

/// What the live consumers of other programs can run.
fn external_capacity(consumers: &QueueConsumers, topic: &TopicConfig) -> TopicCapacity {
    let live = consumers.external.iter().filter(|consumer| consumer.is_live(topic.timeout)).count();
    let slots = u64::try_from(live).unwrap_or(u64::MAX).saturating_mul(topic.external_slots.into());
    TopicCapacity { slots, ..TopicCapacity::default() }
}
