//! The depths of queues: how many tasks wait, run, or have become dead letters.

use std::time::Duration;

use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::READ_QUEUE_DEPTHS;
use crate::store::redis::wire::keys;
use crate::store::{QueueDepth, StoreError, TopicQueue};

impl PartitionCore {
    /// The depths of `queues`, in their order.
    pub(crate) async fn read_queue_depths(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueDepth>, StoreError> {
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        let groups: Vec<String> = queues.iter().map(keys::group_name).collect();
        let queue_keys: Vec<(&str, String)> = queues
            .iter()
            .zip(&groups)
            .flat_map(|(queue, group)| {
                [
                    ("stream", self.keys.stream_key(&queue.topic)),
                    ("delayed_index", self.keys.delayed_index_key(group)),
                    ("dead_letters", self.keys.dead_letters_key(group)),
                    ("scheduled_tasks", self.keys.scheduled_tasks_key(group)),
                ]
            })
            .collect();
        let rows: Vec<[i64; 5]> = READ_QUEUE_DEPTHS
            .call_with_keys(&queue_keys)
            .arg_each("group", &groups)
            .run(&self.link)
            .await?;
        let count = |number: i64| u64::try_from(number).unwrap_or_default();
        let depth = |[unread, delayed, leased, dead, oldest]: [i64; 5]| QueueDepth {
            queued: count(unread) + count(delayed),
            processing: count(leased),
            dead_letters: count(dead),
            oldest_age: Duration::from_millis(count(oldest)),
        };
        Ok(rows.into_iter().map(depth).collect())
    }
}
