//! The tasks that consumers of another make run: what they gave up has failed, and so has what is
//! past its limit; what they ended is counted, where it is a canaried one.
//!
//! Such a consumer says nothing to us: it writes a result, or after its own retries a dead letter,
//! or it dies. One script looks over all queues; only what it finds costs more. Dead letters are
//! read on from the last one that was seen, each process for itself and from the first one on, so
//! that none is missed. Whether there are results is asked for a stretch of the unended tasks in
//! each look, and for the next one in the next, round and round.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use redis::streams::StreamRangeReply;
use serde::Deserialize;
use tokio::time::Instant;

use super::keys;
use super::message::EntryOutcome;
use super::partition::Partition;
use super::row::ScriptLeaseRow;
use super::script::{RECONCILE_EXTERNAL, SCAN_EXTERNAL_TASKS};
use crate::store::{BuriedTask, SettleResult, StoreError, TopicQueue};
use crate::task::{FailureKind, TaskFailure};

/// Dead letters of a queue in one look, which may end sooner: they carry whole messages.
const DEAD_LETTERS_PER_SCAN: usize = 20;

/// Tasks of a queue that are asked in one look whether they have ended.
const UNENDED_TASKS_PER_SCAN: usize = 500;

/// How long one call goes on where there is more: many dead letters from before this process.
const EXTERNAL_SCAN_TIME_LIMIT: Duration = Duration::from_millis(200);

/// What one look finds in a queue.
type ExternalQueueScan = (String, Vec<Bytes>, Vec<String>, Vec<String>, usize);

/// Where the next look at a queue goes on.
#[derive(Clone, Debug)]
pub(super) struct ExternalScanCursor {
    /// The last of its dead letters that was seen.
    last_dead_letter: String,
    /// How many of its unended tasks were asked in this round.
    unended_offset: usize,
}

/// The tasks that may have an end: those with a result, those past their limit, and those that were
/// given up.
struct ExternalEndCandidates {
    with_result: Vec<String>,
    overdue: Vec<String>,
    dead_letters: Vec<ExternalDeadLetter>,
}

/// A dead letter of a consumer of another make.
#[derive(Deserialize)]
struct ExternalDeadLetter {
    original_id: String,
    failed_message: ExternalFailedMessage,
    error: Option<String>,
    /// Only ours say which.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct ExternalFailedMessage {
    task_id: Option<String>,
}

impl Partition {
    pub(super) async fn reconcile_external_queues(
        &self,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let (mut dead, mut more, start) = (Vec::new(), !queues.is_empty(), Instant::now());
        while more && start.elapsed() < EXTERNAL_SCAN_TIME_LIMIT {
            let found: Vec<ExternalQueueScan>;
            (more, found) = self.scan_external_queues(queues).await?;
            for (queue, (letter, letters, late, with_result, asked)) in queues.iter().zip(found) {
                let given_up =
                    letters.iter().filter_map(|data| parse_external_dead_letter(data)).collect();
                let candidates =
                    ExternalEndCandidates { with_result, overdue: late, dead_letters: given_up };
                if !candidates.is_empty() {
                    dead.extend(self.end_external_tasks(queue, &candidates, ttl).await?);
                }
                self.lock_scan_cursors().insert(
                    keys::group_name(queue),
                    ExternalScanCursor { last_dead_letter: letter, unended_offset: asked },
                );
            }
        }
        let external = |queue: &&TopicQueue| queue.external_timeout.is_some();
        let elsewhere: Vec<TopicQueue> = queues.iter().filter(external).cloned().collect();
        if !elsewhere.is_empty() && self.external_trimmed_scan.is_due(start) {
            dead.extend(
                self.bury_trimmed_tasks(
                    &self.external_trimmed_scan,
                    &elsewhere,
                    ttl,
                    start + EXTERNAL_SCAN_TIME_LIMIT,
                )
                .await?,
            );
        }
        Ok(dead)
    }

    /// One look, and whether there may be more dead letters.
    async fn scan_external_queues(
        &self,
        queues: &[TopicQueue],
    ) -> Result<(bool, Vec<ExternalQueueScan>), StoreError> {
        let groups: Vec<String> = queues.iter().map(keys::group_name).collect();
        let all: Vec<String> = groups
            .iter()
            .flat_map(|group| {
                [self.keys.dead_letters_key(group), self.keys.deadline_index_key(group)]
            })
            .collect();
        let mut call = SCAN_EXTERNAL_TASKS
            .call_with_keys(&all)
            .arg(DEAD_LETTERS_PER_SCAN)
            .arg(self.keys.result_prefix())
            .arg(UNENDED_TASKS_PER_SCAN);
        for group in &groups {
            let ExternalScanCursor { last_dead_letter: letter, unended_offset: asked } =
                self.lock_scan_cursors().get(group).cloned().unwrap_or_default();
            call = call.arg(letter).arg(asked);
        }
        call.run(&self.link).await
    }

    async fn end_external_tasks(
        &self,
        queue: &TopicQueue,
        candidates: &ExternalEndCandidates,
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let ExternalEndCandidates { with_result, overdue: late, dead_letters: given_up } =
            candidates;
        let group = keys::group_name(queue);
        let mut call = RECONCILE_EXTERNAL
            .call_with_keys(&[
                self.keys.stream_key(&queue.topic),
                self.keys.deadline_index_key(&group),
            ])
            .arg(&[
                &self.keys.record_prefix(),
                &self.keys.result_prefix(),
                &self.keys.tally_prefix(),
            ])
            .arg(&[queue.topic.as_str(), &queue.agent, &group])
            .arg(queue.external_timeout.is_some())
            .arg(with_result.len())
            .arg(with_result)
            .arg(late.len())
            .arg(late);
        let mut errors = HashMap::new();
        for letter in given_up {
            let Some(id) = &letter.failed_message.task_id else { continue };
            call = call.arg(id).arg(&letter.original_id);
            errors.insert(id.as_str(), letter.error.as_deref().unwrap_or("no reason given"));
        }
        let (late, given_up): (Vec<ScriptLeaseRow>, Vec<ScriptLeaseRow>) =
            call.run(&self.link).await?;
        let mut dead = Vec::new();
        for row in given_up {
            let why = errors.get(row.task_id.as_str()).copied().unwrap_or_default();
            let failure = TaskFailure::new(
                FailureKind::HandlerError,
                format!("agent {} gave up: {why}", queue.agent),
            );
            dead.extend(
                self.end_external_task(
                    queue,
                    row,
                    &EntryOutcome::AlreadyDeadLettered(&failure),
                    ttl,
                )
                .await?,
            );
        }
        for row in late {
            let limit = humantime::format_duration(queue.external_timeout.unwrap_or_default());
            let failure = TaskFailure::new(
                FailureKind::Deadline,
                format!("agent {} did not end it within {limit}", queue.agent),
            );
            dead.extend(
                self.end_external_task(queue, row, &EntryOutcome::Failed(&failure), ttl).await?,
            );
        }
        Ok(dead)
    }

    async fn end_external_task(
        &self,
        queue: &TopicQueue,
        mut row: ScriptLeaseRow,
        end: &EntryOutcome<'_>,
        ttl: Duration,
    ) -> Result<Option<BuriedTask>, StoreError> {
        // one at a time, since it may be large; whole where it can be read: its end may have to be
        // told
        row.data = self.read_entry_data(queue, &row.entry_id).await?;
        let whole = row.parse_lease(queue).ok().map(|(lease, _)| lease);
        let Some(lease) = whole.or_else(|| row.to_bare_lease(queue)) else { return Ok(None) };
        let settled = self.finish_task(&lease, end, ttl, None).await?;
        Ok((settled == SettleResult::Applied).then(|| BuriedTask::from_lease(lease)))
    }

    /// The data of an entry, while it is there.
    async fn read_entry_data(
        &self,
        queue: &TopicQueue,
        entry: &str,
    ) -> Result<Option<Bytes>, StoreError> {
        let mut range = redis::cmd("XRANGE");
        range.arg(self.keys.stream_key(&queue.topic)).arg(entry).arg(entry);
        let found: StreamRangeReply = self.link.send_command(&range).await?;
        Ok(found.ids.first().and_then(|entry| entry.get::<Vec<u8>>("data")).map(Bytes::from))
    }

    fn lock_scan_cursors(&self) -> std::sync::MutexGuard<'_, HashMap<String, ExternalScanCursor>> {
        self.external_cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Candidates ===

impl ExternalEndCandidates {
    fn is_empty(&self) -> bool {
        self.with_result.is_empty() && self.overdue.is_empty() && self.dead_letters.is_empty()
    }
}

// === impl Seen ===

impl Default for ExternalScanCursor {
    fn default() -> Self {
        Self { last_dead_letter: "0".into(), unended_offset: 0 }
    }
}

/// A dead letter that is not ours.
fn parse_external_dead_letter(data: &[u8]) -> Option<ExternalDeadLetter> {
    serde_json::from_slice::<ExternalDeadLetter>(data).ok().filter(|letter| letter.kind.is_none())
}
