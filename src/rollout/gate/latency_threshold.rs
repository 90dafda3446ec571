//! The sync path's p95, rounded up to a bucket bound: what a step calls slow.

use std::time::Duration;

use crate::rollout::evidence::{EvidenceCounts, count_slower_than};
use crate::task::DURATION_BUCKET_BOUNDS;

/// Percent of the sync requests that may be slower than the threshold.
const SLOW_PERCENT: u64 = 5;

/// The lowest threshold, in seconds. The queue adds some milliseconds to every call, which would be
/// a regression of an upstream that answers in less, and which no client notices.
const LOWEST_THRESHOLD_SECS: f64 = 0.1;

/// What is slow in a step: the sync path's p95 as a bucket bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyThreshold {
    /// A bound of [`DURATION_BUCKET_BOUNDS`].
    pub threshold: Duration,
    /// The epoch in which it was taken.
    pub epoch: u64,
}

// === impl LatencyThreshold ===

impl LatencyThreshold {
    /// The smallest bucket bound that 95 % of the sync requests do not exceed, and at least 100 ms;
    /// none for fewer than `min_requests` requests, of which 0 asks for no comparison.
    #[must_use]
    pub fn from_sync_counts(
        counts: &EvidenceCounts,
        min_requests: u64,
        epoch: u64,
    ) -> Option<Self> {
        let total: u64 = counts.durations.iter().sum();
        if min_requests == 0 || total < min_requests {
            return None;
        }
        let holds =
            |bound: f64| !is_slower_than_p95(count_slower_than(&counts.durations, bound), total);
        let bounds = DURATION_BUCKET_BOUNDS.iter().copied();
        let bound =
            bounds.filter(|bound| *bound >= LOWEST_THRESHOLD_SECS).find(|bound| holds(*bound));
        let [.., longest] = DURATION_BUCKET_BOUNDS;
        Some(Self { threshold: Duration::from_secs_f64(bound.unwrap_or(longest)), epoch })
    }
}

/// Whether so many slow requests are more than 5 % of `total`.
pub(super) fn is_slower_than_p95(slow: u64, total: u64) -> bool {
    slow * 100 > total * SLOW_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::duration_bucket;

    /// Sync requests by their duration in milliseconds.
    fn threshold_of(requests: &[(u64, u64)]) -> Option<u128> {
        let mut counts = EvidenceCounts::default();
        for (millis, requests) in requests {
            counts.durations[duration_bucket(Duration::from_millis(*millis))] += requests;
        }
        LatencyThreshold::from_sync_counts(&counts, 300, 7).map(|found| found.threshold.as_millis())
    }

    #[test]
    fn the_threshold_is_the_smallest_bucket_bound_that_is_no_less_than_the_p95() {
        assert_eq!(threshold_of(&[(400, 285), (900, 15)]), Some(500));
        assert_eq!(threshold_of(&[(400, 284), (900, 16)]), Some(1_000));
        assert_eq!(threshold_of(&[(400, 299)]), None, "too few");
        assert_eq!(threshold_of(&[(2, 300)]), Some(100), "the queue's own time is no regression");
        assert_eq!(threshold_of(&[(9_000_000, 300)]), Some(3_600_000));
    }
}
