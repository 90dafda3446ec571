//! What comes of requests that shadow traffic picks.

/// What came of a picked request, or of the copy that was made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowOutcome {
    /// Its copy became a task; what came of that is counted too.
    Queued,
    /// The copy's answer is the same.
    Match,
    /// It is another, or none came in time.
    Mismatch,
    /// Not a request that can be copied.
    Ineligible,
    /// The sync path gave no answer to compare with: it failed, or the client left.
    NoSyncAnswer,
    /// The sync path's answer is compressed.
    CompressedAnswer,
    /// The sync path's answer is over `results.max_result`.
    AnswerTooLarge,
    /// Too many copies are under way, or they hold too much.
    TooManyCopies,
    /// The store is gone.
    StoreUnavailable,
    /// As much as copies may add to waits already.
    Backpressure,
    /// The store is there and took nothing in.
    StoreRefused,
    /// The copy was cancelled, or the store lost it.
    CopyLost,
    /// This process is ending.
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
