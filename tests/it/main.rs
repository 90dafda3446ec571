//! The one integration-test binary.

mod contract;
mod harness;
mod redis_store;
