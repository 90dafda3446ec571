//! Requests that were assigned to the async path and served sync all the same, by reason.

use std::collections::BTreeMap;

use crate::metrics::FallbackReason;

/// Counts of fallbacks by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FallbackCounts([u64; FallbackReason::ALL.len()]);

// === impl FallbackCounts ===

impl FallbackCounts {
    /// The counts that `count_of` gives for each reason.
    #[must_use]
    pub fn from_counts(count_of: impl Fn(FallbackReason) -> u64) -> Self {
        let mut counts = Self::default();
        for reason in FallbackReason::ALL {
            counts.0[reason as usize] = count_of(reason);
        }
        counts
    }

    /// The fallbacks for one reason.
    #[must_use]
    pub fn count_for(&self, reason: FallbackReason) -> u64 {
        self.0[reason as usize]
    }

    /// The reasons that have fallbacks, with their number.
    pub fn nonzero_counts(&self) -> impl Iterator<Item = (FallbackReason, u64)> {
        let counts = FallbackReason::ALL.map(|reason| (reason, self.count_for(reason)));
        counts.into_iter().filter(|(_, count)| *count > 0)
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        *self = Self::from_counts(|reason| self.count_for(reason) + other.count_for(reason));
    }

    /// The counts since `earlier`; zero where counts were lost.
    #[must_use]
    pub fn delta_since(&self, earlier: &Self) -> Self {
        Self::from_counts(|reason| self.count_for(reason).saturating_sub(earlier.count_for(reason)))
    }

    /// The counts by the word of their reason, without zeros.
    #[must_use]
    pub fn to_words(&self) -> BTreeMap<String, u64> {
        self.nonzero_counts().map(|(reason, count)| (reason.as_str().to_owned(), count)).collect()
    }

    /// The reverse of [`Self::to_words`]; words of another release are left out.
    #[must_use]
    pub fn from_words(words: &BTreeMap<String, u64>) -> Self {
        Self::from_counts(|reason| words.get(reason.as_str()).copied().unwrap_or_default())
    }
}
