//! Connections: the URL, the search for the master, links, wakeups, confirmation of writes, and the
//! meaning of errors.

pub(crate) mod advice;
pub(crate) mod connection;
pub(crate) mod durable;
pub(crate) mod error;
pub(crate) mod hash_slot;
pub(crate) mod link;
pub(crate) mod partition_mark;
pub(crate) mod topology;
pub(crate) mod url;
pub(crate) mod version;
pub(crate) mod wakeup;
