//! The state machine: state and input → next state and history lines. Pure, so that a restart at
//! any point changes nothing.
//!
//! An operator's command goes before automation, and abort before every other command. Automation
//! raises the weight in one place, `RolloutTransition::climb_to`, to a step of the plan and only
//! after PASS of all gates; it rolls back in one place, `RolloutTransition::roll_back`. Lowering
//! is immediate. While evidence cannot be judged (a source is down, replicas differ) everything
//! stands still: soak time and waiting time count only while the leader observes the rollout.
//!
//! ```text
//! decide.rs      dispatches an input            transition.rs   a decision in the making
//! config_change.rs  the file was loaded         tick.rs         every second
//! evaluation.rs  every `interval`: the gates    step.rs         what follows for the step
//! commands.rs    an operator's command          input.rs        inputs and decision
//! ```
//!

mod commands;
mod config_change;
mod decide;
mod evaluation;
mod input;
mod step;
mod tick;
mod transition;

pub use self::decide::decide;
pub use self::input::{RolloutDecision, RolloutInput, RolloutObservation, RolloutPlan, Tick};
