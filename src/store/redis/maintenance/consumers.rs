//! The sweep of a queue: idle consumers are removed, and entries that every group has finished.

use std::time::Duration;

use crate::store::redis::core::PartitionCore;
use crate::store::redis::maintenance::schedule::ReapSchedule;
use crate::store::redis::script::runner::{REMOVE_IDLE_CONSUMERS, TRIM_STREAM};
use crate::store::redis::time::as_millis_u64;
use crate::store::redis::wire::keys;
use crate::store::{StoreError, TopicQueue};

/// How long a consumer must have been idle to be removed.
const CONSUMER_IDLE_LIMIT: Duration = Duration::from_mins(10);

impl PartitionCore {
    /// Removes consumers of ours that hold nothing and have been idle for ten minutes.
    pub(crate) async fn remove_idle_consumers(&self, queue: &TopicQueue) -> Result<(), StoreError> {
        let call = REMOVE_IDLE_CONSUMERS
            .call_with_keys(&[("stream", self.keys.stream_key(&queue.topic))])
            .arg("group", keys::group_name(queue))
            .arg("consumer_mark", keys::OUR_CONSUMER_MARK)
            .arg("min_idle_ms", as_millis_u64(CONSUMER_IDLE_LIMIT));
        call.run::<u64>(&self.link).await.map(|_| ())
    }

    /// Trims the entries that all groups of a stream have finished, and warns of a group that alone
    /// keeps the rest.
    pub(crate) async fn trim_finished_entries(
        &self,
        schedule: &ReapSchedule,
        queue: &TopicQueue,
    ) -> Result<(), StoreError> {
        let stream = self.keys.stream_key(&queue.topic);
        let (_, group, first_kept_entry): (u64, String, String) = TRIM_STREAM
            .call_with_keys(&[("stream", &stream)])
            .arg("own_group", keys::group_name(queue))
            .run(&self.link)
            .await?;
        if schedule.should_warn_of_group(&stream, &group, first_kept_entry) {
            tracing::warn!(
                stream,
                group,
                "a group that does not read keeps what all others are done with, and the stream \
                 grows: run its consumers, or XGROUP DESTROY it"
            );
        }
        Ok(())
    }
}
