//! The status that a replica reports with each replica sync, as JSON that replicas of earlier and
//! later builds read too: fields are only added, and an absent field has a meaning.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cohort_hash::Weight;
use crate::config::{PlanFieldHashes, RolloutConfig};
use crate::control::views::ReplicaView;

/// A replica's status.
#[derive(Serialize, Deserialize)]
pub(crate) struct ReplicaStatus {
    /// A hash over the plans of all routes.
    config: String,
    routes: BTreeMap<String, ReplicaRouteStatus>,
}

/// What a replica runs on one route, and its plan there.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ReplicaRouteStatus {
    weight_bp: u16,
    epoch: u64,
    /// A hash over the whole plan, which builds before `plan_fields` compare.
    plan: String,
    /// The hash of each field of the plan; none of a build that does not send them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan_fields: Option<BTreeMap<String, String>>,
}

/// The statuses of all live replicas.
#[derive(Default)]
pub(crate) struct ReplicaStatuses {
    /// The replicas as they are shown, in the store's order.
    pub(crate) views: Vec<ReplicaView>,
    /// Processes of builds that send no plan fields.
    pub(crate) without_plan_fields: BTreeSet<String>,
    by_process: BTreeMap<String, BTreeMap<String, ReplicaRouteStatus>>,
}

// === impl ReplicaStatus ===

impl ReplicaStatus {
    /// The status of a replica with these routes.
    pub(crate) fn new(routes: BTreeMap<String, ReplicaRouteStatus>) -> Self {
        let plans: String = routes.values().map(|status| status.plan.as_str()).collect();
        let config = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(plans.as_bytes()));
        Self { config, routes }
    }

    /// The status as JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

// === impl ReplicaRouteStatus ===

impl ReplicaRouteStatus {
    /// The status of a route that runs `weight` in `epoch`, with the plan of its configuration.
    pub(crate) fn new(weight: Weight, epoch: u64, rollout: &RolloutConfig) -> Self {
        let fields = PlanFieldHashes::new(rollout);
        Self {
            weight_bp: weight.basis_points(),
            epoch,
            plan: fields.digest(),
            plan_fields: Some(fields.0),
        }
    }

    pub(crate) fn weight(&self) -> Weight {
        Weight::from_basis_points(self.weight_bp)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The plan's fields; none of a build that does not send them.
    pub(crate) fn plan_fields(&self) -> Option<PlanFieldHashes> {
        self.plan_fields.clone().map(PlanFieldHashes)
    }
}

// === impl ReplicaStatuses ===

impl ReplicaStatuses {
    /// Reads pairs of process name and status. A status that cannot be read (of a build with
    /// another form) is shown as one without routes.
    pub(crate) fn parse(replicas: &[(String, String)]) -> Self {
        let mut statuses = Self::default();
        for (process, text) in replicas {
            let mut view = ReplicaView { process_name: process.clone(), ..ReplicaView::default() };
            if let Ok(status) = serde_json::from_str::<ReplicaStatus>(text) {
                view.config_digest = status.config;
                for (route, status) in &status.routes {
                    view.weights_by_route.insert(route.clone(), (status.weight(), status.epoch));
                    if status.plan_fields.is_none() {
                        statuses.without_plan_fields.insert(process.clone());
                    }
                }
                statuses.by_process.insert(process.clone(), status.routes);
            }
            statuses.views.push(view);
        }
        statuses
    }

    /// What a process runs on a route; none where it has no such route.
    pub(crate) fn route_status(&self, process: &str, route: &str) -> Option<&ReplicaRouteStatus> {
        self.by_process.get(process)?.get(route)
    }
}
