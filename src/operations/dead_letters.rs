//! Dead letters: list, reprocess, discard.
//!
//! Where no topic is named, the queues of all configured topics are searched, each with a store
//! call of its own.

use super::StoreAccess;
use super::queues::{configured_queues, find_queue};
use crate::config::Config;
use crate::store::{DeadLetter, ReprocessResult, StoreError, TopicQueue};
use crate::task::{TaskId, TaskStatus, Topic};

/// Dead letters on one page at most.
const MAX_LISTED_DEAD_LETTERS: usize = 1000;

/// Why nothing was done to a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// The configuration has no such topic.
    #[error("there is no topic {0:?}")]
    NoSuchTopic(String),
    /// No queue that was searched has it.
    #[error("{}: list them with `omnidaemon bus dlq`", describe_missing(topic.as_deref(), id))]
    NoSuchDeadLetter {
        /// The topic that was named; none when all were searched.
        topic: Option<String>,
        /// The dead letter's id.
        id: String,
    },
    /// A task of that id is queued or runs.
    #[error("{id} is queued or running already: nothing was done, see `omnidaemon task show {id}`")]
    TaskActive {
        /// The task's id.
        id: String,
    },
    /// What is stored of it cannot run again.
    #[error("{id} cannot run again: {reason}: discard it")]
    NotRunnable {
        /// The dead letter's id.
        id: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// The task did not fail, so there is nothing to retry.
    #[error("{id} is {}: only a failed task can be tried again", status.as_str())]
    NotFailed {
        /// The task's id.
        id: TaskId,
        /// How it ended.
        status: TaskStatus,
    },
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A dead letter that is a queued task again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReprocessedTask {
    /// The topic that it is queued on.
    pub topic: Topic,
    /// Whether it is a captured request, which runs without the credentials of its client: they
    /// were deleted when it failed.
    pub is_captured_request: bool,
}

/// A topic's dead letters, newest first, up to `limit` and at most 1000; `before` is the cursor of
/// the last one of the page before.
///
/// # Errors
/// [`DeadLetterError::NoSuchTopic`], and errors of the store: [`StoreError::Malformed`] for a
/// cursor that is not one of this list.
pub async fn list_dead_letters(
    access: StoreAccess<'_>,
    config: &Config,
    topic: &str,
    before: Option<&str>,
    limit: usize,
) -> Result<Vec<DeadLetter>, DeadLetterError> {
    let queue = find_queue(config, topic).ok_or_else(|| no_such_topic(topic))?;
    let limit = limit.min(MAX_LISTED_DEAD_LETTERS);
    let store = access.store();
    Ok(access.call(store.list_dead_letters(&queue, before, limit)).await?)
}

/// A dead letter with its payload, whatever its size.
///
/// # Errors
/// [`DeadLetterError`]: it cannot be read.
pub async fn get_dead_letter(
    access: StoreAccess<'_>,
    config: &Config,
    topic: Option<&str>,
    id: &str,
) -> Result<DeadLetter, DeadLetterError> {
    for queue in select_queues(config, topic)? {
        if let Some(letter) = access.call(access.store().get_dead_letter(&queue, id)).await? {
            return Ok(letter);
        }
    }
    Err(no_such_dead_letter(topic, id))
}

/// Queues a dead letter again under its id, with all its retries.
///
/// # Errors
/// [`DeadLetterError`]: nothing was done.
pub async fn reprocess_dead_letter(
    access: StoreAccess<'_>,
    config: &Config,
    topic: Option<&str>,
    id: &str,
) -> Result<ReprocessedTask, DeadLetterError> {
    for queue in select_queues(config, topic)? {
        let now = jiff::Timestamp::now().into();
        match access.call(access.store().reprocess_dead_letter(&queue, id, now)).await? {
            ReprocessResult::NoSuchDeadLetter => {}
            ReprocessResult::Queued { is_captured_request } => {
                return Ok(ReprocessedTask { topic: queue.topic, is_captured_request });
            }
            ReprocessResult::TaskActive => {
                return Err(DeadLetterError::TaskActive { id: id.to_owned() });
            }
            ReprocessResult::NotRunnable(reason) => {
                return Err(DeadLetterError::NotRunnable { id: id.to_owned(), reason });
            }
        }
    }
    Err(no_such_dead_letter(topic, id))
}

/// Queues a failed task again; the same as [`reprocess_dead_letter`], except that a task that
/// completed or was cancelled is refused by its status.
///
/// # Errors
/// [`DeadLetterError`]: nothing was done.
pub async fn retry_failed_task(
    access: StoreAccess<'_>,
    config: &Config,
    id: &TaskId,
) -> Result<ReprocessedTask, DeadLetterError> {
    let record = access.call(access.store().get_task(id)).await?;
    if let Some(record) = &record
        && matches!(record.status, TaskStatus::Completed | TaskStatus::Cancelled)
    {
        return Err(DeadLetterError::NotFailed { id: id.clone(), status: record.status });
    }
    let topic = record.as_ref().map(|record| record.topic.as_str());
    reprocess_dead_letter(access, config, topic, id.as_str()).await
}

/// Deletes a dead letter for good, and returns its topic.
///
/// # Errors
/// [`DeadLetterError`]: nothing was done.
pub async fn discard_dead_letter(
    access: StoreAccess<'_>,
    config: &Config,
    topic: Option<&str>,
    id: &str,
) -> Result<Topic, DeadLetterError> {
    for queue in select_queues(config, topic)? {
        if access.call(access.store().discard_dead_letter(&queue, id)).await? {
            return Ok(queue.topic);
        }
    }
    Err(no_such_dead_letter(topic, id))
}

/// The queue of the named topic, or all configured ones.
fn select_queues(config: &Config, topic: Option<&str>) -> Result<Vec<TopicQueue>, DeadLetterError> {
    let Some(name) = topic else { return Ok(configured_queues(config)) };
    Ok(vec![find_queue(config, name).ok_or_else(|| no_such_topic(name))?])
}

fn no_such_topic(name: &str) -> DeadLetterError {
    DeadLetterError::NoSuchTopic(name.to_owned())
}

fn no_such_dead_letter(topic: Option<&str>, id: &str) -> DeadLetterError {
    DeadLetterError::NoSuchDeadLetter { topic: topic.map(str::to_owned), id: id.to_owned() }
}

fn describe_missing(topic: Option<&str>, id: &str) -> String {
    match topic {
        Some(topic) => format!("topic {topic} has no dead letter {id}"),
        None => format!("no topic has a dead letter {id}"),
    }
}
