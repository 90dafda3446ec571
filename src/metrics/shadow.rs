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
    Unanswered,
    /// The sync path's answer is compressed.
    Encoded,
    /// The sync path's answer is over `results.max_result`.
    TooLarge,
    /// Too many copies are under way, or they hold too much.
    Crowded,
    /// The store is gone.
    StoreUnavailable,
    /// As much as copies may add to waits already.
    Backpressure,
    /// The store is there and took nothing in.
    StoreRefused,
    /// The copy was cancelled, or the store lost it.
    Lost,
    /// This process is ending.
    Draining,
}

impl ShadowOutcome {
    pub(super) const ALL: [Self; 13] = [
        Self::Queued,
        Self::Match,
        Self::Mismatch,
        Self::Ineligible,
        Self::Unanswered,
        Self::Encoded,
        Self::TooLarge,
        Self::Crowded,
        Self::StoreUnavailable,
        Self::Backpressure,
        Self::StoreRefused,
        Self::Lost,
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
            Self::Unanswered => "unanswered",
            Self::Encoded => "encoded",
            Self::TooLarge => "too_large",
            Self::Crowded => "crowded",
            Self::StoreUnavailable => "store_unavailable",
            Self::Backpressure => "backpressure",
            Self::StoreRefused => "store_refused",
            Self::Lost => "lost",
            Self::Draining => "draining",
        }
    }
}
