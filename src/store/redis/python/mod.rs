//! What only the Python program reads: its list of agents and its events.

pub(crate) mod agents;
pub(crate) mod events;
