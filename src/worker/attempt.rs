//! One leased attempt from start to settlement.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::handler::{Handler, INTERRUPT_GRACE, TaskAttempt};
use super::live::LeaseKey;
use super::pool::{DrainSignals, WorkerContext};
use super::progress;
use super::retry::{RetryDecision, decide_retry};
use super::settle::{deliver_oversized, settle_lease};
use super::unix_now;
use crate::metrics::TaskOutcome;
use crate::snapshot::Snapshot;
use crate::store::{Lease, SettleResult, Settlement};
use crate::task::{FailureKind, Task, TaskAnswer, TaskFailure};

/// Runs a leased task and settles its lease.
pub(super) async fn run_attempt(shared: Arc<WorkerContext>, lease: Lease, stop: DrainSignals) {
    let Some(snapshot) = shared.topic_snapshot(&lease.task.topic) else {
        // Its topic became external between the pull and now.
        settle_lease(&shared.circuit, lease, Settlement::Release, &stop.stop_settling).await;
        return;
    };
    let cancelled = stop.stop_attempts.child_token();
    let _slot = BusySlot::acquire(&shared, &lease, cancelled.clone());
    let result = execute_handler(&shared, &snapshot, &lease, cancelled.clone()).await;
    if let Some(settlement) = choose_settlement(&snapshot, &lease, result, &cancelled, &stop) {
        let settlement = deliver_oversized(
            &shared.circuit,
            &lease,
            settlement,
            snapshot.config.results.max_result_bytes,
        );
        settle_and_count(&shared, lease, settlement, &stop).await;
    }
}

/// A busy slot, whose lease is renewed; free when dropped.
struct BusySlot<'a> {
    shared: &'a WorkerContext,
    lease_key: LeaseKey,
}

impl<'a> BusySlot<'a> {
    fn acquire(shared: &'a WorkerContext, lease: &Lease, cancelled: CancellationToken) -> Self {
        shared.metrics.workers_busy.inc();
        Self { shared, lease_key: shared.held_leases.register(lease, cancelled) }
    }
}

impl Drop for BusySlot<'_> {
    fn drop(&mut self) {
        self.shared.held_leases.unregister(&self.lease_key);
        self.shared.metrics.workers_busy.dec();
    }
}

/// Runs the handler: within its deadline, and whatever it does.
async fn execute_handler(
    shared: &WorkerContext,
    snapshot: &Snapshot,
    lease: &Lease,
    cancelled: CancellationToken,
) -> Result<TaskAnswer, TaskFailure> {
    let task = &lease.task;
    let config = &snapshot.config;
    let timeout = config.topics.get(&task.topic).map_or(INTERRUPT_GRACE, |topic| topic.timeout);
    let mut attempt = TaskAttempt::new(task.clone(), lease.attempt, timeout, cancelled);
    attempt.progress_url = progress::build_progress_url(shared, config, lease).await;
    let begun = Instant::now();
    let result = match shared.handlers.build_handler(&task.topic, config) {
        Ok(handler) => tokio::select! {
            result = call_handler_guarded(handler.as_ref(), &attempt) => result,
            never = progress::write_progress_reports(shared, lease, attempt.subscribe_progress()) => match never {},
        },
        Err(failure) => Err(failure),
    };
    shared.metrics.observe_attempt_duration(task.topic.as_str(), begun.elapsed());
    result.and_then(|answer| {
        let max = config.results.max_result_bytes;
        if answer.body.len() > max {
            Err(oversized_answer_failure(answer, max))
        } else {
            Ok(answer)
        }
    })
}

/// The failure of an answer that is too large to be kept; it goes along for a client that waits for
/// it.
fn oversized_answer_failure(answer: TaskAnswer, max: usize) -> TaskFailure {
    let size = answer.body.len();
    let message = format!(
        "the answer of {size} bytes is over results.max_result ({max} bytes): raise it, or return less"
    );
    TaskFailure { answer: Some(answer), ..TaskFailure::new(FailureKind::UnusableResult, message) }
}

/// The handler's result; its panic is a failure, and one that ignores its interruption is dropped.
async fn call_handler_guarded(
    handler: &dyn Handler,
    attempt: &TaskAttempt,
) -> Result<TaskAnswer, TaskFailure> {
    let overdue = async {
        let why = attempt.await_interrupt().await;
        sleep(INTERRUPT_GRACE).await;
        why
    };
    tokio::select! {
        done = AssertUnwindSafe(handler.handle(attempt)).catch_unwind() => {
            done.unwrap_or_else(|panic| Err(panic_failure(panic.as_ref())))
        }
        why = overdue => Err(attempt.interrupt_failure(why)),
    }
}

fn panic_failure(panic: &(dyn Any + Send)) -> TaskFailure {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    TaskFailure::new(
        FailureKind::HandlerError,
        format!("the handler panicked: {}", text.unwrap_or("without a message")),
    )
}

/// How the lease ends; none when it is lost already.
fn choose_settlement(
    snapshot: &Snapshot,
    lease: &Lease,
    result: Result<TaskAnswer, TaskFailure>,
    cancelled: &CancellationToken,
    stop: &DrainSignals,
) -> Option<Settlement> {
    let ttl = snapshot.config.results.ttl;
    let failure = match result {
        Ok(answer) => return Some(Settlement::Complete { answer, ttl }),
        Err(_) if stop.stop_attempts.is_cancelled() => return Some(Settlement::Release),
        Err(_) if cancelled.is_cancelled() => return None,
        Err(failure) => failure,
    };
    let task = &lease.task;
    let base =
        snapshot.config.topics.get(&task.topic).map(|topic| topic.retry_delay).unwrap_or_default();
    let decision = decide_retry(&failure, lease.attempt, task.retries, base, rand::random());
    let next = match decision {
        RetryDecision::Retry { delay } => format!("again in {delay:?}"),
        RetryDecision::Bury => "none, it is a dead letter".to_owned(),
    };
    let (attempt, kind, error) =
        (lease.attempt, failure.kind.as_str(), format_failure_for_log(&failure));
    tracing::warn!(task_id = %task.id, topic = %task.topic, attempt, kind, error, next, "attempt failed");
    Some(match decision {
        RetryDecision::Retry { delay } => {
            Settlement::Retry { failure, retry_at: unix_now().plus(delay) }
        }
        RetryDecision::Bury => Settlement::Bury { failure, ttl },
    })
}

/// What the log may say of a failure: not what a handler answered or printed, which can be
/// anything. Operators find that with the task and its dead letter.
fn format_failure_for_log(failure: &TaskFailure) -> String {
    match (failure.kind, failure.answer.as_ref().and_then(|answer| answer.status)) {
        (FailureKind::FailedStatus | FailureKind::HandlerError, Some(status)) => {
            format!("it answered {status}")
        }
        (FailureKind::FailedStatus | FailureKind::HandlerError, None) => "see the task".to_owned(),
        _ => failure.message.clone(),
    }
}

/// Settles, and counts the task if that ended it.
async fn settle_and_count(
    shared: &WorkerContext,
    lease: Lease,
    settlement: Settlement,
    stop: &DrainSignals,
) {
    let outcome = match &settlement {
        Settlement::Complete { .. } => Some(TaskOutcome::Completed),
        Settlement::Bury { .. } => Some(TaskOutcome::Failed),
        Settlement::Retry { .. } | Settlement::Release => None,
    };
    let Task { id, topic, route, .. } = lease.task.clone();
    let attempt = lease.attempt;
    let settled = settle_lease(&shared.circuit, lease, settlement, &stop.stop_settling).await;
    if settled == Some(SettleResult::Fenced) {
        tracing::info!(task_id = %id, %topic, attempt, "attempt was fenced: its result does not count");
    }
    let (Some(SettleResult::Applied), Some(outcome)) = (settled, outcome) else { return };
    tracing::debug!(task_id = %id, %topic, attempt, outcome = outcome.as_str(), "task ended");
    if outcome == TaskOutcome::Completed {
        shared.metrics.count_task_processed(topic.as_str());
    } else {
        shared.metrics.count_task_failed(topic.as_str());
    }
    if let Some(route) = route {
        shared.metrics.count_task_outcome(&route, outcome);
    }
}
