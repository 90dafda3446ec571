//! Reading tasks: pages of the list, and one task with its attempts and deliveries.

use super::StoreAccess;
use super::queues::configured_queues;
use crate::config::Config;
use crate::store::{DeliveryRecord, StoreError, TaskListPage, TaskListRequest};
use crate::task::{TaskDetails, TaskId, TaskStatus};

/// All statuses, in the order of a task's life.
const TASK_STATUSES: [TaskStatus; 5] = [
    TaskStatus::Queued,
    TaskStatus::Processing,
    TaskStatus::Completed,
    TaskStatus::Failed,
    TaskStatus::Cancelled,
];

/// A task with the notifications of its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskWithDeliveries {
    /// The task and its attempts.
    pub details: TaskDetails,
    /// The webhook and the reply that its end sends, as far as the store still has them.
    pub deliveries: Vec<DeliveryRecord>,
}

/// One page of the tasks of all configured queues, newest first.
///
/// # Errors
/// The error of the store call; [`StoreError::Malformed`] for a cursor that is not one of this
/// list.
pub async fn list_tasks(
    access: StoreAccess<'_>,
    config: &Config,
    request: &TaskListRequest,
) -> Result<TaskListPage, StoreError> {
    let queues = configured_queues(config);
    access.call(access.store().list_tasks(&queues, request)).await
}

/// A task; none when the store does not know it, or no longer.
///
/// # Errors
/// The error of the store call that failed.
pub async fn load_task(
    access: StoreAccess<'_>,
    id: &TaskId,
) -> Result<Option<TaskWithDeliveries>, StoreError> {
    let Some(details) = access.call(access.store().load_task_details(id)).await? else {
        return Ok(None);
    };
    let deliveries = access.call(access.store().list_deliveries(id)).await?;
    Ok(Some(TaskWithDeliveries { details, deliveries }))
}

/// The status that a word of the API means.
///
/// # Errors
/// A message that lists the words.
pub fn parse_task_status(word: &str) -> Result<TaskStatus, String> {
    let words = TASK_STATUSES.map(TaskStatus::as_str).join(", ");
    TASK_STATUSES
        .into_iter()
        .find(|status| status.as_str() == word)
        .ok_or(format!("{word:?} is no status: use one of {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_parsed_from_its_word_and_an_unknown_word_lists_all() {
        for status in TASK_STATUSES {
            assert_eq!(parse_task_status(status.as_str()), Ok(status));
        }
        let refused = parse_task_status("done").expect_err("not a status");
        assert!(refused.contains("queued, processing, completed, failed, cancelled"), "{refused}");
    }
}
