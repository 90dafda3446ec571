//! Data that is written only for the Python OmniDaemon on the same Redis: entries of its list of
//! agents, and events for its `metrics` command.

pub(crate) mod agents;
pub(crate) mod events;
