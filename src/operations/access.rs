//! How an operation reaches the store: through the circuit breaker of a server, or directly.

use std::future::Future;
use std::time::Duration;

use crate::store::{Circuit, StoreError, TaskStore, TopicQueue};
use crate::task::Task;

/// The way to the store; cheap to copy.
#[derive(Clone, Copy)]
pub enum StoreAccess<'a> {
    /// Through a server's circuit breaker: an open circuit fails at once, an outage opens it, and
    /// the circuit cancels a task whose enqueue has an unknown outcome.
    Guarded(&'a Circuit),
    /// Without a breaker: for a command that makes a few calls and ends. The store's own timeout
    /// applies to each call.
    Direct(&'a dyn TaskStore),
}

impl<'a> StoreAccess<'a> {
    /// The store, for a call that is then given to [`Self::call`].
    #[must_use]
    pub fn store(self) -> &'a dyn TaskStore {
        match self {
            Self::Guarded(circuit) => &**circuit.store(),
            Self::Direct(store) => store,
        }
    }

    /// Makes one store call.
    ///
    /// # Errors
    /// The error of `call`; behind an open circuit [`StoreError::Unreachable`].
    pub async fn call<T>(
        self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self {
            Self::Guarded(circuit) => circuit.call(call).await,
            Self::Direct(_) => call.await,
        }
    }

    /// Makes a task durable. When the outcome is unknown the caller gets an error, so the task must
    /// not run: it is cancelled, and stays readable as cancelled for `results_ttl`.
    ///
    /// # Errors
    /// The error of the enqueue; [`StoreError::OutcomeUnknown`] when the task may have been stored.
    pub async fn enqueue(
        self,
        task: &Task,
        queue: &TopicQueue,
        results_ttl: Duration,
    ) -> Result<(), StoreError> {
        let store = match self {
            Self::Guarded(circuit) => return circuit.enqueue(task, queue).await,
            Self::Direct(store) => store,
        };
        let result = store.enqueue(task, queue).await;
        if let Err(StoreError::OutcomeUnknown(_)) = &result {
            // Best effort: the error of the enqueue is the one to report.
            let _ = store.cancel(&task.id, results_ttl).await;
        }
        result
    }
}
