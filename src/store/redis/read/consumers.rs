//! The consumers of other programs that read the queues of one partition.

use std::time::Duration;

use redis::{FromRedisValue, ParsingError, Value};

use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::READ_QUEUE_CONSUMERS;
use crate::store::redis::wire::keys;
use crate::store::redis::wire::reply_fields::ReplyFields;
use crate::store::{ExternalConsumer, QueueConsumers, StoreError, TopicQueue};

/// One queue in the reply of the script.
pub(crate) struct ScriptConsumersRow {
    /// Tasks that wait in this partition or run.
    pub(crate) open_tasks: u64,
    pub(crate) consumers: QueueConsumers,
}

impl FromRedisValue for ScriptConsumersRow {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut fields = ReplyFields::parse(value)?;
        let open_tasks = fields.read_next::<i64>()?;
        let groups = fields.read_next()?;
        let consumers: Vec<(String, u64, u64)> = fields.read_next()?;
        let consumer = |(name, idle_ms, held_entries)| ExternalConsumer {
            name,
            idle: Duration::from_millis(idle_ms),
            held_entries,
        };
        Ok(Self {
            open_tasks: u64::try_from(open_tasks).unwrap_or_default(),
            consumers: QueueConsumers {
                groups,
                external: consumers.into_iter().map(consumer).collect(),
            },
        })
    }
}

impl PartitionCore {
    /// The consumers of `queues`, in their order.
    pub(crate) async fn read_queue_consumers(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<ScriptConsumersRow>, StoreError> {
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
                    ("subscription", self.keys.subscription_key(group)),
                ]
            })
            .collect();
        READ_QUEUE_CONSUMERS
            .call_with_keys(&queue_keys)
            .arg_each("group", &groups)
            .run(&self.link)
            .await
    }
}
