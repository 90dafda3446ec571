//! The command line: its output, its exit status, and what each command asks of a server or a
//! store.

pub(crate) mod commands;
mod metrics;
mod rollout;
