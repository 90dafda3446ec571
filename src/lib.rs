//! omnidaemon moves the traffic of a synchronous HTTP endpoint onto a durable task queue, a share
//! at a time, and rolls back when the new path is worse.
//!
//! The floors, from the top. A file imports only from lower floors, which
//! `tests/it/arch/floors.rs` checks:
//!
//! ```text
//! 8  main.rs, cli/                 parse arguments, one call, render
//! 7  app/                          composition root: open, bind, spawn, ordered drain
//! 6  admin/                        health, metrics, API
//! 5  proxy/  worker/               data plane · task execution
//!    control/  background/         the single writer of rollout state · periodic queue work
//! 4  snapshot.rs                   the configuration and weights of one request
//!    capacity.rs                   what the fleet can run
//!    operations/                   what API, CLI and proxy do to the store in one way
//! 3  route/  rollout/  store/      pure routing and decisions · TaskStore over Redis and SQLite
//! 2  config/  metrics/  outbound/  checked configuration · metric handles · outgoing HTTP
//! 1  task/                         tasks, their records, and what follows a failed attempt
//! 0  cohort_hash.rs  backoff.rs    weights and the cohorts of clients · delays between tries
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod background;
mod backoff;
pub mod capacity;
pub mod cli;
pub mod cohort_hash;
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
