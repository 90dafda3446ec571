//! From a request to a durable task: whether a request can be captured, its capture, the claim on
//! its idempotency key, enqueueing it, and waiting for a task that exists already.
//!
//! Used by the paths of legacy calls and by the task endpoints; decides nothing about which path a
//! request takes.

pub(crate) mod await_task;
pub(crate) mod capture;
mod claim_digest;
pub(crate) mod eligibility;
pub(crate) mod enqueue;
pub(crate) mod key_claim;
