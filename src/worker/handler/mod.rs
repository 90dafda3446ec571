//! The handlers that run tasks: the [`Handler`] trait, an attempt as a handler sees it, and the
//! configured handlers.
//!
//! A handler is built for each attempt from the configuration of that moment, so an edit takes
//! effect at the next attempt, and a running one keeps its own. A handler learns of its deadline
//! and of a cancellation through [`TaskAttempt::await_interrupt`]; one that ignores it is dropped
//! [`INTERRUPT_GRACE`] later.

mod attempt;
mod command;
mod http;
mod http_answer;
mod http_client;
mod registry;
mod result;
mod retry_after;
mod upstream;

use async_trait::async_trait;

pub use self::attempt::{INTERRUPT_GRACE, InterruptReason, TaskAttempt};
pub use self::http_client::probe_upstream;
pub use self::registry::HandlerRegistry;
use crate::task::{TaskAnswer, TaskFailure};

/// Runs the attempts of the tasks of a topic.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Runs one attempt. A task may have several attempts; [`TaskAttempt::idempotency_key`] is the
    /// same for all of them.
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure>;
}
