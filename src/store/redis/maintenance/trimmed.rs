//! Tasks whose entries an external publisher removed from the stream: Python's publishers trim a
//! stream to about 10,000 entries, whoever published them.
//!
//! A trimmed entry leaves no trace but the task's record, so the records are scanned: a run of
//! scans each minute, and one run after the other once a loss was found, until a whole pass over
//! the records finds no more. A task that runs meanwhile is left alone, since it can end without
//! its entry: its renewals are then written to its record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::redis::lock::lock_unpoisoned;
use crate::store::redis::maintenance::buried::buried_task;
use crate::store::redis::queue::settler::LeaseSettler;
use crate::store::redis::script::runner::FIND_TRIMMED_TASKS;
use crate::store::redis::time::as_millis_u64;
use crate::store::redis::wire::keys;
use crate::store::redis::wire::lease_row::ScriptLeaseRow;
use crate::store::redis::wire::outcome::EntryOutcome;
use crate::store::{BuriedTask, SettleResult, StoreError, TopicQueue, lease_duration};
use crate::task::{FailureKind, TaskFailure, Topic};

/// The `COUNT` of one `SCAN`: about how many keys it examines.
const SCAN_COUNT: usize = 500;
/// Scans in one run.
const SCANS_PER_RUN: usize = 50;
/// How often a run begins where no losses are known.
const SCAN_INTERVAL: Duration = Duration::from_mins(1);

/// Finds and buries trimmed tasks.
pub(crate) struct TrimmedTaskBurier {
    settler: Arc<LeaseSettler>,
    scan: TrimmedScan,
}

/// The position of the scan over the records.
#[derive(Default)]
struct TrimmedScan(Mutex<TrimmedScanState>);

#[derive(Default)]
struct TrimmedScanState {
    /// The cursor of `SCAN`; 0 at the start of a pass.
    cursor: u64,
    /// When the last run began that no known loss had caused.
    regular_run_started: Option<Instant>,
    /// Whether the current pass found a loss, and whether the one before did.
    losses_in_passes: (bool, bool),
}

impl TrimmedScan {
    /// Whether the next run should begin.
    fn is_due(&self, now: Instant) -> bool {
        let mut state = self.lock_state();
        if state.regular_run_started.is_none_or(|started| now - started >= SCAN_INTERVAL) {
            state.regular_run_started = Some(now);
            return true;
        }
        state.losses_in_passes.0 || state.losses_in_passes.1
    }

    fn lock_state(&self) -> MutexGuard<'_, TrimmedScanState> {
        lock_unpoisoned(&self.0)
    }

    /// Stores the cursor; returns whether the pass is over.
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

impl TrimmedTaskBurier {
    /// A burier at the start of a pass.
    pub(crate) fn new(settler: Arc<LeaseSettler>) -> Self {
        Self { settler, scan: TrimmedScan::default() }
    }

    /// Whether the next run should begin.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.scan.is_due(now)
    }

    /// Runs scans until `deadline`; returns the tasks of `queues` that were buried.
    pub(crate) async fn bury_trimmed_tasks(
        &self,
        queues: &[TopicQueue],
        ttl: Duration,
        deadline: Instant,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let mut buried = Vec::new();
        for _ in 0..SCANS_PER_RUN {
            let (cursor, ids) = self.scan_record_ids().await?;
            let mut found_loss = false;
            for row in self.find_trimmed(queues, &ids).await? {
                found_loss = true;
                if let Some(queue) = queues.get(row.queue_position.wrapping_sub(1)) {
                    buried.extend(self.bury_trimmed_task(queue, &row, ttl).await?);
                }
            }
            if self.scan.advance_cursor(cursor, found_loss) || Instant::now() >= deadline {
                break;
            }
        }
        warn_of_trimmed_tasks(&buried);
        Ok(buried)
    }

    /// The cursor after the next scan, and the task ids of the records that it found.
    async fn scan_record_ids(&self) -> Result<(u64, Vec<String>), StoreError> {
        let core = &self.settler.core;
        let (prefix, cursor) = (core.keys.record_prefix(), self.scan.lock_state().cursor);
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(SCAN_COUNT);
        let (cursor, found): (u64, Vec<Vec<u8>>) = core.link.send_command(&scan).await?;
        let id =
            |key: Vec<u8>| String::from_utf8(key).ok()?.strip_prefix(&prefix).map(str::to_owned);
        Ok((cursor, found.into_iter().filter_map(id).collect()))
    }

    /// Those of the tasks `ids` whose entry is gone and that do not run.
    async fn find_trimmed(
        &self,
        queues: &[TopicQueue],
        ids: &[String],
    ) -> Result<Vec<ScriptLeaseRow>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let core = &self.settler.core;
        let (records, results) = (core.keys.record_prefix(), core.keys.result_prefix());
        let task_keys: Vec<(&str, String)> = ids
            .iter()
            .flat_map(|id| {
                [("record_key", format!("{records}{id}")), ("result_key", format!("{results}{id}"))]
            })
            .collect();
        let names: Vec<String> = queues.iter().map(keys::queue_name).collect();
        FIND_TRIMMED_TASKS
            .call_with_keys(&task_keys)
            .arg("stream_prefix", core.keys.stream_prefix())
            .arg("group_prefix", keys::GROUP_PREFIX)
            .arg("tally_prefix", core.keys.tally_prefix())
            .arg("renewal_ttl_ms", as_millis_u64(lease_duration()))
            .arg("queue_count", names.len())
            .arg_each("queue_name", names)
            .arg_each("task_id", ids)
            .run(&core.link)
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
        let outcome = EntryOutcome::Failed(&failure);
        let settled = self.settler.finish_task(&lease, &outcome, ttl, None).await?;
        Ok((settled == SettleResult::Applied).then(|| buried_task(lease, true)))
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
            "tasks were trimmed by a foreign publisher and have failed: publish through the \
             proxy, or keep the backlog below what that publisher trims to"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_loss_scans_are_due_until_a_whole_pass_finds_none() {
        let (scan, now) = (TrimmedScan::default(), Instant::now());
        assert!(scan.is_due(now) && !scan.is_due(now) && scan.is_due(now + SCAN_INTERVAL));
        let urgent = |cursor, found| {
            scan.advance_cursor(cursor, found);
            scan.is_due(now + SCAN_INTERVAL)
        };
        assert_eq!([urgent(5, false), urgent(9, true), urgent(0, false)], [false, true, true]);
        assert_eq!([urgent(5, false), urgent(0, false), urgent(5, false)], [true, false, false]);
    }
}
