//! New tasks that may not begin yet: kept apart from the streams, where any consumer would take
//! them, and put into theirs when they are due.
//!
//! `omni:scheduled:<group>` holds their messages and is the truth; `omni:due:<group>` says in which
//! order. An index that lost tasks is made anew from their records at the next look, which comes
//! about every second from each process.

use super::partition::Partition;
use super::script::PROMOTE_DUE_TASKS;
use super::{error, keys};
use crate::store::{StoreError, TopicQueue};

/// Tasks that one call promotes at most.
const PROMOTE_BATCH_SIZE: usize = 200;

impl Partition {
    pub(super) async fn promote_due_tasks(&self, queues: &[TopicQueue]) -> Result<(), StoreError> {
        if queues.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = queues.iter().map(keys::group_name).collect();
        let all: Vec<String> = queues
            .iter()
            .zip(&groups)
            .flat_map(|(queue, group)| {
                [
                    self.keys.stream_key(&queue.topic),
                    self.keys.scheduled_tasks_key(group),
                    self.keys.scheduled_index_key(group),
                    self.keys.deadline_index_key(group),
                ]
            })
            .collect();
        loop {
            let call = PROMOTE_DUE_TASKS
                .call_with_keys(&all)
                .arg(self.keys.record_prefix())
                .arg(PROMOTE_BATCH_SIZE)
                .arg(&groups);
            let (promoted, wrong): (usize, String) = call.run(&self.link).await?;
            if promoted < PROMOTE_BATCH_SIZE {
                return if wrong.is_empty() { Ok(()) } else { Err(error::from_error_text(&wrong)) };
            }
        }
    }
}
