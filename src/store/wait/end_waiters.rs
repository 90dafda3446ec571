//! The callers in this process that wait for a task to end.
//!
//! A store resolves a task here when it learns that the task ended: at once for settlements of this
//! process, by notification or poll for those of other processes.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::task::{TaskId, TaskRecord};

type WaitersByTask = HashMap<TaskId, Vec<(u64, oneshot::Sender<Option<Arc<TaskRecord>>>)>>;

/// The registry of waiting callers, by task; clones share it.
#[derive(Clone, Default)]
pub struct TaskEndWaiters {
    shared_state: Arc<Mutex<EndWaitersState>>,
}

#[derive(Default)]
struct EndWaitersState {
    last_number: u64,
    waiting_by_task: WaitersByTask,
}

/// Resolves when the task has ended, to its record; to none when the store no longer has one.
/// Dropping it ends the wait.
pub struct TaskEndWaiter {
    task_id: TaskId,
    waiter_number: u64,
    end_receiver: oneshot::Receiver<Option<Arc<TaskRecord>>>,
    registry: TaskEndWaiters,
}

// === impl TaskEndWaiters ===

impl TaskEndWaiters {
    /// Starts to wait for the end of task `id`. Call it before the task is queued, so that the end
    /// cannot be missed.
    #[must_use]
    pub fn register_waiter(&self, id: &TaskId) -> TaskEndWaiter {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock_state();
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

    /// Resolves the waiters of task `id` with its final record, or with none where the store no
    /// longer has one.
    pub fn resolve_task(&self, id: &TaskId, record: Option<&Arc<TaskRecord>>) {
        let waiting = self.lock_state().waiting_by_task.remove(id);
        for (_, sender) in waiting.into_iter().flatten() {
            let _ = sender.send(record.cloned()); // an error: the waiter was just dropped
        }
    }

    /// Whether a caller of this process waits for task `id`.
    #[must_use]
    pub fn has_waiter_for(&self, id: &TaskId) -> bool {
        self.lock_state().waiting_by_task.contains_key(id)
    }

    /// The tasks for which a caller of this process waits.
    #[must_use]
    pub fn awaited_task_ids(&self) -> Vec<TaskId> {
        self.lock_state().waiting_by_task.keys().cloned().collect()
    }

    fn lock_state(&self) -> MutexGuard<'_, EndWaitersState> {
        self.shared_state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl TaskEndWaiter ===

impl Future for TaskEndWaiter {
    type Output = Option<Arc<TaskRecord>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.end_receiver).poll(cx).map(|received| received.unwrap_or(None))
    }
}

impl Drop for TaskEndWaiter {
    fn drop(&mut self) {
        let mut state = self.registry.lock_state();
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
    async fn every_waiter_is_resolved_and_dropped_waiters_are_removed() {
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
