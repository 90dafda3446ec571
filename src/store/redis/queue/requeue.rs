//! The end of a lease after which the task runs again: a retry, a release, or an expired lease.

use std::time::Duration;

use crate::store::redis::queue::settler::LeaseSettler;
use crate::store::redis::script::runner::REQUEUE_TASK;
use crate::store::redis::time::{as_millis_u64, millis_until, unix_now};
use crate::store::redis::wire::json::to_json;
use crate::store::redis::wire::keys;
use crate::store::redis::wire::lease_handle::LeaseHandle;
use crate::store::wire::envelope::StoredFailure;
use crate::store::wire::run_history;
use crate::store::{Lease, SettleResult, StoreError};
use crate::task::{AttemptSummary, TaskFailure, UnixMs};

/// How a lease gives way to another one.
pub(crate) struct RequeueOptions<'a> {
    /// Attempts that count as begun afterwards.
    attempts_begun: u32,
    /// By how much the lease number is raised: 1 where the holder ends the lease, 2 where it is
    /// taken from the holder.
    lease_number_increment: u64,
    /// When the next attempt may begin; at once if none.
    due: Option<UnixMs>,
    /// Why the attempt failed.
    failure: Option<&'a TaskFailure>,
    /// How long the entry must not have been leased or renewed.
    min_idle: Option<Duration>,
}

impl<'a> RequeueOptions<'a> {
    /// The attempt failed; the next may begin at `retry_at`.
    pub(crate) fn for_retry(lease: &Lease, failure: &'a TaskFailure, retry_at: UnixMs) -> Self {
        Self {
            attempts_begun: lease.attempt,
            lease_number_increment: 1,
            due: Some(retry_at),
            failure: Some(failure),
            min_idle: None,
        }
    }

    /// The lease is released: its attempt does not count.
    pub(crate) fn for_release(lease: &Lease) -> Self {
        Self {
            attempts_begun: lease.attempt.saturating_sub(1),
            lease_number_increment: 1,
            due: None,
            failure: None,
            min_idle: None,
        }
    }

    /// The lease is taken from a holder that has not renewed it for `min_idle`.
    pub(crate) fn for_expired(lease: &Lease, failure: &'a TaskFailure, min_idle: Duration) -> Self {
        Self {
            attempts_begun: lease.attempt,
            lease_number_increment: 2,
            due: None,
            failure: Some(failure),
            min_idle: Some(min_idle),
        }
    }
}

impl LeaseSettler {
    /// Ends a lease so that another attempt may begin.
    pub(crate) async fn requeue_task(
        &self,
        lease: &Lease,
        options: RequeueOptions<'_>,
    ) -> Result<SettleResult, StoreError> {
        let (handle, group) = (LeaseHandle::from_lease(lease), keys::group_name(&lease.queue));
        let failed_run = options
            .failure
            .map(|failure| self.format_failed_run(lease, failure, unix_now()))
            .unwrap_or_default();
        let failure = options
            .failure
            .map(|failure| to_json(&StoredFailure::from_failure(failure)))
            .transpose()?;
        let applied: bool = REQUEUE_TASK
            .call_with_keys(&[
                ("record_key", self.core.keys.record_key(&lease.task.id)),
                ("stream", self.core.keys.stream_key(&lease.task.topic)),
                ("delayed_index", self.core.keys.delayed_index_key(&group)),
            ])
            .arg("group", &group)
            .arg("entry", &handle.entry_id)
            .arg("attempt", lease.attempt)
            .arg("lease_number", handle.lease_number)
            .arg("next_attempt", options.attempts_begun)
            .arg("next_lease_number", handle.lease_number + options.lease_number_increment)
            .arg("delay_ms", options.due.map_or(0, millis_until))
            .arg("failure", failure.unwrap_or_default())
            .arg("min_idle_ms", options.min_idle.map_or(0, as_millis_u64))
            .arg("failed_run", failed_run)
            .arg("max_history_bytes", run_history::MAX_HISTORY_BYTES)
            .run(&self.core.link)
            .await?;
        Ok(if applied { SettleResult::Applied } else { SettleResult::Fenced })
    }

    /// A failed attempt, as a line of the record's history.
    fn format_failed_run(&self, lease: &Lease, failure: &TaskFailure, ended: UnixMs) -> String {
        let (worker, started) = self.local_leases.process_and_start(lease).unzip();
        let failure = Some((failure.kind, failure.message.clone()));
        run_history::encode_run(&AttemptSummary {
            number: lease.attempt,
            worker,
            started,
            ended: Some(ended),
            failure,
        })
    }
}
