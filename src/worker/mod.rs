//! Task execution: the pool that runs leased tasks, the handlers that do the work, the deliveries
//! of the outbox, and the supervisor of worker processes.
//!
//! The puller (`pool/`) leases tasks; each attempt (`attempt/`) runs its handler (`handler/`) once
//! while `maintenance.rs` renews the lease, and one settlement consumes the lease. A pure function
//! decides whether a failed attempt is repeated. Deliveries (`delivery/`) run beside the attempts.

mod attempt;
mod context;
mod delivery;
mod drain;
mod handler;
mod maintenance;
mod pool;
mod program_guard;
mod supervisor;
#[cfg(test)]
mod testing;

pub use self::drain::WorkerDrain;
pub use self::handler::{
    Handler, HandlerRegistry, INTERRUPT_GRACE, InterruptReason, TaskAttempt, probe_upstream,
};
pub use self::pool::WorkerPool;
pub use self::program_guard::{GuardCommand, run_if_guard};
pub use self::supervisor::{Supervisor, terminate_with_parent};
