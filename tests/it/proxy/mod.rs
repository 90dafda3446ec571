//! The data plane: forwarding, the canaried route, tasks over HTTP, and what a client gets when the
//! store or the upstream fails.

mod admission;
mod admission_simulation;
mod answers;
mod canary;
mod cancel;
mod deprecation;
pub(crate) mod fail_open;
mod hostile;
mod idempotency;
mod progress;
mod shadow;
mod sync;
mod task_wait;
mod tasks;
