//! Publishing tasks from envelopes, `{"topic", "payload", …}`: one, or many at a time.

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};

use super::StoreAccess;
use crate::config::Config;
use crate::route::{BodyError, TaskRequestError, build_task, parse_body};
use crate::store::{StoreError, TopicQueue};
use crate::task::{Task, TaskId, Topic, UnixMs};

/// Tasks of one bulk that are sent to the store concurrently.
const MAX_CONCURRENT_ENQUEUES: usize = 64;

/// A task that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedTask {
    /// Its id.
    pub id: TaskId,
    /// Its topic.
    pub topic: Topic,
}

/// Why an envelope did not become a task.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The text is not a valid envelope.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The configuration does not allow what the envelope requests, such as a topic that does not
    /// exist.
    #[error(transparent)]
    Request(#[from] TaskRequestError),
    /// The store did not take the task.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The task that an envelope describes, with a new id, and its queue. Nothing is stored.
///
/// # Errors
/// [`PublishError::Body`] or [`PublishError::Request`].
pub fn prepare_task(config: &Config, envelope: &Bytes) -> Result<(Task, TopicQueue), PublishError> {
    let parsed = parse_body(envelope)?;
    let now = UnixMs::from(jiff::Timestamp::now());
    let id = TaskId::new(now, rand::random());
    let (task, topic_config) = build_task(parsed, None, config, id, now)?;
    let queue = TopicQueue::new(&task.topic, topic_config);
    Ok((task, queue))
}

/// Publishes one envelope: the task is durable when this returns. A task whose enqueue has an
/// unknown outcome is cancelled, because its caller gets an error.
///
/// # Errors
/// [`PublishError`]: there is no task.
pub async fn publish_task(
    access: StoreAccess<'_>,
    config: &Config,
    envelope: Bytes,
) -> Result<PublishedTask, PublishError> {
    let (task, queue) = prepare_task(config, &envelope)?;
    access.enqueue(&task, &queue, config.results.ttl).await?;
    Ok(PublishedTask { id: task.id, topic: task.topic })
}

/// Publishes envelopes, up to 64 concurrently, and yields the result of each in their order. A task
/// that fails does not stop the others.
pub fn publish_bulk<'a>(
    access: StoreAccess<'a>,
    config: &'a Config,
    envelopes: Vec<Bytes>,
) -> impl Stream<Item = Result<PublishedTask, PublishError>> + 'a {
    let publish_each =
        envelopes.into_iter().map(move |envelope| publish_task(access, config, envelope));
    stream::iter(publish_each).buffered(MAX_CONCURRENT_ENQUEUES)
}
