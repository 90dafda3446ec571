//! Task execution: the pool that runs leased tasks, the handlers that do the work, and the
//! supervisor of worker processes.
//!
//! A lease comes in at the puller (`pool.rs`), runs once (`attempt.rs`) under a renewed lease
//! (`keep.rs`), and is consumed by one settlement (`settle.rs`). What a failure leads to is decided
//! by `retry.rs`, purely. Who is to hear of ends is told by `outbox.rs`, beside all that.

mod attempt;
mod handler;
mod keep;
mod live;
mod outbox;
mod pool;
mod progress;
mod retry;
mod served;
mod settle;
mod supervise;
#[cfg(test)]
mod testing;
mod webhook;

pub use self::handler::{
    Handler, HandlerRegistry, INTERRUPT_GRACE, InterruptReason, TaskAttempt, probe_upstream,
};
pub use self::pool::WorkerPool;
pub use self::retry::{RetryDecision, decide_retry};
pub use self::supervise::{Supervisor, terminate_with_parent};
use crate::task::UnixMs;

/// The wall clock; records are stamped with it, durations are not measured by it.
fn unix_now() -> UnixMs {
    jiff::Timestamp::now().into()
}
