//! What the fleet can run: the slots and recent run times of each topic, and the median duration of
//! each route's calls on the sync path.
//!
//! The workers of this process report their slots here directly; those of other processes and of
//! other programs are read from the store by one background task. Requests read both without a
//! lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::route::TopicCapacity;
use crate::store::WorkerHeartbeat;
use crate::task::Topic;

/// Holds the current capacity.
#[derive(Default)]
pub struct CapacityHandle {
    own_workers: ArcSwapOption<WorkerHeartbeat>,
    fleet: ArcSwap<FleetCapacity>,
}

/// The capacity beyond this process, and what is measured on the sync path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetCapacity {
    /// The live consumers of each topic, those of this process left out.
    pub by_topic: BTreeMap<Topic, TopicCapacity>,
    /// The median duration of recent calls on the sync path, by route, where enough are known.
    pub sync_medians: BTreeMap<String, Duration>,
}

// === impl CapacityHandle ===

impl CapacityHandle {
    /// What all live consumers of a topic can run.
    #[must_use]
    pub fn topic_capacity(&self, topic: &Topic) -> TopicCapacity {
        let of_fleet = self.fleet.load().by_topic.get(topic).copied().unwrap_or_default();
        match &*self.own_workers.load() {
            Some(own) => of_fleet.combine(heartbeat_capacity(own, topic)),
            None => of_fleet,
        }
    }

    /// The median duration of recent calls of a route on the sync path.
    #[must_use]
    pub fn sync_median(&self, route: &str) -> Option<Duration> {
        self.fleet.load().sync_medians.get(route).copied()
    }

    /// Sets what the workers of this process can run.
    pub fn set_own_workers(&self, heartbeat: WorkerHeartbeat) {
        self.own_workers.store(Some(Arc::new(heartbeat)));
    }

    /// Removes the workers of this process, which have ended.
    pub fn remove_own_workers(&self) {
        self.own_workers.store(None);
    }

    /// Replaces what is known beyond this process.
    pub fn publish_fleet(&self, fleet: FleetCapacity) {
        self.fleet.store(Arc::new(fleet));
    }
}

/// What the workers of one process can run of a topic. A worker of a release that does not report
/// its topics runs one task of any topic at a time.
#[must_use]
pub fn heartbeat_capacity(heartbeat: &WorkerHeartbeat, topic: &Topic) -> TopicCapacity {
    match &heartbeat.topics {
        None => {
            TopicCapacity { slots: u64::from(heartbeat.active_workers), ..TopicCapacity::default() }
        }
        Some(topics) => topics
            .iter()
            .find(|load| load.topic == *topic)
            .map(|load| TopicCapacity {
                slots: u64::from(load.slots),
                recent_runs: u64::from(load.recent_runs),
                recent_run_time: load.recent_run_time,
            })
            .unwrap_or_default(),
    }
}
