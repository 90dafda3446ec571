//! What the state machine reacts to, and what it gives back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::RolloutConfig;
use crate::rollout::command::OperatorCommand;
use crate::rollout::event::RolloutEvent;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::PrometheusSample;
use crate::rollout::state::RolloutState;

/// A route's rollout configuration, as a decision needs it.
#[derive(Clone, Copy, Debug)]
pub struct RolloutPlan<'a> {
    /// The route's name, for messages.
    pub route: &'a str,
    /// The route's `rollout:` section.
    pub config: &'a RolloutConfig,
    /// How long after its acceptance a task may still end; a task without an outcome by then counts
    /// as failed.
    pub task_deadline: Duration,
}

/// An input of the state machine.
#[derive(Clone, Copy, Debug)]
pub enum RolloutInput<'a> {
    /// The file was loaded: at start, by a new leader, or after an edit.
    ConfigLoaded,
    /// About a second has passed.
    Tick(Tick<'a>),
    /// The gates are due for an evaluation.
    EvaluationDue(RolloutObservation<'a>),
    /// An operator's command.
    Command(&'a OperatorCommand),
    /// The store has lost its data, evidence included.
    StoreLost,
}

/// What the leader observes every second.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// Time since the last tick.
    pub elapsed: Duration,
    /// Live replicas that do not run the current epoch or whose file differs, as `name (cause)`.
    pub lagging_replicas: &'a [String],
    /// The evidence within the breaker's window.
    pub breaker_evidence: &'a RolloutEvidence,
}

/// What the leader observes every `interval`.
#[derive(Clone, Copy, Debug)]
pub struct RolloutObservation<'a> {
    /// Time since the last evaluation.
    pub elapsed: Duration,
    /// As in [`Tick`].
    pub lagging_replicas: &'a [String],
    /// The evidence of [`RolloutState::evidence_epochs`], in that order.
    pub epoch_evidence: &'a [RolloutEvidence],
    /// Samples of Prometheus by gate name.
    pub prometheus_samples: &'a BTreeMap<String, PrometheusSample>,
    /// Waiting tasks of the route's topic; none where the number is unknown.
    pub queue_depth: Option<u64>,
    /// Age of the oldest waiting task; none where there is none or it is unknown.
    pub queue_oldest: Option<Duration>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutDecision {
    /// The next state; the same state where nothing changed.
    pub state: RolloutState,
    /// The history lines of the change.
    pub events: Vec<RolloutEvent>,
}
