//! Ends a lease, once: repeated while the store is gone or full, since repeating an applied
//! settlement is harmless.
//!
//! The lease stays held meanwhile, so it is renewed as soon as the store is back; where it ran out,
//! the store fences the settlement. A request of this process that waits for the end is given it at
//! the first outage: its client need not wait for the store too. So is one whose answer is too
//! large to be kept.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::unix_now;
use crate::store::{Circuit, Lease, SettleResult, Settlement, StoreError};
use crate::task::{TaskAnswer, TaskFailure, TaskRecord, TaskStatus};

const FIRST_SETTLE_DELAY: Duration = Duration::from_millis(50);
const MAX_SETTLE_DELAY: Duration = Duration::from_secs(1);

/// Settles a lease; none when `give_up` came first, or when the store cannot read what it has: the
/// lease then runs out, and the task runs again.
pub(super) async fn settle_lease(
    circuit: &Circuit,
    lease: Lease,
    settlement: Settlement,
    give_up: &CancellationToken,
) -> Option<SettleResult> {
    let mut pause = FIRST_SETTLE_DELAY;
    loop {
        let error = match circuit.call(circuit.store().settle(&lease, &settlement)).await {
            Ok(settled) => return Some(settled),
            Err(error) => error,
        };
        if error.is_outage()
            && let Some(end) = build_final_record(&lease, &settlement)
        {
            circuit.store().end_waiters().resolve_task(&lease.task.id, Some(&Arc::new(end)));
        }
        let may_pass = error.is_outage() || matches!(error, StoreError::Refused(_));
        if !may_pass || give_up.is_cancelled() {
            tracing::error!(task_id = %lease.task.id, attempt = lease.attempt, %error, "attempt not settled: it will run again");
            return None;
        }
        tracing::debug!(task_id = %lease.task.id, attempt = lease.attempt, %error, "settlement put off");
        let _ = give_up.run_until_cancelled(sleep(pause)).await;
        pause = (pause * 2).min(MAX_SETTLE_DELAY);
    }
}

/// Takes an answer over `max` bytes out of a settlement that the store is to keep. A request of
/// this process that waits for the task's end is given it first, as the sync path would have; one
/// of another process gets the failure.
pub(super) fn deliver_oversized(
    circuit: &Circuit,
    lease: &Lease,
    settlement: Settlement,
    max: usize,
) -> Settlement {
    let large = |failure: &TaskFailure| {
        failure.answer.as_ref().is_some_and(|answer| answer.body.len() > max)
    };
    match settlement {
        Settlement::Bury { ref failure, .. } | Settlement::Retry { ref failure, .. }
            if !large(failure) =>
        {
            settlement
        }
        Settlement::Bury { failure, ttl } => {
            let whole = build_task_record(lease, TaskStatus::Failed, None, Some(failure.clone()));
            circuit.store().end_waiters().resolve_task(&lease.task.id, Some(&Arc::new(whole)));
            Settlement::Bury { failure: TaskFailure { answer: None, ..failure }, ttl }
        }
        Settlement::Retry { failure, retry_at: at } => {
            Settlement::Retry { failure: TaskFailure { answer: None, ..failure }, retry_at: at }
        }
        Settlement::Complete { .. } | Settlement::Release => settlement,
    }
}

/// The task as it stands once `settlement` is applied; none where that does not end it.
fn build_final_record(lease: &Lease, settlement: &Settlement) -> Option<TaskRecord> {
    let (status, answer, failure) = match settlement {
        Settlement::Complete { answer, .. } => (TaskStatus::Completed, Some(answer.clone()), None),
        Settlement::Bury { failure, .. } => (TaskStatus::Failed, None, Some(failure.clone())),
        Settlement::Retry { .. } | Settlement::Release => return None,
    };
    Some(build_task_record(lease, status, answer, failure))
}

fn build_task_record(
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
    }
}
