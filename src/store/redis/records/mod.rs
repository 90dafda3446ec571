//! What is stored beside the queues: idempotency claims, deliveries, progress, rollouts, callers,
//! heartbeats, the shared secret.

pub(crate) mod callers;
pub(crate) mod claim;
pub(crate) mod outbox;
pub(crate) mod progress;
pub(crate) mod rollout;
pub(crate) mod secret;
pub(crate) mod workers;
