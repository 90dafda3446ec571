//! New tasks that may not begin yet: kept apart from the streams, where any consumer would take them, and put into
//! theirs when they are due.
//!
//! `omni:scheduled:<group>` holds their messages and is the truth; `omni:due:<group>` says in which order. An index
//! that lost tasks is made anew from their records at the next look, which comes about every second from each process.

use super::partition::Partition;
use super::script::PROMOTE;
use super::{error, keys};
use crate::store::{Queue, StoreError};

/// Tasks that one call promotes at most.
const BATCH: usize = 200;

impl Partition {
    pub(super) async fn promote_due(&self, queues: &[Queue]) -> Result<(), StoreError> {
        if queues.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = queues.iter().map(keys::group).collect();
        let all: Vec<String> = queues
            .iter()
            .zip(&groups)
            .flat_map(|(queue, group)| {
                [
                    self.keys.stream(&queue.topic),
                    self.keys.scheduled(group),
                    self.keys.due(group),
                    self.keys.limits(group),
                ]
            })
            .collect();
        loop {
            let call = PROMOTE.keys(&all).arg(self.keys.record_prefix()).arg(BATCH).arg(&groups);
            let (promoted, wrong): (usize, String) = call.run(&self.link).await?;
            if promoted < BATCH {
                return if wrong.is_empty() { Ok(()) } else { Err(error::of_text(&wrong)) };
            }
        }
    }
}
