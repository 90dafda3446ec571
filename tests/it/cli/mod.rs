//! The command line: its output, its exit status, and what each command asks of a server or a
//! store.

mod commands;
mod metrics;
mod rollout;
