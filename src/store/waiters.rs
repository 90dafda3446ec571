//! Who in this process waits for which task to end.
//!
//! A store resolves a task here when it learns that it ended: at once for its own settlements, by
//! notification or poll for those of other processes.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::task::{TaskId, TaskRecord};

type Waiting = HashMap<TaskId, Vec<(u64, oneshot::Sender<Option<Arc<TaskRecord>>>)>>;

/// The waiting requests, by task.
#[derive(Clone, Default)]
pub struct Waiters {
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: Waiting,
}

/// Resolves when the task has ended; none when the store does not know it any more. Dropping it stops waiting.
pub struct Waiter {
    id: TaskId,
    number: u64,
    receiver: oneshot::Receiver<Option<Arc<TaskRecord>>>,
    waiters: Waiters,
}

// === impl Waiters ===

impl Waiters {
    /// Starts to wait; call it before the task is queued, so that its end cannot be missed.
    #[must_use]
    pub fn register(&self, id: &TaskId) -> Waiter {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        state.next += 1;
        let number = state.next;
        state.waiting.entry(id.clone()).or_default().push((number, sender));
        Waiter { id: id.clone(), number, receiver, waiters: self.clone() }
    }

    /// Tells those who wait for `id` how it ended, or that it is not known any more.
    pub fn resolve(&self, id: &TaskId, record: Option<&Arc<TaskRecord>>) {
        let waiting = self.shared.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(id);
        for (_, sender) in waiting.into_iter().flatten() {
            let _ = sender.send(record.cloned()); // an error: it has just stopped waiting
        }
    }

    /// Whether anybody here waits for `id`.
    #[must_use]
    pub fn waits_for(&self, id: &TaskId) -> bool {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).waiting.contains_key(id)
    }

    /// The tasks that are waited for.
    #[must_use]
    pub fn ids(&self) -> Vec<TaskId> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).waiting.keys().cloned().collect()
    }
}

// === impl Waiter ===

impl Future for Waiter {
    type Output = Option<Arc<TaskRecord>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map(|got| got.unwrap_or(None))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.waiters.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = state.waiting.get_mut(&self.id) {
            list.retain(|(number, _)| *number != self.number);
            if list.is_empty() {
                state.waiting.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::UnixMs;

    #[tokio::test]
    async fn everybody_who_waits_is_told_and_those_who_left_are_forgotten() {
        let waiters = Waiters::default();
        let id = TaskId::new(UnixMs(1), 1);
        let (one, two, left) = (waiters.register(&id), waiters.register(&id), waiters.register(&id));
        drop(left);
        assert_eq!(waiters.ids(), vec![id.clone()]);
        waiters.resolve(&id, None);
        assert_eq!((one.await, two.await), (None, None));
        drop(waiters.register(&id));
        assert!(waiters.ids().is_empty() && !waiters.waits_for(&id));
    }
}
