//! What one request sees: a configuration, its routing table and the running weights, of one generation.
//!
//! Readers load one snapshot per request and keep it; the controller is the only publisher. A reload
//! therefore drops no request, and no request sees half of one.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::cohort::Weight;
use crate::config::{Config, Route};
use crate::metrics::{Metrics, OTHER, RouteCells, TASKS};
use crate::route::Table;

/// One generation.
pub struct Snapshot {
    /// Raised by one at each publication.
    pub generation: u64,
    /// The configuration.
    pub config: Arc<Config>,
    /// Its routing table; indices are those of `routes`.
    pub table: Table,
    /// The routes, with what runs on them.
    pub routes: Vec<LiveRoute>,
    /// Counts of requests that no route names.
    pub other: Arc<RouteCells>,
    /// Counts of requests for the task endpoints.
    pub tasks: Arc<RouteCells>,
}

/// A route as it runs.
pub struct LiveRoute {
    /// Its index in the configuration.
    index: usize,
    /// The running weight: never over the route's `percent`.
    pub weight: Weight,
    /// The epoch of its rollout: from one change of weight to the next.
    pub epoch: u64,
    /// Whether shadow traffic is copied.
    pub copies: bool,
    /// Its counts.
    pub cells: Arc<RouteCells>,
}

/// What a rollout says of its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The desired weight.
    pub weight: Weight,
    /// As in [`LiveRoute`].
    pub epoch: u64,
    /// As in [`LiveRoute`].
    pub copies: bool,
}

/// Where the current snapshot is.
pub struct Snapshots {
    current: ArcSwap<Snapshot>,
}

// === impl Snapshot ===

impl Snapshot {
    /// The snapshot of `config` with what runs on its routes, in their order; each weight is clamped to its route's
    /// `percent`.
    #[must_use]
    pub fn new(generation: u64, config: Arc<Config>, running: &[Running], metrics: &Metrics) -> Self {
        let live = |(index, route): (usize, &Route)| {
            let Running { weight, epoch, copies } = running.get(index).copied().unwrap_or_default();
            let cells = metrics.requests.route(&route.name);
            LiveRoute { index, weight: weight.min(route.rollout.percent), epoch, copies, cells }
        };
        Self {
            generation,
            table: Table::new(&config),
            routes: config.routes.iter().enumerate().map(live).collect(),
            other: metrics.requests.route(OTHER),
            tasks: metrics.requests.route(TASKS),
            config,
        }
    }

    /// The configuration of a live route.
    #[must_use]
    pub fn route(&self, live: &LiveRoute) -> &Route {
        &self.config.routes[live.index]
    }
}

// === impl Snapshots ===

impl Snapshots {
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
