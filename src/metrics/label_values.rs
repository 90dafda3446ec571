//! The values of the labels that do not come from the configuration: closed sets, each an enum.

/// The `route` label of requests that match no route.
pub const UNMATCHED_ROUTE_LABEL: &str = "_other";
/// The `route` label of requests for the task endpoints.
pub const TASKS_ROUTE_LABEL: &str = "_tasks";

/// The `kind` labels of deliveries.
pub(super) const DELIVERY_KINDS: [&str; 2] = ["webhook", "reply"];
/// The `outcome` labels of delivery tries.
pub(super) const DELIVERY_OUTCOMES: [&str; 3] = ["delivered", "retried", "dropped"];
/// The `mode` labels of calls of a deprecated route.
pub(super) const DEPRECATION_MODES: [&str; 3] = ["announce", "redirect", "gone"];
/// The `outcome` labels of requests with an idempotency key.
pub(super) const IDEMPOTENCY_OUTCOMES: [&str; 5] =
    ["claimed", "replayed", "conflict", "mismatch", "unclaimed"];

/// The reason why a request of the async cohort was served on the sync path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackReason {
    /// The request cannot be captured.
    Ineligible,
    /// The body is over `max_body`, or over the memory that is left for bodies.
    BodyTooLarge,
    /// The store cannot be reached.
    StoreUnavailable,
    /// No consumer of the topic is live.
    NoWorker,
    /// The task is expected to start later than `max_start_delay`.
    Saturated,
    /// The queue has reached `max_backlog`.
    Backpressure,
    /// The store refused the task.
    StoreRefused,
    /// The connection to the store broke before it confirmed that the task is durable.
    EnqueueUnknown,
}

impl FallbackReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Ineligible,
        Self::BodyTooLarge,
        Self::NoWorker,
        Self::Saturated,
        Self::StoreUnavailable,
        Self::Backpressure,
        Self::StoreRefused,
        Self::EnqueueUnknown,
    ];

    /// The `reason` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ineligible => "ineligible",
            Self::BodyTooLarge => "body_too_large",
            Self::StoreUnavailable => "store_unavailable",
            Self::NoWorker => "no_worker",
            Self::Saturated => "saturated",
            Self::Backpressure => "backpressure",
            Self::StoreRefused => "store_refused",
            Self::EnqueueUnknown => "unknown",
        }
    }
}

/// How a canaried request ended, or which answer its client got before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// The task completed.
    Completed,
    /// The task failed for good.
    Failed,
    /// The task was cancelled.
    Cancelled,
    /// The wait was over: the client got a 202 and polls.
    Deferred,
    /// The store refused the task, or did not confirm it and the route is configured to report
    /// that (`on_unknown: refuse`).
    Refused,
    /// The proxy answered with a 4xx: the envelope names something that is not configured, or the
    /// body did not arrive.
    Rejected,
}

impl TaskOutcome {
    pub(super) const ALL: [Self; 6] = [
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Deferred,
        Self::Refused,
        Self::Rejected,
    ];

    /// The `outcome` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
        }
    }
}

/// The outcome of a request that was picked for shadow traffic, or of its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowOutcome {
    /// The copy was queued as a task; its outcome is counted as well.
    Queued,
    /// The copy's answer equals the original one.
    Match,
    /// The copy's answer differs, or did not arrive in time.
    Mismatch,
    /// The request cannot be copied.
    Ineligible,
    /// There is no sync answer to compare with: the sync path failed, or the client disconnected.
    NoSyncAnswer,
    /// The sync path's answer is compressed.
    CompressedAnswer,
    /// The sync path's answer is over `results.max_result`.
    AnswerTooLarge,
    /// Too many copies are in flight, or they hold too much memory.
    TooManyCopies,
    /// The store cannot be reached.
    StoreUnavailable,
    /// The queue has reached the backlog up to which copies are accepted.
    Backpressure,
    /// The store refused the copy.
    StoreRefused,
    /// The copy was cancelled, or the store lost it.
    CopyLost,
    /// This process is shutting down.
    Draining,
}

impl ShadowOutcome {
    pub(super) const ALL: [Self; 13] = [
        Self::Queued,
        Self::Match,
        Self::Mismatch,
        Self::Ineligible,
        Self::NoSyncAnswer,
        Self::CompressedAnswer,
        Self::AnswerTooLarge,
        Self::TooManyCopies,
        Self::StoreUnavailable,
        Self::Backpressure,
        Self::StoreRefused,
        Self::CopyLost,
        Self::Draining,
    ];

    /// The `outcome` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Match => "match",
            Self::Mismatch => "mismatch",
            Self::Ineligible => "ineligible",
            Self::NoSyncAnswer => "unanswered",
            Self::CompressedAnswer => "encoded",
            Self::AnswerTooLarge => "too_large",
            Self::TooManyCopies => "crowded",
            Self::StoreUnavailable => "store_unavailable",
            Self::Backpressure => "backpressure",
            Self::StoreRefused => "store_refused",
            Self::CopyLost => "lost",
            Self::Draining => "draining",
        }
    }
}
