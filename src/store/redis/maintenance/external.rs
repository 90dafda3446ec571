//! Tasks that external consumers run: programs such as a Python agent that read the stream
//! themselves. A task that such a consumer gave up, or did not end in time, has failed; one that it
//! completed is tallied where a rollout counts it.
//!
//! An external consumer reports nothing: it writes a result, or a dead letter after its own
//! retries, or it dies. One script examines all queues; only what it finds costs more. Each process
//! reads the dead letters from the first one on, so that none is missed. Whether a task has a
//! result is checked for a part of the unended tasks in each scan, and for the next part in the
//! next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::store::redis::core::PartitionCore;
use crate::store::redis::lock::lock_unpoisoned;
use crate::store::redis::maintenance::buried::buried_task;
use crate::store::redis::maintenance::trimmed::TrimmedTaskBurier;
use crate::store::redis::queue::settler::LeaseSettler;
use crate::store::redis::script::runner::{RECONCILE_EXTERNAL, SCAN_EXTERNAL_TASKS};
use crate::store::redis::wire::dead_letter::{ExternalDeadLetter, parse_external_dead_letter};
use crate::store::redis::wire::keys;
use crate::store::redis::wire::lease_row::ScriptLeaseRow;
use crate::store::redis::wire::outcome::EntryOutcome;
use crate::store::{BuriedTask, SettleResult, StoreError, TopicQueue};
use crate::task::{FailureKind, TaskFailure};

/// The most dead letters of a queue in one scan; fewer where they are large, since each holds a
/// whole message.
const DEAD_LETTERS_PER_SCAN: usize = 20;

/// Tasks of a queue whose result one scan checks for.
const UNENDED_TASKS_PER_SCAN: usize = 500;

/// How long one call repeats the scan where there are more dead letters.
const EXTERNAL_SCAN_TIME_LIMIT: Duration = Duration::from_millis(200);

/// One queue in the reply of the scan script: the last dead letter that was read, the dead letters,
/// the tasks past their deadline, the tasks with a result, the offset for the next scan.
type ExternalQueueScan = (String, Vec<Bytes>, Vec<String>, Vec<String>, usize);

/// Ends the tasks of external consumers.
pub(crate) struct ExternalReconciler {
    core: Arc<PartitionCore>,
    settler: Arc<LeaseSettler>,
    /// By consumer group.
    cursors: Mutex<HashMap<String, ExternalScanCursor>>,
    /// Buries the trimmed tasks of queues that external consumers alone read.
    trimmed_tasks: TrimmedTaskBurier,
}

/// The position of the scan of one queue.
#[derive(Clone, Debug)]
struct ExternalScanCursor {
    /// The entry id of the last dead letter that was read.
    last_dead_letter: String,
    /// How many of the unended tasks were checked in the current pass.
    unended_offset: usize,
}

/// The tasks of a queue that may have ended.
struct ExternalEndCandidates {
    with_result: Vec<String>,
    overdue: Vec<String>,
    dead_letters: Vec<ExternalDeadLetter>,
}

impl ExternalReconciler {
    /// The reconciler of a partition, at the first dead letter of every queue.
    pub(crate) fn new(core: Arc<PartitionCore>, settler: Arc<LeaseSettler>) -> Self {
        let trimmed_tasks = TrimmedTaskBurier::new(settler.clone());
        Self { core, settler, cursors: Mutex::default(), trimmed_tasks }
    }

    /// Ends the tasks of `queues` that external consumers ended, gave up or did not end in time;
    /// returns those that failed.
    pub(crate) async fn reconcile_external_queues(
        &self,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let (mut buried, mut has_more, start) = (Vec::new(), !queues.is_empty(), Instant::now());
        while has_more && start.elapsed() < EXTERNAL_SCAN_TIME_LIMIT {
            let scans: Vec<ExternalQueueScan>;
            (has_more, scans) = self.scan_external_queues(queues).await?;
            for (queue, (last_dead_letter, letters, overdue, with_result, unended_offset)) in
                queues.iter().zip(scans)
            {
                let dead_letters =
                    letters.iter().filter_map(|data| parse_external_dead_letter(data)).collect();
                let candidates = ExternalEndCandidates { with_result, overdue, dead_letters };
                if !candidates.is_empty() {
                    buried.extend(self.end_external_tasks(queue, &candidates, ttl).await?);
                }
                let cursor = ExternalScanCursor { last_dead_letter, unended_offset };
                lock_unpoisoned(&self.cursors).insert(keys::group_name(queue), cursor);
            }
        }
        let is_external = |queue: &&TopicQueue| queue.external_timeout.is_some();
        let external: Vec<TopicQueue> = queues.iter().filter(is_external).cloned().collect();
        if !external.is_empty() && self.trimmed_tasks.is_due(start) {
            let deadline = start + EXTERNAL_SCAN_TIME_LIMIT;
            buried.extend(self.trimmed_tasks.bury_trimmed_tasks(&external, ttl, deadline).await?);
        }
        Ok(buried)
    }

    /// One scan, and whether there may be more dead letters.
    async fn scan_external_queues(
        &self,
        queues: &[TopicQueue],
    ) -> Result<(bool, Vec<ExternalQueueScan>), StoreError> {
        let keys = &self.core.keys;
        let groups: Vec<String> = queues.iter().map(keys::group_name).collect();
        let queue_keys: Vec<(&str, String)> = groups
            .iter()
            .flat_map(|group| {
                [
                    ("dead_letters", keys.dead_letters_key(group)),
                    ("deadline_index", keys.deadline_index_key(group)),
                ]
            })
            .collect();
        let mut call = SCAN_EXTERNAL_TASKS
            .call_with_keys(&queue_keys)
            .arg("max_dead_letters", DEAD_LETTERS_PER_SCAN)
            .arg("result_prefix", keys.result_prefix())
            .arg("max_checked_tasks", UNENDED_TASKS_PER_SCAN);
        for group in &groups {
            let cursor = lock_unpoisoned(&self.cursors).get(group).cloned().unwrap_or_default();
            call = call
                .arg("last_dead_letter", cursor.last_dead_letter)
                .arg("first_checked", cursor.unended_offset);
        }
        call.run(&self.core.link).await
    }

    async fn end_external_tasks(
        &self,
        queue: &TopicQueue,
        candidates: &ExternalEndCandidates,
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let (overdue, given_up) = self.find_failed_tasks(queue, candidates).await?;
        let mut buried = Vec::new();
        let reasons: HashMap<&str, &str> = candidates
            .dead_letters
            .iter()
            .filter_map(|letter| Some((letter.failed_message.task_id.as_deref()?, letter)))
            .map(|(id, letter)| (id, letter.error.as_deref().unwrap_or("no reason given")))
            .collect();
        for row in given_up {
            let reason = reasons.get(row.task_id.as_str()).copied().unwrap_or_default();
            let failure = TaskFailure::new(
                FailureKind::HandlerError,
                format!("agent {} gave up: {reason}", queue.agent),
            );
            let outcome = EntryOutcome::AlreadyDeadLettered(&failure);
            buried.extend(self.end_external_task(queue, row, &outcome, ttl).await?);
        }
        for row in overdue {
            let limit = humantime::format_duration(queue.external_timeout.unwrap_or_default());
            let failure = TaskFailure::new(
                FailureKind::Deadline,
                format!("agent {} did not end it within {limit}", queue.agent),
            );
            let outcome = EntryOutcome::Failed(&failure);
            buried.extend(self.end_external_task(queue, row, &outcome, ttl).await?);
        }
        Ok(buried)
    }

    /// Tallies the candidates that were completed; returns those that are overdue and those that
    /// were given up.
    async fn find_failed_tasks(
        &self,
        queue: &TopicQueue,
        candidates: &ExternalEndCandidates,
    ) -> Result<(Vec<ScriptLeaseRow>, Vec<ScriptLeaseRow>), StoreError> {
        let (keys, group) = (&self.core.keys, keys::group_name(queue));
        let mut call = RECONCILE_EXTERNAL
            .call_with_keys(&[
                ("stream", keys.stream_key(&queue.topic)),
                ("deadline_index", keys.deadline_index_key(&group)),
            ])
            .arg("record_prefix", keys.record_prefix())
            .arg("result_prefix", keys.result_prefix())
            .arg("tally_prefix", keys.tally_prefix())
            .arg("topic", queue.topic.as_str())
            .arg("agent", &queue.agent)
            .arg("group", &group)
            .arg("has_deadlines", queue.external_timeout.is_some())
            .arg("with_result_count", candidates.with_result.len())
            .arg("overdue_count", candidates.overdue.len())
            .arg_each("ended_task_id", &candidates.with_result)
            .arg_each("overdue_task_id", &candidates.overdue);
        for letter in &candidates.dead_letters {
            if let Some(id) = &letter.failed_message.task_id {
                call = call.arg("dead_task_id", id).arg("dead_entry", &letter.original_id);
            }
        }
        call.run(&self.core.link).await
    }

    async fn end_external_task(
        &self,
        queue: &TopicQueue,
        mut row: ScriptLeaseRow,
        outcome: &EntryOutcome<'_>,
        ttl: Duration,
    ) -> Result<Option<BuriedTask>, StoreError> {
        // read one at a time, since an entry may be large
        let stream = self.core.keys.stream_key(&queue.topic);
        row.data = self.core.read_entry_data(&stream, &row.entry_id).await?;
        let Some(lease) = row.to_whole_or_bare_lease(queue) else { return Ok(None) };
        let settled = self.settler.finish_task(&lease, outcome, ttl, None).await?;
        Ok((settled == SettleResult::Applied).then(|| buried_task(lease, false)))
    }
}

impl ExternalEndCandidates {
    fn is_empty(&self) -> bool {
        self.with_result.is_empty() && self.overdue.is_empty() && self.dead_letters.is_empty()
    }
}

impl Default for ExternalScanCursor {
    fn default() -> Self {
        Self { last_dead_letter: "0".into(), unended_offset: 0 }
    }
}
