//! A snapshot: a configuration, its routing table and the running weights, all of one generation.
//!
//! A request loads one snapshot and keeps it to its end; the controller is the only publisher. A
//! reload therefore drops no request, and no request sees parts of two configurations.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::cohort_hash::Weight;
use crate::config::{Config, RouteConfig};
use crate::metrics::{Metrics, RouteCounters, TASKS_ROUTE_LABEL, UNMATCHED_ROUTE_LABEL};
use crate::route::RouteTable;

/// One generation of configuration, routing table and weights.
pub struct Snapshot {
    /// Increases by one with each publication.
    pub generation: u64,
    /// The configuration.
    pub config: Arc<Config>,
    /// The routing table of `config`; its indices are those of `routes`.
    pub route_table: RouteTable,
    /// The routes with their weights and epochs, in the configuration's order.
    pub routes: Vec<SnapshotRoute>,
    /// Counters of the requests that match no route.
    pub unmatched_counters: Arc<RouteCounters>,
    /// Counters of the requests for the task endpoints.
    pub task_endpoint_counters: Arc<RouteCounters>,
}

/// A route with its running weight and epoch.
pub struct SnapshotRoute {
    /// The route's index in the configuration.
    index: usize,
    /// The running weight; never more than the route's `percent`.
    pub weight: Weight,
    /// The weight that the rollout wants, whatever `percent` this process allows.
    pub desired_weight: Weight,
    /// The rollout's epoch; each change of the weight begins a new epoch.
    pub epoch: u64,
    /// Whether requests are copied as shadow traffic.
    pub copies_requests: bool,
    /// The route's request counters.
    pub counters: Arc<RouteCounters>,
}

/// The weight and epoch that a rollout decided for its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteRunState {
    /// The weight, before the snapshot limits it to the route's `percent`.
    pub weight: Weight,
    /// As in [`SnapshotRoute`].
    pub desired_weight: Weight,
    /// As in [`SnapshotRoute`].
    pub epoch: u64,
    /// As in [`SnapshotRoute`].
    pub copies_requests: bool,
}

/// Holds the current snapshot.
pub struct SnapshotHandle {
    current: ArcSwap<Snapshot>,
}

// === impl Snapshot ===

impl Snapshot {
    /// The snapshot of `config` with the run states of its routes, in their order. Each weight is
    /// limited to its route's `percent`.
    #[must_use]
    pub fn new(
        generation: u64,
        config: Arc<Config>,
        running: &[RouteRunState],
        metrics: &Metrics,
    ) -> Self {
        let snapshot_route = |(index, route): (usize, &RouteConfig)| {
            let RouteRunState { weight, desired_weight, epoch, copies_requests } =
                running.get(index).copied().unwrap_or_default();
            let counters = metrics.request_counters.route_counters(&route.name);
            SnapshotRoute {
                index,
                weight: weight.min(route.rollout.percent),
                desired_weight,
                epoch,
                copies_requests,
                counters,
            }
        };
        Self {
            generation,
            route_table: RouteTable::new(&config),
            routes: config.routes.iter().enumerate().map(snapshot_route).collect(),
            unmatched_counters: metrics.request_counters.route_counters(UNMATCHED_ROUTE_LABEL),
            task_endpoint_counters: metrics.request_counters.route_counters(TASKS_ROUTE_LABEL),
            config,
        }
    }

    /// The configuration of one of `routes`.
    #[must_use]
    pub fn route_config(&self, route: &SnapshotRoute) -> &RouteConfig {
        &self.config.routes[route.index]
    }
}

// === impl SnapshotHandle ===

impl SnapshotHandle {
    /// A handle whose current snapshot is `first`.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(first) }
    }

    /// The current snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces the current snapshot. Only the controller calls this.
    pub fn publish(&self, next: Snapshot) {
        self.current.store(Arc::new(next));
    }
}
