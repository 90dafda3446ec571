//! The stored form of rollouts: a route's state, and its history lines, as JSON.
//!
//! Mirror types keep the stored form apart from `rollout/`: a renamed field there changes nothing
//! here. Field names, words and codes are a contract between releases; a record that this release
//! cannot read is an error, and nothing is decided on it.

mod blocked;
mod capacity;
mod event;
mod evidence;
mod gate_report;
mod state;
#[cfg(test)]
mod tests;

pub(super) use self::event::event_to_json;
pub(super) use self::state::{parse_state, serialize_state};
