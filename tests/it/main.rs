//! The integration tests, in one binary: the real omnidaemon and real servers around it, on free
//! ports.
//!
//! The folders are those of `src`: each holds the tests of the module of that name. `arch` holds
//! the tests of the sources and of what is written about them; `support` holds what starts servers
//! and speaks to them; `torture` lets faults strike everything at once. `scripts/test` installs
//! what the tests need.

#![allow(clippy::float_cmp, reason = "counts and percents are exact in a double")]

mod admin;
mod app;
mod arch;
mod cli;
mod control;
mod proxy;
mod rollout;
mod store;
mod support;
#[cfg(feature = "failpoints")]
mod torture;
mod worker;
