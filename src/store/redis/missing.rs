//! Tasks whose entries somebody else took off the stream: Python's publishers trim to about 10,000,
//! others' tasks too.
//!
//! What such a publisher takes leaves no trace but the record, so the records are looked through: a
//! stretch a minute, and one after the other once a loss was found, until a whole pass finds no
//! more. A task that runs meanwhile is left alone, since its end needs no entry: its renewals stand
//! in its record from then on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::message::EntryOutcome;
use super::partition::Partition;
use super::row::ScriptLeaseRow;
use super::script::FIND_TRIMMED_TASKS;
use super::{as_millis_u64, keys};
use crate::store::{BuriedTask, SettleResult, StoreError, TopicQueue, lease_duration};
use crate::task::{FailureKind, TaskFailure, Topic};

/// Keys that one call looks at.
const SCAN_COUNT: usize = 500;
/// Calls in a stretch.
const SCANS_PER_RUN: usize = 50;
/// How often one begins.
const SCAN_INTERVAL: Duration = Duration::from_mins(1);

/// Where the look through the records is.
#[derive(Default)]
pub(super) struct TrimmedScan(Mutex<TrimmedScanState>);

#[derive(Default)]
struct TrimmedScanState {
    cursor: u64,
    /// When the last stretch began that was not urgent.
    regular_run_started: Option<Instant>,
    /// Whether this pass found a loss, and whether the one before did.
    losses_in_passes: (bool, bool),
}

impl TrimmedScan {
    /// Whether the next stretch is to begin.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let mut state = self.lock_state();
        if state.regular_run_started.is_none_or(|began| now - began >= SCAN_INTERVAL) {
            state.regular_run_started = Some(now);
            return true;
        }
        state.losses_in_passes.0 || state.losses_in_passes.1
    }

    fn lock_state(&self) -> MutexGuard<'_, TrimmedScanState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where it goes on; whether the pass is over.
    fn advance_cursor(&self, cursor: u64, found_loss: bool) -> bool {
        let mut state = self.lock_state();
        state.cursor = cursor;
        state.losses_in_passes.0 |= found_loss;
        if cursor == 0 {
            state.losses_in_passes = (false, state.losses_in_passes.0);
        }
        cursor == 0
    }
}

impl Partition {
    /// Looks through a stretch of the records. Gives the tasks that have failed by it.
    pub(super) async fn bury_trimmed_tasks(
        &self,
        scan: &TrimmedScan,
        queues: &[TopicQueue],
        ttl: Duration,
        deadline: Instant,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let mut dead = Vec::new();
        for _ in 0..SCANS_PER_RUN {
            let (cursor, ids) = self.scan_record_ids(scan).await?;
            let mut found = false;
            for row in self.find_trimmed(queues, &ids).await? {
                found = true;
                if let Some(queue) = queues.get(row.queue_position.wrapping_sub(1)) {
                    dead.extend(self.bury_trimmed_task(queue, &row, ttl).await?);
                }
            }
            if scan.advance_cursor(cursor, found) || Instant::now() >= deadline {
                break;
            }
        }
        warn_of_trimmed_tasks(&dead);
        Ok(dead)
    }

    /// The ids of the next records, and where to go on.
    async fn scan_record_ids(&self, scan: &TrimmedScan) -> Result<(u64, Vec<String>), StoreError> {
        let (prefix, cursor) = (self.keys.record_prefix(), scan.lock_state().cursor);
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(SCAN_COUNT);
        let (cursor, found): (u64, Vec<Vec<u8>>) = self.link.send_command(&scan).await?;
        let id =
            |key: Vec<u8>| String::from_utf8(key).ok()?.strip_prefix(&prefix).map(str::to_owned);
        Ok((cursor, found.into_iter().filter_map(id).collect()))
    }

    async fn find_trimmed(
        &self,
        queues: &[TopicQueue],
        ids: &[String],
    ) -> Result<Vec<ScriptLeaseRow>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (records, results) = (self.keys.record_prefix(), self.keys.result_prefix());
        let all: Vec<String> = ids
            .iter()
            .flat_map(|id| [format!("{records}{id}"), format!("{results}{id}")])
            .collect();
        let names: Vec<String> =
            queues.iter().map(|queue| format!("{}:{}", queue.topic, queue.agent)).collect();
        FIND_TRIMMED_TASKS
            .call_with_keys(&all)
            .arg(&[&self.keys.stream_prefix(), keys::GROUP_PREFIX, &self.keys.tally_prefix()])
            .arg(as_millis_u64(lease_duration()))
            .arg(names.len())
            .arg(names)
            .arg(ids)
            .run(&self.link)
            .await
    }

    async fn bury_trimmed_task(
        &self,
        queue: &TopicQueue,
        row: &ScriptLeaseRow,
        ttl: Duration,
    ) -> Result<Option<BuriedTask>, StoreError> {
        let Some(lease) = row.to_bare_lease(queue) else { return Ok(None) };
        let failure =
            TaskFailure::new(FailureKind::LostFromQueue, "trimmed by a foreign publisher");
        let settled = self.finish_task(&lease, &EntryOutcome::Failed(&failure), ttl, None).await?;
        let buried = BuriedTask { trimmed: true, ..BuriedTask::from_lease(lease) };
        Ok((settled == SettleResult::Applied).then_some(buried))
    }
}

fn warn_of_trimmed_tasks(buried: &[BuriedTask]) {
    let mut counts: HashMap<&Topic, usize> = HashMap::new();
    for buried in buried {
        *counts.entry(&buried.topic).or_default() += 1;
    }
    for (topic, tasks) in counts {
        tracing::warn!(
            %topic,
            tasks,
            "tasks were trimmed by a foreign publisher and have failed: publish through the proxy, or keep the backlog \
             below what that publisher trims to"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_loss_the_search_goes_on_until_a_whole_pass_finds_none() {
        let (search, now) = (TrimmedScan::default(), Instant::now());
        assert!(search.is_due(now) && !search.is_due(now) && search.is_due(now + SCAN_INTERVAL));
        let urgent = |cursor, found| {
            search.advance_cursor(cursor, found);
            search.is_due(now + SCAN_INTERVAL)
        };
        assert_eq!([urgent(5, false), urgent(9, true), urgent(0, false)], [false, true, true]);
        assert_eq!([urgent(5, false), urgent(0, false), urgent(5, false)], [true, false, false]);
    }
}
