//! One leased attempt from its start to its settlement.
//!
//! The handler runs under its deadline while the lease is renewed; its result decides one
//! settlement, which consumes the lease. A panic of the handler is a failed attempt, and a handler
//! that ignores its interrupt is dropped after the interrupt grace.

mod oversized;
mod progress;
mod settle;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::oversized::{deliver_oversized, oversized_answer_failure};
pub(super) use self::settle::settle_lease;
use super::context::{DrainSignals, LeaseKey, OccupiedSlot, WorkerContext, unix_now};
use super::handler::{Handler, INTERRUPT_GRACE, TaskAttempt};
use crate::metrics::TaskOutcome;
use crate::snapshot::Snapshot;
use crate::store::{Lease, SettleResult, Settlement};
use crate::task::{FailureKind, RetryDecision, Task, TaskAnswer, TaskFailure, decide_retry};

/// Runs a leased task in `slot` and settles its lease.
pub(super) async fn run_attempt(
    context: Arc<WorkerContext>,
    lease: Lease,
    slot: OccupiedSlot,
    signals: DrainSignals,
) {
    let Some(snapshot) = context.topic_snapshot(&lease.task.topic) else {
        // The topic became external after the pull.
        settle_lease(&context.circuit, lease, Settlement::Release, &signals.stop_settling).await;
        return;
    };
    let cancelled = signals.stop_attempts.child_token();
    let _held = HeldLease::register(&context, slot, &lease, cancelled.clone());
    let result = execute_handler(&context, &snapshot, &lease, cancelled.clone(), &signals).await;
    if let Some(settlement) = choose_settlement(&snapshot, &lease, result, &cancelled, &signals) {
        let max = snapshot.config.results.max_result_bytes;
        let settlement = deliver_oversized(&context.circuit, &lease, settlement, max);
        settle_and_count(&context, lease, settlement, &signals).await;
    }
}

/// A held lease and its slot; dropping it ends the hold, then frees the slot.
struct HeldLease<'a> {
    context: &'a WorkerContext,
    lease_key: LeaseKey,
    slot: Option<OccupiedSlot>,
}

impl<'a> HeldLease<'a> {
    fn register(
        context: &'a WorkerContext,
        slot: OccupiedSlot,
        lease: &Lease,
        cancelled: CancellationToken,
    ) -> Self {
        let lease_key = context.held_leases.register(lease, cancelled);
        context.show_busy_workers();
        Self { context, lease_key, slot: Some(slot) }
    }
}

impl Drop for HeldLease<'_> {
    fn drop(&mut self) {
        self.context.held_leases.unregister(&self.lease_key);
        drop(self.slot.take());
        self.context.show_busy_workers();
    }
}

/// Runs the handler of an attempt under its deadline, and writes the progress that it reports.
async fn execute_handler(
    context: &WorkerContext,
    snapshot: &Snapshot,
    lease: &Lease,
    cancelled: CancellationToken,
    signals: &DrainSignals,
) -> Result<TaskAnswer, TaskFailure> {
    let task = &lease.task;
    let config = &snapshot.config;
    let timeout = config.topics.get(&task.topic).map_or(INTERRUPT_GRACE, |topic| topic.timeout);
    let interrupted = cancelled.clone();
    let mut attempt = TaskAttempt::new(task.clone(), lease.attempt, timeout, cancelled);
    attempt.progress_url = progress::build_progress_url(context, config, lease).await;
    let reports = attempt.subscribe_progress();
    let begun = Instant::now();
    let result = match context.handlers.build_handler(&task.topic, config) {
        Ok(handler) => tokio::select! {
            result = call_handler_guarded(handler.as_ref(), &attempt, signals) => result,
            never = progress::write_progress_reports(context, lease, reports) => match never {},
        },
        Err(failure) => Err(failure),
    };
    let took = begun.elapsed();
    context.metrics.observe_attempt_duration(task.topic.as_str(), took);
    if !interrupted.is_cancelled() {
        context.slots.record_run(&task.topic, took);
    }
    result.and_then(|answer| {
        let max = config.results.max_result_bytes;
        if answer.body.len() > max {
            Err(oversized_answer_failure(answer, max))
        } else {
            Ok(answer)
        }
    })
}

/// Calls the handler. A panic becomes a failure; a handler that still runs [`INTERRUPT_GRACE`]
/// after its interrupt, or when a drain drops attempts, is dropped.
async fn call_handler_guarded(
    handler: &dyn Handler,
    attempt: &TaskAttempt,
    signals: &DrainSignals,
) -> Result<TaskAnswer, TaskFailure> {
    let overdue = async {
        let reason = attempt.await_interrupt().await;
        let _ = signals.drop_attempts.run_until_cancelled(sleep(INTERRUPT_GRACE)).await;
        reason
    };
    tokio::select! {
        result = AssertUnwindSafe(handler.handle(attempt)).catch_unwind() => {
            result.unwrap_or_else(|panic| Err(panic_failure(panic.as_ref())))
        }
        reason = overdue => Err(attempt.interrupt_failure(reason)),
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

/// The settlement of a lease after an attempt; `None` if the lease is already lost or its task
/// cancelled.
fn choose_settlement(
    snapshot: &Snapshot,
    lease: &Lease,
    result: Result<TaskAnswer, TaskFailure>,
    cancelled: &CancellationToken,
    signals: &DrainSignals,
) -> Option<Settlement> {
    let ttl = snapshot.config.results.ttl;
    let failure = match result {
        Ok(answer) => return Some(Settlement::Complete { answer, ttl }),
        Err(_) if signals.stop_attempts.is_cancelled() => return Some(Settlement::Release),
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
    let (task_id, topic) = (&task.id, &task.topic);
    tracing::warn!(%task_id, %topic, attempt, kind, error, next, "attempt failed");
    Some(match decision {
        RetryDecision::Retry { delay } => {
            Settlement::Retry { failure, retry_at: unix_now().plus(delay) }
        }
        RetryDecision::Bury => Settlement::Bury { failure, ttl },
    })
}

/// The log text of a failure. It leaves out what a handler answered or printed, which can contain
/// secrets; operators find that in the task and its dead letter.
fn format_failure_for_log(failure: &TaskFailure) -> String {
    match (failure.kind, failure.answer.as_ref().and_then(|answer| answer.status)) {
        (FailureKind::FailedStatus | FailureKind::HandlerError, Some(status)) => {
            format!("it answered {status}")
        }
        (FailureKind::FailedStatus | FailureKind::HandlerError, None) => "see the task".to_owned(),
        _ => failure.message.clone(),
    }
}

/// Settles a lease, and counts the task if the settlement ended it.
async fn settle_and_count(
    context: &WorkerContext,
    lease: Lease,
    settlement: Settlement,
    signals: &DrainSignals,
) {
    let outcome = match &settlement {
        Settlement::Complete { .. } => Some(TaskOutcome::Completed),
        Settlement::Bury { .. } => Some(TaskOutcome::Failed),
        Settlement::Retry { .. } | Settlement::Release => None,
    };
    let Task { id, topic, route, .. } = lease.task.clone();
    let attempt = lease.attempt;
    let settled = settle_lease(&context.circuit, lease, settlement, &signals.stop_settling).await;
    if settled == Some(SettleResult::Fenced) {
        tracing::info!(
            task_id = %id, %topic, attempt,
            "attempt was fenced: its result does not count"
        );
    }
    let (Some(SettleResult::Applied), Some(outcome)) = (settled, outcome) else { return };
    tracing::debug!(task_id = %id, %topic, attempt, outcome = outcome.as_str(), "task ended");
    if outcome == TaskOutcome::Completed {
        context.metrics.count_task_processed(topic.as_str());
    } else {
        context.metrics.count_task_failed(topic.as_str());
    }
    if let Some(route) = route {
        context.metrics.count_task_outcome(&route, outcome);
    }
}
