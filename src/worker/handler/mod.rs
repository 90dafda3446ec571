//! What runs a task: the trait, one attempt as a handler sees it, and the configured handlers.
//!
//! A handler is built per attempt from the configuration of that moment, so an edit counts for the next
//! attempt and a running one keeps its own. It is told of its deadline and of a cancellation through
//! [`Attempt::interrupted`]; one that goes on regardless is dropped [`GRACE`] later.

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

pub use self::client::probe;
pub use self::registry::Handlers;
use crate::task::{Answer, Failure, FailureKind, Progress, Task};

/// How long a handler may take to end after it was interrupted.
pub const GRACE: Duration = Duration::from_secs(3);

/// The deadline of a timeout that no clock can hold.
const YEAR: Duration = Duration::from_hours(24 * 365);

/// The most of an upstream's answer that is read, bytes, where `results.max_result` is less: what is too large to
/// be kept still goes to the client that waits for it.
const LARGEST_ANSWER: usize = 64 << 20;

/// The header that carries [`Attempt::idempotency_key`].
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Runs the tasks of a topic.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Runs one attempt. It may run more than once for a task: [`Attempt::idempotency_key`] says which belong together.
    async fn handle(&self, attempt: &Attempt) -> Result<Answer, Failure>;
}

/// One run of a task.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The task.
    pub task: Task,
    /// Which run it is, from 1; runs that a dying worker lost count.
    pub number: u32,
    /// How long it may take.
    pub timeout: Duration,
    /// When it has taken that long.
    pub deadline: Instant,
    /// Cancelled when its result is not wanted any more: the task was cancelled, its lease lost, or the process drains.
    pub cancelled: CancellationToken,
    /// Where another process that works on it can say how far it has come.
    pub progress_url: Option<String>,
    said: watch::Sender<Option<Progress>>,
}

/// Why an attempt should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Its result is not wanted any more.
    Cancelled,
    /// It has taken too long.
    Deadline,
}

// === impl Attempt ===

impl Attempt {
    /// An attempt that begins now.
    #[must_use]
    pub fn new(task: Task, number: u32, timeout: Duration, cancelled: CancellationToken) -> Self {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or_else(|| now + YEAR);
        let said = watch::Sender::new(None);
        Self { task, number, timeout, deadline, cancelled, progress_url: None, said }
    }

    /// Says how far it has come, from 0 to 1, and in words where `note` is not empty: those who poll or watch the task
    /// are shown it. Costs nothing to call often: the last is written, about once a second.
    pub fn progress(&self, fraction: f64, note: &str) {
        if let Some(progress) = Progress::new(fraction, Some(note)) {
            self.say(progress);
        }
    }

    /// [`Self::progress`], as it was read.
    fn say(&self, progress: Progress) {
        self.said.send_replace(Some(progress));
    }

    /// Hears what it says.
    pub(super) fn said(&self) -> watch::Receiver<Option<Progress>> {
        self.said.subscribe()
    }

    /// Waits until the attempt should end.
    pub async fn interrupted(&self) -> Interrupt {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Interrupt::Cancelled,
            () = sleep_until(self.deadline) => Interrupt::Deadline,
        }
    }

    /// Does `work` until the attempt should end; then drops it and fails.
    ///
    /// # Errors
    /// Those of `work`; [`FailureKind::Deadline`] past the deadline.
    pub async fn within<T>(&self, work: impl Future<Output = Result<T, Failure>> + Send) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            why = self.interrupted() => Err(self.failure(why)),
        }
    }

    /// The failure that an interrupted attempt ends with.
    #[must_use]
    pub fn failure(&self, why: Interrupt) -> Failure {
        match why {
            Interrupt::Cancelled => Failure::new(FailureKind::Handler, "the attempt was cancelled"),
            Interrupt::Deadline => Failure::new(
                FailureKind::Deadline,
                format!("no result within {:?} (topics.{}.timeout)", self.timeout, self.task.topic),
            ),
        }
    }

    /// The same for every run of the task: the client's `Idempotency-Key`, else the task's id.
    #[must_use]
    pub fn idempotency_key(&self) -> HeaderValue {
        let clients = self.task.request.as_ref().and_then(|request| request.headers.get(IDEMPOTENCY_KEY));
        clients.cloned().unwrap_or_else(|| {
            HeaderValue::from_str(self.task.id.as_str()).unwrap_or_else(|_| HeaderValue::from_static(""))
        })
    }
}

/// The failure of a result that is too large to keep.
pub(super) fn too_large(max_result: usize) -> Failure {
    let message = format!("the result is over {max_result} bytes: raise results.max_result, or return less");
    Failure::new(FailureKind::Result, message)
}

/// A result as JSON: itself where it is JSON, nothing as null, else a string of it.
fn as_json(body: &Bytes) -> Bytes {
    let text = body.trim_ascii();
    if text.is_empty() {
        return Bytes::from_static(b"null");
    }
    if serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok() {
        return body.slice_ref(text);
    }
    let text = String::from_utf8_lossy(body);
    serde_json::to_vec(text.trim_end_matches(['\r', '\n'])).map_or_else(|_| Bytes::from_static(b"null"), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing;

    #[tokio::test]
    async fn the_last_that_a_handler_says_of_its_progress_is_heard_and_no_nonsense() {
        let attempt = testing::attempt(testing::task(1, "t", "{}"));
        let mut said = attempt.said();
        attempt.progress(f64::NAN, "lost");
        assert!(!said.has_changed().expect("it may still speak"));
        attempt.progress(0.25, "page 1");
        attempt.clone().progress(0.5, "");
        assert_eq!(*said.borrow_and_update(), Progress::new(0.5, None));
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
            assert_eq!(as_json(&Bytes::from(given)), Bytes::from(kept), "{given:?}");
        }
        assert_eq!(as_json(&Bytes::from_static(b"\xff")), Bytes::from("\"\u{fffd}\""));
    }
}
