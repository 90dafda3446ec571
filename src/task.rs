//! The nouns of the task path: ids, topics, the captured request, the answer, the failure.
//!
//! Plain data, without clocks, sockets or serde: how a task is written down is the store's business
//! (`store/wire/envelope.rs`), how it looks to a client is the proxy's (`proxy/respond.rs`).

mod buckets;
mod life;
mod progress;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

pub use self::buckets::{
    DURATION_BUCKET_BOUNDS, DURATION_BUCKET_COUNT, DurationCounts, duration_bucket,
};
pub use self::life::{AttemptSummary, TaskDetails};
pub use self::progress::TaskProgress;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// This instant plus `delay`, saturating.
    #[must_use]
    pub fn plus(self, delay: Duration) -> Self {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// The time as RFC 3339 has it; none beyond the year 9999.
    #[must_use]
    pub fn to_rfc3339(self) -> Option<String> {
        let millis = i64::try_from(self.0).ok()?;
        jiff::Timestamp::from_millisecond(millis).ok().map(|time| time.to_string())
    }

    /// How long after `earlier` this instant is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<jiff::Timestamp> for UnixMs {
    /// Times before 1970 are 1970.
    fn from(time: jiff::Timestamp) -> Self {
        Self(u64::try_from(time.as_millisecond()).unwrap_or(0))
    }
}

/// Why a name from outside was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A task id with other characters, or of a wrong length.
    #[error("a task id is 1 to 128 characters of A-Z a-z 0-9 _ -")]
    TaskId,
    /// A topic with other characters, or of a wrong length.
    #[error("a topic is 1 to 200 characters of A-Z a-z 0-9 . _ -")]
    Topic,
}

/// A task's public name: ours are `task_` and a ULID (48 bits of milliseconds, 80 random bits), so
/// they sort by age and cannot be guessed; foreign ones match `[A-Za-z0-9_-]{1,128}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// The id made of a time and the low 80 bits of `random`.
    #[must_use]
    pub fn new(now: UnixMs, random: u128) -> Self {
        let ulid = ulid::Ulid::from_parts(now.0, random).to_string();
        Self(format!("task_{}", ulid.to_ascii_lowercase()).into())
    }

    /// Reads an id that came from outside.
    ///
    /// # Errors
    /// [`NameError::TaskId`] for anything that is not `[A-Za-z0-9_-]{1,128}`: checked before any
    /// key is built.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let well_formed = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if well_formed { Ok(Self(text.into())) } else { Err(NameError::TaskId) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A queue's name, `[A-Za-z0-9._-]{1,200}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Reads a topic.
    ///
    /// # Errors
    /// [`NameError::Topic`] for any other character or length.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let well_formed = (1..=200).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if well_formed { Ok(Self(text.into())) } else { Err(NameError::Topic) }
    }

    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a task stands, as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// Durable, and waiting for a worker or for its next attempt.
    Queued,
    /// A worker holds its lease.
    Processing,
    /// Ended with a result.
    Completed,
    /// Ended without one; it is also a dead letter.
    Failed,
    /// Ended by its owner before it completed.
    Cancelled,
}

impl TaskStatus {
    /// The word in `GET /task/<id>`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will change it any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// A request as the legacy upstream would have received it, kept to be replayed by a worker.
#[derive(Clone, PartialEq, Eq)]
pub struct CapturedRequest {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// All end-to-end headers, credentials included.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl fmt::Debug for CapturedRequest {
    /// Shows neither headers nor body: both can carry secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} bytes)", self.method, self.target, self.body.len())
    }
}

/// The header of a captured request that is a copy: its original was answered by the sync path.
pub const SHADOW_HEADER: &str = "x-omnidaemon-shadow";

/// A digest of the API key that created a task; only the same key may see it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskOwner(Arc<str>);

impl TaskOwner {
    /// Wraps the hex digest.
    #[must_use]
    pub fn from_digest(digest: &str) -> Self {
        Self(digest.into())
    }

    /// The hex digest.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TaskOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner(…)")
    }
}

/// A unit of work: what is stored at enqueue and what a handler gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// Its queue.
    pub topic: Topic,
    /// The payload as JSON text, UTF-8.
    pub payload: Bytes,
    /// The HTTP request it came from, where there was one.
    pub request: Option<CapturedRequest>,
    /// The caller's own id for it.
    pub correlation_id: Option<String>,
    /// The route it was canaried on; none for `/invoke/async` and the command line.
    pub route: Option<String>,
    /// The epoch of that route's rollout that it was accepted in, under which its end is counted;
    /// none is not counted.
    pub epoch: Option<u64>,
    /// The [group](crate::cohort::client_group) of the client that it is from, where that is
    /// known.
    pub client_group: Option<u8>,
    /// The key that may see it; none for a task created without one.
    pub owner: Option<TaskOwner>,
    /// Failed attempts after which it is a dead letter, less one: 0 is tried once.
    pub retries: u32,
    /// When it was accepted.
    pub created: UnixMs,
    /// When it may begin; at once if none.
    pub due: Option<UnixMs>,
    /// The URL that is told of its end.
    pub webhook: Option<String>,
    /// The topic that its result is sent to, as a new task.
    pub reply_to: Option<Topic>,
    /// The task whose result it is.
    pub causation_id: Option<String>,
}

impl Task {
    /// A task that is tried once, and nothing else about it.
    #[must_use]
    pub fn new(id: TaskId, topic: Topic, payload: impl Into<Bytes>, created: UnixMs) -> Self {
        Self {
            id,
            topic,
            payload: payload.into(),
            request: None,
            correlation_id: None,
            route: None,
            epoch: None,
            client_group: None,
            owner: None,
            retries: 0,
            created,
            due: None,
            webhook: None,
            reply_to: None,
            causation_id: None,
        }
    }

    /// Whether it is a copy of a request that the sync path served.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.headers.contains_key(SHADOW_HEADER))
    }
}

/// What a handler gives back.
#[derive(Clone, PartialEq, Eq)]
pub struct TaskAnswer {
    /// The HTTP status, where the handler spoke HTTP.
    pub status: Option<StatusCode>,
    /// End-to-end headers to give to a waiting client; empty unless `verbatim`.
    pub headers: HeaderMap,
    /// The body: anything when `verbatim`, else JSON text.
    pub body: Bytes,
    /// Whether a waiting client gets status, headers and body as they are; else 200 and the body
    /// as JSON.
    pub verbatim: bool,
}

impl TaskAnswer {
    /// An answer that is JSON and nothing else.
    #[must_use]
    pub fn from_json(body: impl Into<Bytes>) -> Self {
        Self { status: None, headers: HeaderMap::new(), body: body.into(), verbatim: false }
    }
}

impl fmt::Debug for TaskAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({:?}, {} bytes)", self.status, self.body.len())
    }
}

/// Why an attempt, or in the end the task, did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The attempt ran into the topic's `timeout`.
    Deadline,
    /// The handler could not be reached.
    Unreachable,
    /// The handler answered with a status that counts as failed.
    FailedStatus,
    /// The handler was reached and broke off, or what it sent is no valid answer.
    BrokenExchange,
    /// The handler ran and failed: exit status, an error of its own. The message is its own too.
    HandlerError,
    /// Workers died while running it.
    WorkerCrash,
    /// The result cannot be kept: over `results.max_result`, or not readable.
    UnusableResult,
    /// What was queued cannot be read as a task.
    Malformed,
    /// What was queued is gone: another program took it off the queue.
    LostFromQueue,
}

impl FailureKind {
    /// The word it is stored as.
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

    /// The kind stored as `word`; an unknown word (of a later release) is `Handler`.
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

/// A failed attempt: the reason for people, and the last answer for the waiting client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// What went wrong, for programs.
    pub kind: FailureKind,
    /// What went wrong, for people.
    pub message: String,
    /// The answer that counted as failed, where there was one.
    pub answer: Option<TaskAnswer>,
}

impl TaskFailure {
    /// A failure without an answer.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), answer: None }
    }

    /// Whether another attempt could end differently.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(self.kind, FailureKind::UnusableResult | FailureKind::Malformed)
    }
}

/// A task as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    /// Its name.
    pub id: TaskId,
    /// Its queue.
    pub topic: Topic,
    /// Where it stands.
    pub status: TaskStatus,
    /// Attempts begun so far.
    pub attempts: u32,
    /// The key that may see it.
    pub owner: Option<TaskOwner>,
    /// When it was accepted.
    pub created: UnixMs,
    /// When it may begin, where it waits for that.
    pub due: Option<UnixMs>,
    /// When it ended.
    pub finished: Option<UnixMs>,
    /// The result, when completed.
    pub answer: Option<TaskAnswer>,
    /// The last failure; final when `status` is failed.
    pub failure: Option<TaskFailure>,
    /// How far the running attempt has come, where it says so.
    pub progress: Option<TaskProgress>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_prefixed_sort_by_time_and_read_back() {
        let early = TaskId::new(UnixMs(1_700_000_000_000), 7);
        let late = TaskId::new(UnixMs(1_700_000_000_001), 3);
        assert!(early.as_str().starts_with("task_") && early < late);
        assert_eq!(TaskId::parse(early.as_str()), Ok(early));
    }

    #[test]
    fn names_from_outside_are_refused_before_they_become_keys() {
        for bad in ["", "a b", "../x", "task*", "a/b", &"x".repeat(129)] {
            assert_eq!(TaskId::parse(bad), Err(NameError::TaskId), "{bad}");
        }
        for bad in ["", "a b", "t*", "a/b", "a:b", &"x".repeat(201)] {
            assert_eq!(Topic::parse(bad), Err(NameError::Topic), "{bad}");
        }
        assert!(Topic::parse("genesis.meta.orchestrate").is_ok());
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer canary-secret".parse().expect("a header value"));
        let request = CapturedRequest {
            method: Method::POST,
            target: "/invoke".into(),
            headers,
            body: Bytes::from_static(b"canary-secret"),
        };
        assert!(!format!("{request:?}").contains("canary-secret"));
        assert!(
            !format!("{:?}", TaskOwner::from_digest("canary-secret")).contains("canary-secret")
        );
    }
}
