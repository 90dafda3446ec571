//! The rollouts as this process knows them: plain data for the admin API and the command line.

use std::collections::BTreeMap;

use super::store_clock::StoreClock;
use crate::cohort_hash::Weight;
use crate::rollout::RolloutState;
use crate::rollout::evidence::RolloutEvidence;

/// All rollouts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutsView {
    /// By route.
    pub routes: BTreeMap<String, RouteRolloutView>,
    /// The process that leads; none while no process does.
    pub leader_process: Option<String>,
    /// The name of this process.
    pub own_process: String,
    /// The live replicas, this process among them.
    pub replicas: Vec<ReplicaView>,
    /// Whether the last replica sync reached the store.
    pub store_reachable: bool,
    /// The clock that rollouts use.
    pub store_clock: StoreClock,
}

/// The rollout of one route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRolloutView {
    /// The state.
    pub state: RolloutState,
    /// Whether the store has that state; false while a decision of this process is not saved.
    pub is_saved: bool,
    /// The weight that this process runs.
    pub running_weight: Weight,
    /// The weight of the next step; none when `percent` is reached.
    pub next_weight: Option<Weight>,
    /// Live replicas that do not run the present epoch, or whose plan differs from the leader's.
    pub lagging_replicas: Vec<String>,
    /// The evidence of the last gate evaluation; known to the leader, and to
    /// [`RolloutHandle::view_with_evidence`](super::RolloutHandle::view_with_evidence).
    pub judged_evidence: Option<RolloutEvidence>,
    /// Canaried requests per minute over the last five minutes; known to the leader only.
    pub requests_per_minute: Option<f64>,
}

/// A replica, as of its last status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaView {
    /// The process name.
    pub process_name: String,
    /// A hash over the rollout plans of its configuration file.
    pub config_digest: String,
    /// By route: the weight and the epoch that it runs.
    pub weights_by_route: BTreeMap<String, (Weight, u64)>,
}
