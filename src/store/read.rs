//! Reading tasks: one record, the short state of many, the list page by page, and queue depths.

use async_trait::async_trait;

use super::error::StoreError;
use super::queue::{QueueDepth, TopicQueue};
use super::wait::TaskEndWaiters;
use crate::task::{TaskDetails, TaskId, TaskProgress, TaskRecord, TaskStatus, Topic, UnixMs};

/// The state of a task without its payload and result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskLookup {
    /// No such task, or its record has expired.
    NotFound,
    /// The task is completed, failed or cancelled.
    Ended,
    /// The task is queued or processing.
    Active(TaskState),
}

/// The state of a task that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskState {
    /// Queued or processing.
    pub status: TaskStatus,
    /// Attempts begun so far.
    pub attempts: u32,
    /// The progress of the running attempt, where its handler reports any.
    pub progress: Option<TaskProgress>,
}

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskListRequest {
    /// Only tasks of this topic.
    pub topic: Option<Topic>,
    /// Only tasks of this status.
    pub status: Option<TaskStatus>,
    /// The most tasks in the page.
    pub limit: usize,
    /// [`TaskListPage::next_cursor`] of the page before; none for the first page.
    pub after_cursor: Option<String>,
}

/// A task in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskListEntry {
    /// The task's id.
    pub id: TaskId,
    /// The task's topic; none where only a result is left that another program wrote.
    pub topic: Option<Topic>,
    /// The task's status.
    pub status: TaskStatus,
    /// Attempts begun.
    pub attempts: Option<u32>,
    /// When the task was accepted.
    pub created_at: Option<UnixMs>,
    /// When the task ended.
    pub finished_at: Option<UnixMs>,
}

/// A page of the task list. A page with fewer tasks than asked for, or none, need not be the last:
/// only a missing `next_cursor` ends the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskListPage {
    /// The tasks, newest first.
    pub tasks: Vec<TaskListEntry>,
    /// The cursor of the next page; none after the last.
    pub next_cursor: Option<String>,
    /// Statuses whose tasks this store cannot list.
    pub unlistable_statuses: &'static [TaskStatus],
}

/// Reads tasks and queues.
#[async_trait]
pub trait TaskReader: Send + Sync + 'static {
    /// The record of a task; none when the id is unknown or the record has expired.
    async fn get_task(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError>;

    /// The short state of each task of `ids`, in their order, in one call.
    async fn statuses(&self, ids: &[TaskId]) -> Result<Vec<TaskLookup>, StoreError>;

    /// The record of a task with its attempts, route and trace; none when the id is unknown or the
    /// record has expired.
    async fn load_task_details(&self, id: &TaskId) -> Result<Option<TaskDetails>, StoreError>;

    /// A page of the tasks, newest first. Redis lists only tasks of `queues`, and all unfinished
    /// ones before the ended ones. [`StoreError::Malformed`] for a cursor that no page returned.
    async fn list_tasks(
        &self,
        queues: &[TopicQueue],
        request: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError>;

    /// The depth of each queue of `queues`, in their order.
    async fn load_queue_depths(&self, queues: &[TopicQueue])
    -> Result<Vec<QueueDepth>, StoreError>;

    /// The registry of this process's callers that wait for a task to end.
    fn end_waiters(&self) -> &TaskEndWaiters;
}
