//! The ends of leases by settlement, and the ends of tasks that have no settlement: expired leases,
//! entries that are no tasks, tasks that external consumers ended.

use std::sync::Arc;
use std::time::Duration;

use crate::store::redis::queue::finish::{FinishItem, FinishTarget};
use crate::store::redis::queue::requeue::RequeueOptions;
use crate::store::redis::queue::settler::LeaseSettler;
use crate::store::redis::records::outbox::render_outbox_entries;
use crate::store::redis::script::runner::REJECT_ENTRY;
use crate::store::redis::time::{as_millis_u64, clamp_ttl_ms, unix_now};
use crate::store::redis::wire::dead_letter::DeadLetterContent;
use crate::store::redis::wire::keys;
use crate::store::redis::wire::lease_handle::LeaseHandle;
use crate::store::redis::wire::lease_row::ScriptLeaseRow;
use crate::store::redis::wire::outcome::EntryOutcome;
use crate::store::redis::wire::result::EndedTask;
use crate::store::{Lease, SettleResult, Settlement, StoreError, TopicQueue};
use crate::task::{FailureKind, TaskFailure, TaskRecord, UnixMs};

/// How long the result of a task that could not be read is kept.
const UNREADABLE_RESULT_TTL: Duration = Duration::from_hours(24);

impl LeaseSettler {
    /// Ends a lease as `settlement` says.
    pub(crate) async fn settle_lease(
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
            Settlement::Retry { failure, retry_at } => {
                let options = RequeueOptions::for_retry(lease, failure, *retry_at);
                self.requeue_task(lease, options).await?
            }
            Settlement::Release => {
                self.requeue_task(lease, RequeueOptions::for_release(lease)).await?
            }
        };
        if settled == SettleResult::Applied && self.agent_events.has_reader() {
            let (_, process) = self.local_leases.extras_and_process(lease);
            let lease_age = self.local_leases.lease_age(lease);
            self.agent_events.record_attempt_end(lease, settlement, &process, lease_age);
        }
        self.local_leases.remove_lease(lease);
        Ok(settled)
    }

    /// Ends a task and keeps its result for `ttl`. With `min_idle`, only if the entry has not been
    /// leased or renewed for so long.
    pub(crate) async fn finish_task(
        &self,
        lease: &Lease,
        outcome: &EntryOutcome<'_>,
        ttl: Duration,
        min_idle: Option<Duration>,
    ) -> Result<SettleResult, StoreError> {
        let (keys, ended_at) = (&self.core.keys, unix_now());
        let item = self.build_finish_item(lease, outcome, ttl, min_idle, ended_at)?;
        let (results, outbox, tallies) =
            (keys.results_index_key(), keys.outbox_index_key(), keys.tally_prefix());
        let target = FinishTarget {
            link: &self.core.link,
            large_write_link: &self.core.large_write_link,
            results_index_key: &results,
            outbox_index_key: &outbox,
            instance_id: &self.core.instance_id,
            tally_prefix: &tallies,
        };
        let applied = self.finish_batcher.submit_item(item, &target).await?;
        if applied {
            self.resolve_local_waiters(lease, outcome, ended_at);
        }
        Ok(if applied { SettleResult::Applied } else { SettleResult::Fenced })
    }

    fn build_finish_item(
        &self,
        lease: &Lease,
        outcome: &EntryOutcome<'_>,
        ttl: Duration,
        min_idle: Option<Duration>,
        ended_at: UnixMs,
    ) -> Result<FinishItem, StoreError> {
        let (task, handle, keys) = (&lease.task, LeaseHandle::from_lease(lease), &self.core.keys);
        let (group, stream) = (keys::group_name(&lease.queue), keys.stream_key(&task.topic));
        let (extras, runner) = self.local_leases.extras_and_process(lease);
        let result = EndedTask {
            lease,
            handle: &handle,
            extras: &extras,
            runner: &runner,
            outcome,
            began_at: self.local_leases.process_and_start(lease).map(|(_, began_at)| began_at),
            ended_at,
        };
        let dead_letter_parts = match outcome {
            EntryOutcome::Completed(_) | EntryOutcome::AlreadyDeadLettered(_) => {
                (String::new(), String::new())
            }
            EntryOutcome::Failed(failure) => {
                encode_dead_letter(lease, &stream, &handle.entry_id, failure, ended_at)?
            }
        };
        Ok(FinishItem {
            result_json: result.encode_result()?,
            queue_keys: [
                ("stream", stream),
                ("dead_letters", keys.dead_letters_key(&group)),
                ("retry_counts", keys.python_retry_counts_key(&group)),
            ],
            group,
            record_key: keys.record_key(&task.id),
            result_key: keys.result_key(&task.id),
            attempt: lease.attempt,
            lease_number: handle.lease_number,
            final_state: outcome.final_status().as_str(),
            entry_id: handle.entry_id,
            result_ttl_ms: clamp_ttl_ms(ttl),
            task_id: task.id.as_str().to_owned(),
            min_idle_ms: min_idle.map_or(0, as_millis_u64),
            dead_letter_parts,
            is_message_json: !outcome.is_malformed(),
            ended_at_ms: ended_at.0,
            deliveries_json: render_outbox_entries(task, outcome)?,
            tally_key: self.core.task_tally_key(task),
            tally_outcome: outcome.tally_outcome().as_str(),
        })
    }

    /// Resolves the waiters in this process without another read.
    fn resolve_local_waiters(&self, lease: &Lease, outcome: &EntryOutcome<'_>, ended_at: UnixMs) {
        let (task, waiters) = (&lease.task, &self.core.waiters);
        if !waiters.has_waiter_for(&task.id) {
            return;
        }
        let (answer, failure) = match outcome {
            EntryOutcome::Completed(answer) => (Some((*answer).clone()), None),
            EntryOutcome::Failed(failure) | EntryOutcome::AlreadyDeadLettered(failure) => {
                (None, Some((*failure).clone()))
            }
        };
        let record = TaskRecord {
            id: task.id.clone(),
            topic: task.topic.clone(),
            status: outcome.final_status(),
            attempts: lease.attempt,
            owner: task.owner.clone(),
            created: task.created,
            due: None,
            finished: Some(ended_at),
            answer,
            failure,
            progress: None,
            note: None,
        };
        waiters.resolve_task(&task.id, Some(&Arc::new(record)));
    }

    /// Makes an entry that is no task a dead letter.
    pub(crate) async fn reject_entry(
        &self,
        queue: &TopicQueue,
        row: &ScriptLeaseRow,
        why: String,
    ) -> Result<(), StoreError> {
        tracing::warn!(
            topic = %queue.topic,
            entry = row.entry_id,
            reason = why,
            "an entry that is no task becomes a dead letter"
        );
        let failure = TaskFailure::new(FailureKind::Malformed, why);
        if let Some(lease) = row.to_bare_lease(queue) {
            let outcome = EntryOutcome::Failed(&failure);
            return self
                .finish_task(&lease, &outcome, UNREADABLE_RESULT_TTL, None)
                .await
                .map(|_| ());
        }
        let keys = &self.core.keys;
        let (stream, group) = (keys.stream_key(&queue.topic), keys::group_name(queue));
        let dead_letter = DeadLetterContent {
            topic: queue.topic.as_str(),
            stream: &stream,
            entry_id: &row.entry_id,
            task: None,
            failure: &failure,
            attempts: row.attempt,
            failed_at: unix_now(),
        };
        let (head, tail) = dead_letter.encode_parts()?;
        REJECT_ENTRY
            .call_with_keys(&[
                ("stream", stream),
                ("dead_letters", keys.dead_letters_key(&group)),
                ("retry_counts", keys.python_retry_counts_key(&group)),
            ])
            .arg("group", &group)
            .arg("entry", &row.entry_id)
            .arg("letter_head", &head)
            .arg("letter_tail", &tail)
            .run::<bool>(&self.core.link)
            .await
            .map(|_| ())
    }
}

/// The JSON before and after the failed message of a task's dead letter.
fn encode_dead_letter(
    lease: &Lease,
    stream: &str,
    entry_id: &str,
    failure: &TaskFailure,
    failed_at: UnixMs,
) -> Result<(String, String), StoreError> {
    DeadLetterContent {
        topic: lease.task.topic.as_str(),
        stream,
        entry_id,
        task: Some(&lease.task),
        failure,
        attempts: lease.attempt,
        failed_at,
    }
    .encode_parts()
}
