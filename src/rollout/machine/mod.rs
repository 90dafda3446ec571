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
//! dispatch.rs       calls the handler of an input     input.rs       inputs and decision
//! config_change.rs  a loaded configuration file       commands.rs    an operator's command
//! tick.rs           the leader's tick, every second   evaluation.rs  the gates, every `interval`
//! step.rs           the step after an evaluation      rollback.rs    failure and rollback
//! transition.rs     the decision that is being made, and changes that several inputs share
//! ```

mod commands;
mod config_change;
mod dispatch;
mod evaluation;
mod input;
mod rollback;
mod step;
mod tick;
mod transition;

pub use self::dispatch::decide;
pub use self::input::{RolloutDecision, RolloutInput, RolloutObservation, RolloutPlan, Tick};
