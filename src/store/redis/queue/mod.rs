//! The life of a task in its queue: enqueue, lease, renew, settle, requeue, cancel.

pub(crate) mod cancel;
pub(crate) mod enqueue;
pub(crate) mod enqueue_target;
pub(crate) mod finish;
pub(crate) mod lease;
pub(crate) mod local_leases;
pub(crate) mod renew;
pub(crate) mod requeue;
pub(crate) mod scheduled;
pub(crate) mod settle;
pub(crate) mod settler;
pub(crate) mod tally;
