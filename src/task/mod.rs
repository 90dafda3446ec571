//! The nouns of the task path: ids, topics, captured requests, answers, failures and records.
//!
//! Plain data, without clocks, sockets or serde. How a task is written down is the business of the
//! store (`store/envelope.rs`); how it is shown to a client is that of the proxy.

mod captured;
mod details;
mod duration_buckets;
mod id;
mod outcome;
mod progress;
mod record;
mod retry;
mod time;

pub use self::captured::{CapturedRequest, SHADOW_HEADER};
pub use self::details::{AttemptSummary, TaskDetails};
pub use self::duration_buckets::{
    DURATION_BUCKET_BOUNDS, DURATION_BUCKET_COUNT, DurationCounts, duration_bucket,
};
pub use self::id::{NameError, TaskId, Topic};
pub use self::outcome::{FailureKind, TaskAnswer, TaskFailure};
pub use self::progress::TaskProgress;
pub use self::record::{Task, TaskOwner, TaskRecord, TaskStatus};
pub use self::retry::{MAX_RETRY_DELAY, RetryDecision, decide_retry, retry_backoff};
pub use self::time::UnixMs;
