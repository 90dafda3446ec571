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

type WaitersByTask = HashMap<TaskId, Vec<(u64, oneshot::Sender<Option<Arc<TaskRecord>>>)>>;

/// The waiting requests, by task.
#[derive(Clone, Default)]
pub struct TaskEndWaiters {
    shared_state: Arc<Mutex<EndWaitersState>>,
}

#[derive(Default)]
struct EndWaitersState {
    last_number: u64,
    waiting_by_task: WaitersByTask,
}

/// Resolves when the task has ended; none when the store does not know it any more. Dropping it
/// stops waiting.
pub struct TaskEndWaiter {
    task_id: TaskId,
    waiter_number: u64,
    end_receiver: oneshot::Receiver<Option<Arc<TaskRecord>>>,
    registry: TaskEndWaiters,
}

// === impl Waiters ===

impl TaskEndWaiters {
    /// Starts to wait; call it before the task is queued, so that its end cannot be missed.
    #[must_use]
    pub fn register_waiter(&self, id: &TaskId) -> TaskEndWaiter {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.shared_state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last_number += 1;
        let number = state.last_number;
        state.waiting_by_task.entry(id.clone()).or_default().push((number, sender));
        TaskEndWaiter {
            task_id: id.clone(),
            waiter_number: number,
            end_receiver: receiver,
            registry: self.clone(),
        }
    }

    /// Tells those who wait for `id` how it ended, or that it is not known any more.
    pub fn resolve_task(&self, id: &TaskId, record: Option<&Arc<TaskRecord>>) {
        let waiting = self
            .shared_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting_by_task
            .remove(id);
        for (_, sender) in waiting.into_iter().flatten() {
            let _ = sender.send(record.cloned()); // an error: it has just stopped waiting
        }
    }

    /// Whether anybody here waits for `id`.
    #[must_use]
    pub fn has_waiter_for(&self, id: &TaskId) -> bool {
        self.shared_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting_by_task
            .contains_key(id)
    }

    /// The tasks that are waited for.
    #[must_use]
    pub fn awaited_task_ids(&self) -> Vec<TaskId> {
        self.shared_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting_by_task
            .keys()
            .cloned()
            .collect()
    }
}

// === impl Waiter ===

impl Future for TaskEndWaiter {
    type Output = Option<Arc<TaskRecord>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.end_receiver).poll(cx).map(|got| got.unwrap_or(None))
    }
}

impl Drop for TaskEndWaiter {
    fn drop(&mut self) {
        let mut state = self.registry.shared_state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = state.waiting_by_task.get_mut(&self.task_id) {
            list.retain(|(number, _)| *number != self.waiter_number);
            if list.is_empty() {
                state.waiting_by_task.remove(&self.task_id);
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
        let waiters = TaskEndWaiters::default();
        let id = TaskId::new(UnixMs(1), 1);
        let (one, two, left) = (
            waiters.register_waiter(&id),
            waiters.register_waiter(&id),
            waiters.register_waiter(&id),
        );
        drop(left);
        assert_eq!(waiters.awaited_task_ids(), vec![id.clone()]);
        waiters.resolve_task(&id, None);
        assert_eq!((one.await, two.await), (None, None));
        drop(waiters.register_waiter(&id));
        assert!(waiters.awaited_task_ids().is_empty() && !waiters.has_waiter_for(&id));
    }
}
