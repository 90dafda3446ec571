//! How an attempt ends: the answer of the handler, or the failure with its kind.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// The result that a handler returned.
#[derive(Clone, PartialEq, Eq)]
pub struct TaskAnswer {
    /// The HTTP status, if the handler answered over HTTP.
    pub status: Option<StatusCode>,
    /// End-to-end headers for a waiting client; empty unless `verbatim`.
    pub headers: HeaderMap,
    /// The body: any bytes when `verbatim`, else JSON text.
    pub body: Bytes,
    /// Whether a waiting client gets headers and body unchanged; otherwise it gets the body as
    /// JSON. The status is `status` in either case, and 200 without one.
    pub verbatim: bool,
}

impl TaskAnswer {
    /// An answer of JSON text alone.
    #[must_use]
    pub fn from_json(body: impl Into<Bytes>) -> Self {
        Self { status: None, headers: HeaderMap::new(), body: body.into(), verbatim: false }
    }
}

impl fmt::Debug for TaskAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskAnswer({:?}, {} bytes)", self.status, self.body.len())
    }
}

/// The machine-readable reason of a failed attempt or task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The attempt exceeded the topic's `timeout`.
    Deadline,
    /// The handler could not be reached.
    Unreachable,
    /// The handler answered with a retryable status, which counts as failed.
    FailedStatus,
    /// The exchange with the handler broke off, or its answer was not valid HTTP.
    BrokenExchange,
    /// The handler ran and reported a failure: a failed exit status or an error. The message is
    /// the handler's.
    HandlerError,
    /// The workers that ran the task died.
    WorkerCrash,
    /// The result cannot be stored: it is over `results.max_result`, or cannot be read.
    UnusableResult,
    /// The queued entry is not a readable task.
    Malformed,
    /// Another program removed the task from the queue.
    LostFromQueue,
}

impl FailureKind {
    /// The stored word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Unreachable => "unreachable",
            Self::FailedStatus => "status",
            Self::BrokenExchange => "broken",
            Self::HandlerError => "handler",
            Self::WorkerCrash => "crash",
            Self::UnusableResult => "result",
            Self::Malformed => "malformed",
            Self::LostFromQueue => "lost",
        }
    }

    /// The kind that is stored as `word`; an unknown word, as of a later release, is read as
    /// [`Self::HandlerError`].
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        [
            Self::Deadline,
            Self::Unreachable,
            Self::FailedStatus,
            Self::BrokenExchange,
            Self::WorkerCrash,
            Self::UnusableResult,
            Self::Malformed,
            Self::LostFromQueue,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == word)
        .unwrap_or(Self::HandlerError)
    }
}

/// A failed attempt: its reason, and the answer that a waiting client may still get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// The machine-readable reason.
    pub kind: FailureKind,
    /// The reason in words.
    pub message: String,
    /// The answer that counted as failed, if there was one.
    pub answer: Option<TaskAnswer>,
    /// The least time that the handler asks to wait before another attempt; not stored.
    pub retry_after: Option<Duration>,
}

impl TaskFailure {
    /// A failure without an answer.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), answer: None, retry_after: None }
    }

    /// Whether another attempt could succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(self.kind, FailureKind::UnusableResult | FailureKind::Malformed)
    }
}
