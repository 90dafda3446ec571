//! Pure rollout decisions: which weight a route should run, given its state, its plan and an input.
//!
//! No clock, no store and no runtime: `now` is an argument, a state comes in and the next state
//! goes out. The controller (`control/`) persists and publishes it.
//!
//! ```text
//! state.rs, phase.rs, blocked.rs   what is persisted      event.rs, actor.rs   history lines
//! command.rs    operator commands                         evidence.rs   counts of both paths
//! capacity_window.rs  do the workers keep up              fallbacks.rs  served sync, by reason
//! sample_ratio.rs  are requests split as the weight says   assignments.rs  its counts
//! served_share.rs  what the async path served
//! statistics/   bounds and sequential tests               gate/         one gate's verdict
//! machine/      input and state → next state              explain/      why a rollout waits
//! limits.rs     numbers that machine/ and explain/ share  preview.rs    effect of a file edit
//! format.rs     times and shares as text
//! ```

pub mod actor;
pub mod assignments;
pub mod blocked;
pub mod capacity_window;
pub mod command;
pub mod event;
pub mod evidence;
pub mod explain;
pub mod fallbacks;
pub mod format;
pub mod gate;
mod limits;
pub mod machine;
pub mod phase;
pub mod preview;
pub mod sample_ratio;
pub mod served_share;
pub mod state;
pub mod statistics;
#[cfg(test)]
mod tests;

pub use self::actor::{Actor, RESERVED_ACTOR_NAMES};
pub use self::blocked::BlockedReason;
pub use self::command::{CommandRefusal, OperatorAction, OperatorCommand};
pub use self::event::{RolloutEvent, RolloutEventKind};
pub use self::machine::{
    RolloutDecision, RolloutInput, RolloutObservation, RolloutPlan, Tick, decide,
};
pub use self::phase::{PausablePhase, PauseReason, RolloutPhase};
pub use self::state::{EpochRange, RolloutState, is_shadow_allowed, running_weight};
