//! One leased attempt from start to settlement.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::handler::{Attempt, GRACE, Handler};
use super::live::Holding;
use super::now;
use super::pool::{Shared, Stop};
use super::progress;
use super::retry::{Decision, decide};
use super::settle::{hand_over, settle};
use crate::metrics::TaskOutcome;
use crate::snapshot::Snapshot;
use crate::store::{Lease, Settled, Settlement};
use crate::task::{Answer, Failure, FailureKind, Task};

/// Runs a leased task and settles its lease.
pub(super) async fn run(shared: Arc<Shared>, lease: Lease, stop: Stop) {
    let Some(snapshot) = shared.snapshot_of(&lease.task.topic) else {
        // Its topic became external between the pull and now.
        settle(&shared.circuit, lease, Settlement::Release, &stop.settling).await;
        return;
    };
    let cancelled = stop.running.child_token();
    let _slot = Slot::take(&shared, &lease, cancelled.clone());
    let result = execute(&shared, &snapshot, &lease, cancelled.clone()).await;
    if let Some(settlement) = follow_up(&snapshot, &lease, result, &cancelled, &stop) {
        let settlement = hand_over(&shared.circuit, &lease, settlement, snapshot.config.results.max_result);
        finish(&shared, lease, settlement, &stop).await;
    }
}

/// A busy slot, whose lease is renewed; free when dropped.
struct Slot<'a> {
    shared: &'a Shared,
    holding: Holding,
}

impl<'a> Slot<'a> {
    fn take(shared: &'a Shared, lease: &Lease, cancelled: CancellationToken) -> Self {
        shared.metrics.workers_busy.inc();
        Self { shared, holding: shared.live.hold(lease, cancelled) }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.shared.live.release(&self.holding);
        self.shared.metrics.workers_busy.dec();
    }
}

/// Runs the handler: within its deadline, and whatever it does.
async fn execute(
    shared: &Shared,
    snapshot: &Snapshot,
    lease: &Lease,
    cancelled: CancellationToken,
) -> Result<Answer, Failure> {
    let task = &lease.task;
    let config = &snapshot.config;
    let timeout = config.topics.get(&task.topic).map_or(GRACE, |topic| topic.timeout);
    let mut attempt = Attempt::new(task.clone(), lease.attempt, timeout, cancelled);
    attempt.progress_url = progress::url(shared, config, lease).await;
    let begun = Instant::now();
    let result = match shared.handlers.build(&task.topic, config) {
        Ok(handler) => tokio::select! {
            result = guarded(handler.as_ref(), &attempt) => result,
            never = progress::pass_on(shared, lease, attempt.said()) => match never {},
        },
        Err(failure) => Err(failure),
    };
    shared.metrics.attempt_took(task.topic.as_str(), begun.elapsed());
    result.and_then(|answer| {
        let max = config.results.max_result;
        if answer.body.len() > max { Err(over(answer, max)) } else { Ok(answer) }
    })
}

/// The failure of an answer that is too large to be kept; it goes along for a client that waits for it.
fn over(answer: Answer, max: usize) -> Failure {
    let size = answer.body.len();
    let message =
        format!("the answer of {size} bytes is over results.max_result ({max} bytes): raise it, or return less");
    Failure { answer: Some(answer), ..Failure::new(FailureKind::Result, message) }
}

/// The handler's result; its panic is a failure, and one that ignores its interruption is dropped.
async fn guarded(handler: &dyn Handler, attempt: &Attempt) -> Result<Answer, Failure> {
    let overdue = async {
        let why = attempt.interrupted().await;
        sleep(GRACE).await;
        why
    };
    tokio::select! {
        done = AssertUnwindSafe(handler.handle(attempt)).catch_unwind() => {
            done.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
        }
        why = overdue => Err(attempt.failure(why)),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(FailureKind::Handler, format!("the handler panicked: {}", text.unwrap_or("without a message")))
}

/// How the lease ends; none when it is lost already.
fn follow_up(
    snapshot: &Snapshot,
    lease: &Lease,
    result: Result<Answer, Failure>,
    cancelled: &CancellationToken,
    stop: &Stop,
) -> Option<Settlement> {
    let ttl = snapshot.config.results.ttl;
    let failure = match result {
        Ok(answer) => return Some(Settlement::Complete { answer, ttl }),
        Err(_) if stop.running.is_cancelled() => return Some(Settlement::Release),
        Err(_) if cancelled.is_cancelled() => return None,
        Err(failure) => failure,
    };
    let task = &lease.task;
    let base = snapshot.config.topics.get(&task.topic).map(|topic| topic.retry_delay).unwrap_or_default();
    let decision = decide(&failure, lease.attempt, task.retries, base, rand::random());
    let next = match decision {
        Decision::Retry { delay } => format!("again in {delay:?}"),
        Decision::Bury => "none, it is a dead letter".to_owned(),
    };
    let (attempt, kind, error) = (lease.attempt, failure.kind.as_str(), loggable(&failure));
    tracing::warn!(task_id = %task.id, topic = %task.topic, attempt, kind, error, next, "attempt failed");
    Some(match decision {
        Decision::Retry { delay } => Settlement::Retry { failure, at: now().plus(delay) },
        Decision::Bury => Settlement::Bury { failure, ttl },
    })
}

/// What the log may say of a failure: not what a handler answered or printed, which can be anything. Operators find
/// that with the task and its dead letter.
fn loggable(failure: &Failure) -> String {
    match (failure.kind, failure.answer.as_ref().and_then(|answer| answer.status)) {
        (FailureKind::Status | FailureKind::Handler, Some(status)) => format!("it answered {status}"),
        (FailureKind::Status | FailureKind::Handler, None) => "see the task".to_owned(),
        _ => failure.message.clone(),
    }
}

/// Settles, and counts the task if that ended it.
async fn finish(shared: &Shared, lease: Lease, settlement: Settlement, stop: &Stop) {
    let outcome = match &settlement {
        Settlement::Complete { .. } => Some(TaskOutcome::Completed),
        Settlement::Bury { .. } => Some(TaskOutcome::Failed),
        Settlement::Retry { .. } | Settlement::Release => None,
    };
    let Task { id, topic, route, .. } = lease.task.clone();
    let attempt = lease.attempt;
    let settled = settle(&shared.circuit, lease, settlement, &stop.settling).await;
    if settled == Some(Settled::Fenced) {
        tracing::info!(task_id = %id, %topic, attempt, "attempt was fenced: its result does not count");
    }
    let (Some(Settled::Applied), Some(outcome)) = (settled, outcome) else { return };
    tracing::debug!(task_id = %id, %topic, attempt, outcome = outcome.as_str(), "task ended");
    if outcome == TaskOutcome::Completed {
        shared.metrics.task_processed(topic.as_str());
    } else {
        shared.metrics.task_failed(topic.as_str());
    }
    if let Some(route) = route {
        shared.metrics.task_outcome(&route, outcome);
    }
}
