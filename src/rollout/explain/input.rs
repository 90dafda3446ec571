//! What an explanation is made of.

use crate::cohort_hash::Weight;
use crate::config::RolloutConfig;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::state::RolloutState;
use crate::task::UnixMs;

/// A rollout's state, its configuration, and what the controller knows besides.
#[derive(Clone, Copy, Debug)]
pub struct ExplanationInput<'a> {
    /// The route's name.
    pub route: &'a str,
    /// The name of its topic.
    pub topic: &'a str,
    /// What runs the topic's tasks now; none where that is not known.
    pub queue_load: Option<QueueLoad>,
    /// The route's `rollout:` section.
    pub config: &'a RolloutConfig,
    /// The path of the configuration file, where there is one.
    pub config_file: Option<&'a str>,
    /// The state.
    pub state: &'a RolloutState,
    /// The weight that this replica runs.
    pub running_weight: Weight,
    /// The next step's weight; none where `percent` is reached.
    pub next_weight: Option<Weight>,
    /// Replicas that do not run the weight yet, as `name (cause)`.
    pub lagging_replicas: &'a [String],
    /// The evidence of the cohort; none where only the leader knows it.
    pub cohort_evidence: Option<&'a RolloutEvidence>,
    /// Recent canaried requests per minute; none where only the leader knows them.
    pub requests_per_minute: Option<f64>,
    /// Whether the store answers.
    pub store_reachable: bool,
    /// The current time, on the store's clock.
    pub now: UnixMs,
}

/// What runs the tasks of a route's topic now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLoad {
    /// The slots of all live consumers.
    pub slots: u64,
    /// The tasks that wait.
    pub waiting: u64,
}
