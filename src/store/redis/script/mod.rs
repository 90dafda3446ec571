//! Calls of the Lua scripts, one item at a time (`runner`) or many in one call (`batch`).

pub(crate) mod batch;
pub(crate) mod runner;
