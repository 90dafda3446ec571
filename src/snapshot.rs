//! What one request sees: a configuration, its routing table and the running weights, of one
//! generation.
//!
//! Readers load one snapshot per request and keep it; the controller is the only publisher. A
//! reload therefore drops no request, and no request sees half of one.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::cohort::Weight;
use crate::config::{Config, RouteConfig};
use crate::metrics::{Metrics, RouteCounters, TASKS_ROUTE_LABEL, UNMATCHED_ROUTE_LABEL};
use crate::route::RouteTable;

/// One generation.
pub struct Snapshot {
    /// Raised by one at each publication.
    pub generation: u64,
    /// The configuration.
    pub config: Arc<Config>,
    /// Its routing table; indices are those of `routes`.
    pub route_table: RouteTable,
    /// The routes, with what runs on them.
    pub routes: Vec<SnapshotRoute>,
    /// Counts of requests that no route names.
    pub unmatched_counters: Arc<RouteCounters>,
    /// Counts of requests for the task endpoints.
    pub task_endpoint_counters: Arc<RouteCounters>,
}

/// A route as it runs.
pub struct SnapshotRoute {
    /// Its index in the configuration.
    index: usize,
    /// The running weight: never over the route's `percent`.
    pub weight: Weight,
    /// The epoch of its rollout: from one change of weight to the next.
    pub epoch: u64,
    /// Whether shadow traffic is copied.
    pub copies_requests: bool,
    /// Its counts.
    pub counters: Arc<RouteCounters>,
}

/// What a rollout says of its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteRunState {
    /// The desired weight.
    pub weight: Weight,
    /// As in [`SnapshotRoute`].
    pub epoch: u64,
    /// As in [`SnapshotRoute`].
    pub copies_requests: bool,
}

/// Where the current snapshot is.
pub struct SnapshotHandle {
    current: ArcSwap<Snapshot>,
}

// === impl Snapshot ===

impl Snapshot {
    /// The snapshot of `config` with what runs on its routes, in their order; each weight is
    /// clamped to its route's `percent`.
    #[must_use]
    pub fn new(
        generation: u64,
        config: Arc<Config>,
        running: &[RouteRunState],
        metrics: &Metrics,
    ) -> Self {
        let live = |(index, route): (usize, &RouteConfig)| {
            let RouteRunState { weight, epoch, copies_requests: copies } =
                running.get(index).copied().unwrap_or_default();
            let cells = metrics.request_counters.route_counters(&route.name);
            SnapshotRoute {
                index,
                weight: weight.min(route.rollout.percent),
                epoch,
                copies_requests: copies,
                counters: cells,
            }
        };
        Self {
            generation,
            route_table: RouteTable::new(&config),
            routes: config.routes.iter().enumerate().map(live).collect(),
            unmatched_counters: metrics.request_counters.route_counters(UNMATCHED_ROUTE_LABEL),
            task_endpoint_counters: metrics.request_counters.route_counters(TASKS_ROUTE_LABEL),
            config,
        }
    }

    /// The configuration of a live route.
    #[must_use]
    pub fn route_config(&self, live: &SnapshotRoute) -> &RouteConfig {
        &self.config.routes[live.index]
    }
}

// === impl Snapshots ===

impl SnapshotHandle {
    /// Starts with `first`.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(first) }
    }

    /// The current snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces it; only the controller calls this.
    pub fn publish(&self, next: Snapshot) {
        self.current.store(Arc::new(next));
    }
}
