//! The queues of the configured topics and their depths.

use super::StoreAccess;
use crate::config::Config;
use crate::store::{QueueDepth, StoreError, TopicQueue};
use crate::task::Topic;

/// A topic with the depth of its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// The topic.
    pub topic: Topic,
    /// Counts of its tasks and the age of the oldest waiting one.
    pub depth: QueueDepth,
}

/// The queues of all topics in the configuration, in its order.
#[must_use]
pub fn configured_queues(config: &Config) -> Vec<TopicQueue> {
    config.topics.iter().map(|(topic, config)| TopicQueue::new(topic, config)).collect()
}

/// The queue of the topic with this name; none when the configuration has no such topic.
#[must_use]
pub fn find_queue(config: &Config, name: &str) -> Option<TopicQueue> {
    let topic = Topic::parse(name).ok()?;
    config.topics.get(&topic).map(|config| TopicQueue::new(&topic, config))
}

/// The depths of all configured queues, in the order of the configuration.
///
/// # Errors
/// The error of the store call that failed.
pub async fn load_queue_statuses(
    access: StoreAccess<'_>,
    config: &Config,
) -> Result<Vec<QueueStatus>, StoreError> {
    let queues = configured_queues(config);
    let depths = access.call(access.store().load_queue_depths(&queues)).await?;
    let statuses = queues.into_iter().zip(depths);
    Ok(statuses.map(|(queue, depth)| QueueStatus { topic: queue.topic, depth }).collect())
}
