//! The integration tests, in one binary: the real omnidaemon and real servers around it, on free ports.
//!
//! `scripts/test` installs what they need.

#![allow(clippy::float_cmp, reason = "counts and percents are exact in a double")]

mod contract;
mod deprecation;
mod floors;
mod harness;
mod ops;
mod proxy_sync;
mod reload;
mod smoke;
