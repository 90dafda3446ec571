//! Child processes, the wall clock that one sees, and the programs of the Python `OmniDaemon`.

pub mod child;
pub mod clock;
pub mod python;
