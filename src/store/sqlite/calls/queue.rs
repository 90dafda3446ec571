//! Queueing and cancelling tasks.

use std::time::Duration;

use async_trait::async_trait;

use crate::store::error::StoreError;
use crate::store::queue::{CancelResult, TaskQueue, TopicQueue};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::row::NewTaskRow;
use crate::store::sqlite::sql::queue;
use crate::task::{Task, TaskId};

#[async_trait]
impl TaskQueue for SqliteStore {
    async fn enqueue(&self, task: &Task, queue: &TopicQueue) -> Result<(), StoreError> {
        let row = NewTaskRow::from_task(task)?.with_times(|at| self.clock.to_store_time(at));
        let limits = queue::EnqueueLimits {
            max_backlog: queue.max_backlog,
            max_open_tasks: queue.max_open_tasks,
        };
        let accepted =
            self.writer.submit_change(move |db| queue::enqueue_task(db, &row, limits)).await?;
        Ok(accepted?)
    }

    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<CancelResult, StoreError> {
        let id = id.clone();
        self.writer.submit_change(move |db| queue::cancel_task(db, &id, ttl)).await
    }

    /// Has nothing to do: the writer makes delayed tasks ready when they become due.
    async fn enqueue_due_tasks(&self, _queues: &[TopicQueue]) -> Result<(), StoreError> {
        Ok(())
    }
}
