//! What runs a task: the trait, one attempt as a handler sees it, and the configured handlers.
//!
//! A handler is built per attempt from the configuration of that moment, so an edit counts for the
//! next attempt and a running one keeps its own. It is told of its deadline and of a cancellation
//! through [`Attempt::interrupted`]; one that goes on regardless is dropped [`GRACE`] later.

mod client;
mod command;
mod http;
mod registry;
mod upstream;

use std::future::Future;
use std::time::Duration;

use ::http::HeaderValue;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::client::probe_upstream;
pub use self::registry::HandlerRegistry;
use crate::task::{FailureKind, Task, TaskAnswer, TaskFailure, TaskProgress};

/// How long a handler may take to end after it was interrupted.
pub const INTERRUPT_GRACE: Duration = Duration::from_secs(3);

/// The deadline of a timeout that no clock can hold.
const UNBOUNDED_TIMEOUT: Duration = Duration::from_hours(24 * 365);

/// The most of an upstream's answer that is read, bytes, where `results.max_result` is less: what
/// is too large to be kept still goes to the client that waits for it.
const MAX_UPSTREAM_ANSWER: usize = 64 << 20;

/// The header that carries [`Attempt::idempotency_key`].
const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// Runs the tasks of a topic.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Runs one attempt. It may run more than once for a task: [`TaskAttempt::idempotency_key`]
    /// says which belong together.
    async fn handle(&self, attempt: &TaskAttempt) -> Result<TaskAnswer, TaskFailure>;
}

/// One run of a task.
#[derive(Clone, Debug)]
pub struct TaskAttempt {
    /// The task.
    pub task: Task,
    /// Which run it is, from 1; runs that a dying worker lost count.
    pub number: u32,
    /// How long it may take.
    pub timeout: Duration,
    /// When it has taken that long.
    pub deadline: Instant,
    /// Cancelled when its result is not wanted any more: the task was cancelled, its lease lost,
    /// or the process drains.
    pub cancelled: CancellationToken,
    /// Where another process that works on it can say how far it has come.
    pub progress_url: Option<String>,
    progress_sender: watch::Sender<Option<TaskProgress>>,
}

/// Why an attempt should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptReason {
    /// Its result is not wanted any more.
    Cancelled,
    /// It has taken too long.
    Deadline,
}

// === impl Attempt ===

impl TaskAttempt {
    /// An attempt that begins now.
    #[must_use]
    pub fn new(task: Task, number: u32, timeout: Duration, cancelled: CancellationToken) -> Self {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or_else(|| now + UNBOUNDED_TIMEOUT);
        let progress_sender = watch::Sender::new(None);
        Self { task, number, timeout, deadline, cancelled, progress_url: None, progress_sender }
    }

    /// Says how far it has come, from 0 to 1, and in words where `note` is not empty: those who
    /// poll or watch the task are shown it. Costs nothing to call often: the last is written,
    /// about once a second.
    pub fn report_progress(&self, fraction: f64, note: &str) {
        if let Some(progress) = TaskProgress::new(fraction, Some(note)) {
            self.send_progress(progress);
        }
    }

    /// [`Self::progress`], as it was read.
    fn send_progress(&self, progress: TaskProgress) {
        self.progress_sender.send_replace(Some(progress));
    }

    /// Hears what it says.
    pub(super) fn subscribe_progress(&self) -> watch::Receiver<Option<TaskProgress>> {
        self.progress_sender.subscribe()
    }

    /// Waits until the attempt should end.
    pub async fn await_interrupt(&self) -> InterruptReason {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => InterruptReason::Cancelled,
            () = sleep_until(self.deadline) => InterruptReason::Deadline,
        }
    }

    /// Does `work` until the attempt should end; then drops it and fails.
    ///
    /// # Errors
    /// Those of `work`; [`FailureKind::Deadline`] past the deadline.
    pub async fn run_until_interrupted<T>(
        &self,
        work: impl Future<Output = Result<T, TaskFailure>> + Send,
    ) -> Result<T, TaskFailure> {
        tokio::select! {
            done = work => done,
            why = self.await_interrupt() => Err(self.interrupt_failure(why)),
        }
    }

    /// The failure that an interrupted attempt ends with.
    #[must_use]
    pub fn interrupt_failure(&self, why: InterruptReason) -> TaskFailure {
        match why {
            InterruptReason::Cancelled => {
                TaskFailure::new(FailureKind::HandlerError, "the attempt was cancelled")
            }
            InterruptReason::Deadline => TaskFailure::new(
                FailureKind::Deadline,
                format!("no result within {:?} (topics.{}.timeout)", self.timeout, self.task.topic),
            ),
        }
    }

    /// The same for every run of the task: the client's `Idempotency-Key`, else the
    /// task's id.
    #[must_use]
    pub fn idempotency_key(&self) -> HeaderValue {
        let clients = self
            .task
            .request
            .as_ref()
            .and_then(|request| request.headers.get(IDEMPOTENCY_KEY_HEADER));
        clients.cloned().unwrap_or_else(|| {
            HeaderValue::from_str(self.task.id.as_str())
                .unwrap_or_else(|_| HeaderValue::from_static(""))
        })
    }
}

/// The failure of a result that is too large to keep.
pub(super) fn oversized_result_failure(max_result: usize) -> TaskFailure {
    let message =
        format!("the result is over {max_result} bytes: raise results.max_result, or return less");
    TaskFailure::new(FailureKind::UnusableResult, message)
}

/// A result as JSON: itself where it is JSON, nothing as null, else a string of it.
fn to_json_body(body: &Bytes) -> Bytes {
    let text = body.trim_ascii();
    if text.is_empty() {
        return Bytes::from_static(b"null");
    }
    if serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok() {
        return body.slice_ref(text);
    }
    let text = String::from_utf8_lossy(body);
    serde_json::to_vec(text.trim_end_matches(['\r', '\n']))
        .map_or_else(|_| Bytes::from_static(b"null"), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing;

    #[tokio::test]
    async fn the_last_that_a_handler_says_of_its_progress_is_heard_and_no_nonsense() {
        let attempt = testing::test_attempt(testing::test_task(1, "t", "{}"));
        let mut said = attempt.subscribe_progress();
        attempt.report_progress(f64::NAN, "lost");
        assert!(!said.has_changed().expect("it may still speak"));
        attempt.report_progress(0.25, "page 1");
        attempt.clone().report_progress(0.5, "");
        assert_eq!(*said.borrow_and_update(), TaskProgress::new(0.5, None));
    }

    #[test]
    fn results_become_json_and_json_keeps_its_spelling() {
        for (given, kept) in [
            ("{\"a\": 1.0e2}\n", "{\"a\": 1.0e2}"),
            ("", "null"),
            (" \n", "null"),
            ("plain text\n", "\"plain text\""),
            ("{\"half\":", "\"{\\\"half\\\":\""),
        ] {
            assert_eq!(to_json_body(&Bytes::from(given)), Bytes::from(kept), "{given:?}");
        }
        assert_eq!(to_json_body(&Bytes::from_static(b"\xff")), Bytes::from("\"\u{fffd}\""));
    }
}
