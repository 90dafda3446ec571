//! What changes a task that is there: the ends of a lease, renewal, cancellation.

use std::sync::Arc;
use std::time::Duration;

use super::finish::{FinishItem, FinishTarget};
use super::message::{EntryOutcome, encode_dead_letter, encode_result, to_json};
use super::outbox::render_outbox_entries;
use super::partition::Partition;
use super::row::{LeaseHandle, ScriptLeaseRow};
use super::script::{CANCEL_TASK, REJECT_ENTRY, RENEW_LEASES, REQUEUE_TASK};
use super::{as_millis_u64, clamp_ttl_ms, keys, millis_until, unix_now};
use crate::store::wire::envelope::StoredFailure;
use crate::store::wire::run_history;
use crate::store::{CancelResult, Lease, SettleResult, Settlement, StoreError, TopicQueue};
use crate::task::{FailureKind, TaskFailure, TaskId, TaskRecord, TaskStatus, UnixMs};

/// How long a task that could not be read is known as failed.
const UNREADABLE_RESULT_TTL: Duration = Duration::from_hours(24);

/// How long a task that is not there yet is cancelled ahead.
const CANCEL_AHEAD_TTL: Duration = Duration::from_mins(1);

impl Partition {
    pub(super) async fn settle_lease(
        &self,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<SettleResult, StoreError> {
        let settled = match settlement {
            Settlement::Complete { answer, ttl } => {
                self.finish_task(lease, &EntryOutcome::Completed(answer), *ttl, None).await?
            }
            Settlement::Bury { failure, ttl } => {
                self.finish_task(lease, &EntryOutcome::Failed(failure), *ttl, None).await?
            }
            Settlement::Retry { failure, retry_at: at } => {
                self.requeue_task(
                    lease,
                    RequeueOptions {
                        attempts_begun: lease.attempt,
                        lease_number_increment: 1,
                        due: Some(*at),
                        failure: Some(failure),
                        min_idle: None,
                    },
                )
                .await?
            }
            Settlement::Release => {
                let attempt = lease.attempt.saturating_sub(1);
                self.requeue_task(
                    lease,
                    RequeueOptions {
                        attempts_begun: attempt,
                        lease_number_increment: 1,
                        due: None,
                        failure: None,
                        min_idle: None,
                    },
                )
                .await?
            }
        };
        if settled == SettleResult::Applied {
            self.record_attempt_end(lease, settlement);
        }
        self.local_leases.remove_lease(lease);
        Ok(settled)
    }

    /// Ends a task. With `idle`, only if nobody has touched its entry for so long.
    pub(super) async fn finish_task(
        &self,
        lease: &Lease,
        end: &EntryOutcome<'_>,
        ttl: Duration,
        min_idle: Option<Duration>,
    ) -> Result<SettleResult, StoreError> {
        let (task, handle, at) = (&lease.task, LeaseHandle::from_lease(lease), unix_now());
        let group = keys::group_name(&lease.queue);
        let (rest, runner) = self.local_leases.extras_and_process(lease);
        let began = self.local_leases.process_and_start(lease).map(|(_, began)| began);
        let stream = self.keys.stream_key(&task.topic);
        let letter = match end {
            EntryOutcome::Completed(_) | EntryOutcome::AlreadyDeadLettered(_) => {
                (String::new(), String::new())
            }
            EntryOutcome::Failed(failure) => {
                format_dead_letter(lease, &stream, &handle.entry_id, failure, at)?
            }
        };
        let ending = FinishItem {
            queue_keys: [
                stream,
                self.keys.dead_letters_key(&group),
                self.keys.python_retry_counts_key(&group),
            ],
            group,
            record_key: self.keys.record_key(&task.id),
            result_key: self.keys.result_key(&task.id),
            lease_token: (lease.attempt, handle.lease_number),
            final_state: end.final_status().as_str(),
            result_json: encode_result(lease, &handle, &rest, &runner, end, began, at)?,
            entry_id: handle.entry_id,
            result_ttl_ms: clamp_ttl_ms(ttl),
            task_id: task.id.as_str().to_owned(),
            min_idle_ms: min_idle.map_or(0, as_millis_u64),
            dead_letter_parts: letter,
            is_message_json: !end.is_malformed(),
            ended_at_ms: at.0,
            deliveries_json: render_outbox_entries(task, end)?,
            tally_key: self.task_tally_key(task),
            tally_outcome: end.tally_outcome().as_str(),
        };
        let (results, outbox, tallies) =
            (self.keys.results_index_key(), self.keys.outbox_index_key(), self.keys.tally_prefix());
        let to = FinishTarget {
            link: &self.link,
            results_index_key: &results,
            outbox_index_key: &outbox,
            instance_id: &self.instance_id,
            tally_prefix: &tallies,
        };
        let applied = self.finish_batch.submit_item(ending, &to).await?;
        if applied {
            self.resolve_local_waiters(lease, end, at);
        }
        Ok(if applied { SettleResult::Applied } else { SettleResult::Fenced })
    }

    /// Tells those who wait in this process.
    fn resolve_local_waiters(&self, lease: &Lease, end: &EntryOutcome<'_>, at: UnixMs) {
        let task = &lease.task;
        if !self.waiters.has_waiter_for(&task.id) {
            return;
        }
        let (answer, failure) = match end {
            EntryOutcome::Completed(answer) => (Some((*answer).clone()), None),
            EntryOutcome::Failed(failure) | EntryOutcome::AlreadyDeadLettered(failure) => {
                (None, Some((*failure).clone()))
            }
        };
        let record = TaskRecord {
            id: task.id.clone(),
            topic: task.topic.clone(),
            status: end.final_status(),
            attempts: lease.attempt,
            owner: task.owner.clone(),
            created: task.created,
            due: None,
            finished: Some(at),
            answer,
            failure,
            progress: None,
        };
        self.waiters.resolve_task(&task.id, Some(&Arc::new(record)));
    }

    /// Ends a lease so that another may begin.
    pub(super) async fn requeue_task(
        &self,
        lease: &Lease,
        park: RequeueOptions<'_>,
    ) -> Result<SettleResult, StoreError> {
        let (handle, group) = (LeaseHandle::from_lease(lease), keys::group_name(&lease.queue));
        let run = park
            .failure
            .map(|failure| self.format_failed_run(lease, failure, unix_now()))
            .unwrap_or_default();
        let failure = park
            .failure
            .map(|failure| to_json(&StoredFailure::from_failure(failure)))
            .transpose()?;
        let applied: bool = REQUEUE_TASK
            .call_with_keys(&[
                self.keys.record_key(&lease.task.id),
                self.keys.stream_key(&lease.task.topic),
                self.keys.delayed_index_key(&group),
            ])
            .arg(&[&group, &handle.entry_id])
            .arg(lease.attempt)
            .arg(handle.lease_number)
            .arg(park.attempts_begun)
            .arg(handle.lease_number + park.lease_number_increment)
            .arg(park.due.map_or(0, millis_until))
            .arg(failure.unwrap_or_default())
            .arg(park.min_idle.map_or(0, as_millis_u64))
            .arg(run)
            .arg(run_history::MAX_HISTORY_BYTES)
            .run(&self.link)
            .await?;
        Ok(if applied { SettleResult::Applied } else { SettleResult::Fenced })
    }

    /// Makes a dead letter of an entry that is no task.
    pub(super) async fn reject_entry(
        &self,
        queue: &TopicQueue,
        row: &ScriptLeaseRow,
        why: String,
    ) -> Result<(), StoreError> {
        tracing::warn!(topic = %queue.topic, entry = row.entry_id, reason = why, "an entry that is no task becomes a dead letter");
        let failure = TaskFailure::new(FailureKind::Malformed, why);
        if let Some(lease) = row.to_bare_lease(queue) {
            return self
                .finish_task(&lease, &EntryOutcome::Failed(&failure), UNREADABLE_RESULT_TTL, None)
                .await
                .map(|_| ());
        }
        let (stream, group) = (self.keys.stream_key(&queue.topic), keys::group_name(queue));
        let (head, tail) = encode_dead_letter(
            queue.topic.as_str(),
            &stream,
            &row.entry_id,
            None,
            &failure,
            row.attempt,
            unix_now(),
        )?;
        REJECT_ENTRY
            .call_with_keys(&[
                stream,
                self.keys.dead_letters_key(&group),
                self.keys.python_retry_counts_key(&group),
            ])
            .arg(&[&group, &row.entry_id, &head, &tail])
            .run::<bool>(&self.link)
            .await
            .map(|_| ())
    }

    pub(super) async fn renew_leases(
        &self,
        process: &str,
        leases: &[Lease],
    ) -> Result<Vec<TaskId>, StoreError> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let record_keys: Vec<String> = leases
            .iter()
            .flat_map(|lease| {
                [self.keys.record_key(&lease.task.id), self.keys.stream_key(&lease.task.topic)]
            })
            .collect();
        let mut call = RENEW_LEASES.call_with_keys(&record_keys);
        for lease in leases {
            let handle = LeaseHandle::from_lease(lease);
            call = call
                .arg(&[
                    keys::group_name(&lease.queue),
                    keys::consumer_name(&lease.queue, process),
                    handle.entry_id,
                ])
                .arg(lease.attempt)
                .arg(handle.lease_number);
        }
        let lost: Vec<usize> = call.run(&self.link).await?;
        let is_lost = |index: usize| lost.contains(&(index + 1));
        self.local_leases.mark_renewed(
            leases.iter().enumerate().filter(|(index, _)| !is_lost(*index)).map(|(_, lease)| lease),
        );
        let lost =
            leases.iter().enumerate().filter(|(index, _)| is_lost(*index)).map(|(_, lease)| lease);
        Ok(lost
            .inspect(|lease| self.local_leases.remove_lease(lease))
            .map(|lease| lease.task.id.clone())
            .collect())
    }

    pub(super) async fn cancel_task(
        &self,
        id: &TaskId,
        ttl: Duration,
    ) -> Result<CancelResult, StoreError> {
        let found: Option<String> = CANCEL_TASK
            .call_with_keys(&[
                self.keys.record_key(id),
                self.keys.result_key(id),
                self.keys.outbox_index_key(),
            ])
            .arg(clamp_ttl_ms(ttl))
            .arg(&[
                id.as_str(),
                &self.instance_id,
                &self.keys.stream_prefix(),
                keys::GROUP_PREFIX,
                &self.keys.delayed_index_prefix(),
                keys::CHANNEL_PREFIX,
            ])
            .arg(as_millis_u64(CANCEL_AHEAD_TTL))
            .arg(&[
                self.keys.scheduled_tasks_prefix(),
                self.keys.scheduled_index_prefix(),
                self.keys.tally_prefix(),
            ])
            .run(&self.link)
            .await?;
        let Some(found) = found else { return Ok(CancelResult::NoSuchTask) };
        if matches!(found.as_str(), "done" | "running") && self.waiters.has_waiter_for(id) {
            self.resolve_if_ended(id).await?;
        }
        Ok(match found.as_str() {
            "done" => CancelResult::Cancelled,
            "running" => CancelResult::WasRunning,
            "failed" => CancelResult::AlreadyEnded(TaskStatus::Failed),
            _ => CancelResult::AlreadyEnded(TaskStatus::Completed),
        })
    }
}

/// The JSON around the failed message of a task's dead letter.
fn format_dead_letter(
    lease: &Lease,
    stream: &str,
    entry: &str,
    failure: &TaskFailure,
    at: UnixMs,
) -> Result<(String, String), StoreError> {
    let task = &lease.task;
    encode_dead_letter(task.topic.as_str(), stream, entry, Some(task), failure, lease.attempt, at)
}

/// How a lease makes way for another.
pub(super) struct RequeueOptions<'a> {
    /// Attempts that count as begun afterwards.
    pub(super) attempts_begun: u32,
    /// How far the turn goes on: 1 when its holder ends it, 2 when it is taken from it.
    pub(super) lease_number_increment: u64,
    /// When the next may begin; now if none.
    pub(super) due: Option<UnixMs>,
    /// Why the attempt failed.
    pub(super) failure: Option<&'a TaskFailure>,
    /// For how long nobody must have touched the entry.
    pub(super) min_idle: Option<Duration>,
}
