//! The entry of the state machine: passes an input to its handler.

use super::input::{RolloutDecision, RolloutInput, RolloutPlan};
use super::transition::RolloutTransition;
use crate::rollout::command::CommandRefusal;
use crate::rollout::state::RolloutState;
use crate::task::UnixMs;

/// The state that follows from `state` and `input` at `now` (the store's clock).
///
/// # Errors
/// For a command that cannot be followed now: why, and what to do instead.
pub fn decide(
    state: &RolloutState,
    plan: RolloutPlan<'_>,
    input: RolloutInput<'_>,
    now: UnixMs,
) -> Result<RolloutDecision, CommandRefusal> {
    let mut transition = RolloutTransition { state: state.clone(), plan, now, events: Vec::new() };
    match input {
        RolloutInput::ConfigLoaded => transition.apply_config(),
        RolloutInput::Tick(tick) => transition.handle_tick(tick),
        RolloutInput::EvaluationDue(observation) => transition.evaluate_gates(observation),
        RolloutInput::Command(command) => transition.apply_command(command)?,
        RolloutInput::StoreLost => transition.restart_after_store_loss(),
    }
    Ok(RolloutDecision { state: transition.state, events: transition.events })
}
