//! The paths of a legacy call: streamed to the upstream (sync), or queued as a task (canary); and
//! what is wrapped around a path: an idempotency key, a shadow copy, an upgrade to a tunnel, a
//! deprecation.
//!
//! Imports inside this folder: `deprecate, upgrade < sync < canary, shadow < idempotency`.

pub(crate) mod canary;
pub(crate) mod deprecate;
pub(crate) mod idempotency;
pub(crate) mod path_response;
pub(crate) mod shadow;
pub(crate) mod sync;
mod upgrade;
