//! Pure rollout decisions: what the running weight should be, given the state, the plan and an
//! event.
//!
//! No clock and no store: `now` is an argument, the state comes in and the next one goes out. The
//! controller persists and publishes it (`control/`).
//!
//! ```text
//! state.rs     what is persisted          verb.rs      what an operator can say
//! machine.rs   event → next state         look.rs      what follows from the gates
//! order.rs     what an order does         gate.rs      one gate's verdict
//! evidence.rs  counts of both paths       stats.rs, sequential.rs   the statistics
//! ```

pub mod evidence;
pub mod explain;
pub mod gate;
mod look;
pub mod machine;
mod order;
pub mod preview;
pub mod sequential;
pub mod state;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod verb;
pub mod words;

pub use self::machine::{
    RolloutDecision, RolloutEvent, RolloutInput, RolloutObservation, RolloutPlan, Tick, decide,
    is_shadow_allowed, running_weight,
};
pub use self::state::{
    CONTROLLER_ACTOR, EpochRange, PausablePhase, PauseReason, RolloutPhase, RolloutState,
};
pub use self::verb::{CommandRefusal, OperatorAction, OperatorCommand};
