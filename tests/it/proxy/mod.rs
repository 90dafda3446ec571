//! The data plane: forwarding, the canaried route, tasks over HTTP, and what a client gets when the
//! store or the upstream fails.

mod admission;
mod admission_simulation;
mod answers;
mod answers_of_handlers;
mod canary;
mod cancel;
mod deprecation;
pub(crate) mod fail_open;
mod hostile;
mod idempotency;
mod idempotency_scope;
mod large_burst;
mod legacy_bodies;
mod progress;
mod redirected_waits;
mod shadow;
mod sync;
mod task_wait;
mod tasks;
mod values;
