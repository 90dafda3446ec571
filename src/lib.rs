//! omnidaemon moves the traffic of a synchronous HTTP endpoint onto a durable task queue, a share
//! at a time, and rolls back when the new path is worse.
//!
//! The floors, from the top. A file imports only from lower floors, which
//! `tests/it/arch/floors.rs` checks:
//!
//! ```text
//! 7  main.rs, cli/                 parse arguments, one call, render
//! 6  app/                          composition root: open, bind, spawn, ordered drain
//! 5  admin/                        health, metrics, API
//! 4  proxy/  worker/               data plane · task execution
//!    control/  background/         the single writer of rollout state · periodic queue work
//! 3  snapshot.rs                   the configuration and weights of one request
//!    capacity.rs                   what the fleet can run
//!    operations/                   what API, CLI and proxy do to the store in one way
//! 2  route/  rollout/  store/      pure routing and decisions · TaskStore over Redis and SQLite
//! 1  config/  metrics/  outbound/  checked configuration · metric handles · outgoing HTTP
//! 0  task/  cohort.rs  backoff.rs  tasks, weights and cohorts · delays between repeated tries
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod background;
mod backoff;
pub mod capacity;
pub mod cli;
pub mod cohort;
pub mod config;
pub mod control;
pub mod metrics;
pub mod operations;
mod outbound;
pub mod proxy;
pub mod rollout;
pub mod route;
pub mod snapshot;
pub mod store;
pub mod task;
pub mod worker;
