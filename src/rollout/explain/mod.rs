//! Explains a rollout: its weight and phase, what it waits for, and the next thing to do.
//!
//! For whoever is on call: the numbers that decide, how many more are needed and how long that
//! takes at the current rate. It only reads; `machine/` decides. The text is one paragraph and
//! always ends with `Next: ` and a command, an edit, or `nothing to do`.

mod capacity;
mod closed_step;
mod format;
mod headline;
mod input;
mod pauses;
mod phases;
mod reports;
mod soaking;
#[cfg(test)]
mod tests;
mod text;
mod wait_reason;

pub use self::input::{ExplanationInput, QueueLoad};
pub use self::text::{RolloutExplanation, explain_rollout};
pub use self::wait_reason::WaitingFor;
