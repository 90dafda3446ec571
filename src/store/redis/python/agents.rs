//! The entries of Python's `agent list`: which agents read which topic.

use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::REGISTER_AGENT;
use crate::store::redis::time::{to_unix_seconds, unix_now};
use crate::store::{StoreError, TopicQueue};

/// The description of this program's agents in Python's list.
const AGENT_DESCRIPTION: &str = "run by the workers of the omnidaemon proxy";

impl PartitionCore {
    /// Adds the agent of a queue to the list.
    pub(crate) async fn register_agent(&self, queue: &TopicQueue) -> Result<(), StoreError> {
        REGISTER_AGENT
            .call_with_keys(&[
                ("agent", self.keys.agent_key(&queue.topic, &queue.agent)),
                ("topic_agents", self.keys.topic_agents_key(&queue.topic)),
                ("agent_topics", self.keys.agent_topics_key()),
            ])
            .arg("name", &queue.agent)
            .arg("topic", queue.topic.as_str())
            .arg("description", AGENT_DESCRIPTION)
            .arg("created_at_s", to_unix_seconds(unix_now()))
            .run::<u64>(&self.link)
            .await
            .map(|_| ())
    }
}
