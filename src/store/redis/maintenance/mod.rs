//! Work that no caller waits for: expired leases, tasks of external consumers, lost tasks, old
//! consumers and entries.

pub(crate) mod buried;
pub(crate) mod consumers;
pub(crate) mod external;
pub(crate) mod reap;
pub(crate) mod schedule;
pub(crate) mod trimmed;
