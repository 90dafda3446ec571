//! An attempt as its handler sees it: the task, the deadline, the interrupt and the progress
//! reports.

use std::future::Future;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::task::{FailureKind, Task, TaskFailure, TaskProgress};

/// How long a handler may go on after its interrupt before it is dropped.
pub const INTERRUPT_GRACE: Duration = Duration::from_secs(3);

/// The header that carries [`TaskAttempt::idempotency_key`].
pub(super) const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// The header that carries the number of the attempt.
pub(super) const ATTEMPT_HEADER: &str = "x-omnidaemon-attempt";

/// The deadline of a timeout that is too long for the clock.
const UNBOUNDED_TIMEOUT: Duration = Duration::from_hours(24 * 365);

/// One attempt of a task, as its handler sees it.
#[derive(Clone, Debug)]
pub struct TaskAttempt {
    /// The task.
    pub task: Task,
    /// The number of the attempt, from 1; attempts of a worker that died count.
    pub number: u32,
    /// How long the attempt may take.
    pub timeout: Duration,
    /// When the attempt has taken that long.
    pub deadline: Instant,
    /// Cancelled when the result is not wanted any more: the task was cancelled, its lease was
    /// lost, or the process drains.
    pub cancelled: CancellationToken,
    /// The URL to which another process that works on the task can post progress.
    pub progress_url: Option<String>,
    progress_sender: watch::Sender<Option<TaskProgress>>,
}

/// Why an attempt must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptReason {
    /// The result is not wanted any more.
    Cancelled,
    /// The deadline has passed.
    Deadline,
}

// === impl TaskAttempt ===

impl TaskAttempt {
    /// Attempt `number` of `task`, which begins now.
    #[must_use]
    pub fn new(task: Task, number: u32, timeout: Duration, cancelled: CancellationToken) -> Self {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or_else(|| now + UNBOUNDED_TIMEOUT);
        let progress_sender = watch::Sender::new(None);
        Self { task, number, timeout, deadline, cancelled, progress_url: None, progress_sender }
    }

    /// Reports the completed `fraction`, 0 to 1, and a `note` that may be empty; clients that poll
    /// or watch the task see both. It may be called often: the last report is written about once a
    /// second.
    pub fn report_progress(&self, fraction: f64, note: &str) {
        if let Some(progress) = TaskProgress::new(fraction, Some(note)) {
            self.send_progress(progress);
        }
    }

    /// Reports progress that was already parsed.
    pub(super) fn send_progress(&self, progress: TaskProgress) {
        self.progress_sender.send_replace(Some(progress));
    }

    /// The reports of this attempt, always the last one.
    pub(crate) fn subscribe_progress(&self) -> watch::Receiver<Option<TaskProgress>> {
        self.progress_sender.subscribe()
    }

    /// Waits until the attempt must end.
    pub async fn await_interrupt(&self) -> InterruptReason {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => InterruptReason::Cancelled,
            () = sleep_until(self.deadline) => InterruptReason::Deadline,
        }
    }

    /// Runs `work` until the attempt must end; then drops it and fails.
    ///
    /// # Errors
    /// The errors of `work`; [`FailureKind::Deadline`] after the deadline.
    pub async fn run_until_interrupted<T>(
        &self,
        work: impl Future<Output = Result<T, TaskFailure>> + Send,
    ) -> Result<T, TaskFailure> {
        tokio::select! {
            result = work => result,
            reason = self.await_interrupt() => Err(self.interrupt_failure(reason)),
        }
    }

    /// The failure that an interrupted attempt ends with.
    #[must_use]
    pub fn interrupt_failure(&self, reason: InterruptReason) -> TaskFailure {
        match reason {
            InterruptReason::Cancelled => {
                TaskFailure::new(FailureKind::HandlerError, "the attempt was cancelled")
            }
            InterruptReason::Deadline => TaskFailure::new(
                FailureKind::Deadline,
                format!("no result within {:?} (topics.{}.timeout)", self.timeout, self.task.topic),
            ),
        }
    }

    /// A key that is the same for every attempt of the task: the client's `Idempotency-Key`, or the
    /// task's id.
    #[must_use]
    pub fn idempotency_key(&self) -> HeaderValue {
        let client_key = self
            .task
            .request
            .as_ref()
            .and_then(|request| request.headers.get(IDEMPOTENCY_KEY_HEADER));
        client_key.cloned().unwrap_or_else(|| {
            HeaderValue::from_str(self.task.id.as_str())
                .unwrap_or_else(|_| HeaderValue::from_static(""))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing;

    #[tokio::test]
    async fn subscribers_see_the_last_valid_progress_report() {
        let attempt = testing::test_attempt(testing::test_task(1, "t", "{}"));
        let mut reports = attempt.subscribe_progress();
        attempt.report_progress(f64::NAN, "lost");
        assert!(!reports.has_changed().expect("the attempt may still report"));
        attempt.report_progress(0.25, "page 1");
        attempt.clone().report_progress(0.5, "");
        assert_eq!(*reports.borrow_and_update(), TaskProgress::new(0.5, None));
    }
}
