//! Calls of the Lua scripts, one item at a time (`runner`) or many in one call (`batch`), and the
//! sources of the scripts (`compose`), whose headers name their keys and arguments (`parameters`).

pub(crate) mod batch;
pub(crate) mod compose;
pub(crate) mod parameters;
pub(crate) mod runner;
