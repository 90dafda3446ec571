//! omnidaemon moves the traffic of a synchronous HTTP endpoint onto a durable task queue, a share
//! at a time, and turns back when the new path is worse.
//!
//! The floors, from the top; a file imports only from lower ones (`tests/it/floors.rs` holds them):
//!
//! ```text
//! 7  main.rs, cli/                 parse arguments, one call, render
//! 6  app.rs                        composition root: open, spawn, signals, ordered drain
//! 5  admin/                        health, metrics, API
//! 4  proxy/  worker/  control/     data plane · task execution · the single writer of rollout state
//! 3  snapshot.rs                   what one request sees
//! 2  route/  rollout/  store/       pure routing and rollout decisions · TaskStore over Redis and SQLite
//! 1  config/  metrics/  outbound.rs  what the operator means · metric handles and names · TLS to others
//! 0  task/  cohort.rs  backoff.rs  the domain's nouns · delays between repeated tries
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
mod backoff;
pub mod cli;
pub mod cohort;
pub mod config;
pub mod control;
pub mod metrics;
mod outbound;
pub mod proxy;
pub mod rollout;
pub mod route;
pub mod snapshot;
pub mod store;
pub mod task;
pub mod worker;
