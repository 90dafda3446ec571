//! The integration tests, in one binary: the real omnidaemon and real servers around it, on free
//! ports.
//!
//! `scripts/test` installs what they need.

#![allow(clippy::float_cmp, reason = "counts and percents are exact in a double")]

mod answers;
mod arch;
mod canary;
mod cancel;
mod cli;
mod clocks;
mod contract;
mod dead_letters;
mod deprecation;
mod fail_open;

mod gates;
mod harness;
mod idempotency;
mod metrics_cli;
mod names;
mod ops;
mod progress;
mod proxy_hostile;
mod proxy_sync;
mod python;
mod redis_checks;
mod redis_cluster;
mod redis_durable;
mod redis_secure;
mod redis_sentinel;
mod redis_store;
mod reload;
mod rollout;
mod rollout_admin;
mod rollout_cli;
mod shadow;
mod smoke;
mod start;
mod stores;
mod task_admin;
mod task_wait;
mod tasks;
#[cfg(feature = "failpoints")]
mod torture;
mod webhooks;
mod worker_processes;
