//! `POST rollouts/{route}/{verb}`: the body of a command, and its result.

use serde::{Deserialize, Serialize};

use crate::control::RolloutCommandOutcome;
use crate::rollout::OperatorAction;

/// The body of a command to a rollout. Fields without a value are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutCommandBody {
    /// Why; recorded in the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Percent, for `set-weight` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Whether to leave out all steps before `percent`, for `promote` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
    /// Who gives the command; recorded in the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// The rollout's state after a command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommandResultDocument {
    /// The route.
    pub route: String,
    /// The command's verb.
    pub verb: String,
    /// The phase.
    pub phase: String,
    /// The desired weight, percent.
    pub weight: f64,
    /// The epoch.
    pub epoch: u64,
    /// Whether an operator set the weight by hand, which holds until `resume`.
    pub held: bool,
    /// Who made the last change.
    pub by: String,
    /// Why it was made.
    pub reason: String,
    /// Whether the store has the state; false while it holds in this process alone.
    pub saved: bool,
}

impl CommandResultDocument {
    /// The outcome of a command to `route`.
    #[must_use]
    pub fn new(route: &str, action: OperatorAction, outcome: &RolloutCommandOutcome) -> Self {
        let state = &outcome.state;
        Self {
            route: route.to_owned(),
            verb: action.as_str().to_owned(),
            phase: state.phase.as_str().to_owned(),
            weight: state.weight.percent(),
            epoch: state.epoch,
            held: state.manual_hold,
            by: state.actor.name().to_owned(),
            reason: state.reason.clone(),
            saved: outcome.is_saved,
        }
    }
}
