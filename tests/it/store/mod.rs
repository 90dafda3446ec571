//! The stores: one contract suite for all of them, what the store on Redis promises beyond it, and
//! the Python `OmniDaemon` on the same streams.

pub(crate) mod contract;
mod python;
pub(crate) mod redis;
mod sqlite_clocks;
