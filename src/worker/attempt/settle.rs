//! Settles a lease. A settlement is repeated while the store is unavailable or full, which is safe
//! because repeating an applied settlement changes nothing.
//!
//! The lease stays held meanwhile, so it is renewed as soon as the store is back; if it has
//! expired, the store fences the settlement. At the first outage a request of this process that
//! waits for the task gets the result at once, so that its client does not wait for the store as
//! well.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backoff::BackoffPolicy;
use crate::store::{Circuit, Lease, SettleResult, Settlement, StoreError};
use crate::task::{TaskAnswer, TaskFailure, TaskRecord, TaskStatus};
use crate::worker::context::unix_now;

/// The delays between tries to settle a lease.
const SETTLE_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(1));

/// Settles a lease, and repeats that until `give_up`. `None` if the settlement was not applied:
/// `give_up` came first, or the error is one that a repetition cannot mend. The lease then expires,
/// and the task runs again.
pub(crate) async fn settle_lease(
    circuit: &Circuit,
    lease: Lease,
    settlement: Settlement,
    give_up: &CancellationToken,
) -> Option<SettleResult> {
    let mut pause = SETTLE_BACKOFF.first_delay();
    loop {
        let error = match circuit.settle(&lease, &settlement).await {
            Ok(settled) => return Some(settled),
            Err(error) => error,
        };
        if error.is_outage()
            && let Some(end) = build_final_record(&lease, &settlement)
        {
            circuit.store().end_waiters().resolve_task(&lease.task.id, Some(&Arc::new(end)));
        }
        let is_temporary = error.is_outage() || matches!(error, StoreError::Refused(_));
        if !is_temporary || give_up.is_cancelled() {
            let (task_id, attempt) = (&lease.task.id, lease.attempt);
            tracing::error!(%task_id, attempt, %error, "attempt not settled: it will run again");
            return None;
        }
        let (task_id, attempt) = (&lease.task.id, lease.attempt);
        tracing::debug!(%task_id, attempt, %error, "settlement failed: it is repeated");
        let _ = give_up.run_until_cancelled(sleep(pause)).await;
        pause = SETTLE_BACKOFF.next_delay(pause);
    }
}

/// The record of the task after `settlement`; `None` if the settlement does not end the task.
fn build_final_record(lease: &Lease, settlement: &Settlement) -> Option<TaskRecord> {
    let (status, answer, failure) = match settlement {
        Settlement::Complete { answer, .. } => (TaskStatus::Completed, Some(answer.clone()), None),
        Settlement::Bury { failure, .. } => (TaskStatus::Failed, None, Some(failure.clone())),
        Settlement::Retry { .. } | Settlement::Release => return None,
    };
    Some(build_task_record(lease, status, answer, failure))
}

/// The record of a task that ends now.
pub(super) fn build_task_record(
    lease: &Lease,
    status: TaskStatus,
    answer: Option<TaskAnswer>,
    failure: Option<TaskFailure>,
) -> TaskRecord {
    TaskRecord {
        id: lease.task.id.clone(),
        topic: lease.task.topic.clone(),
        status,
        attempts: lease.attempt,
        owner: lease.task.owner.clone(),
        created: lease.task.created,
        due: None,
        finished: Some(unix_now()),
        answer,
        failure,
        progress: None,
        note: None,
    }
}
