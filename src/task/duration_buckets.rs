//! The duration buckets that histograms, rollout evidence and gates share.

use std::time::Duration;

/// Upper bounds of the buckets, seconds; one more bucket holds what is over the last bound.
pub const DURATION_BUCKET_BOUNDS: [f64; 20] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
    600.0, 1200.0, 1800.0, 3600.0,
];

/// The number of buckets: one per bound, and one over the last bound.
pub const DURATION_BUCKET_COUNT: usize = DURATION_BUCKET_BOUNDS.len() + 1;

/// Counts of durations, one per bucket (not cumulative).
pub type DurationCounts = [u64; DURATION_BUCKET_COUNT];

/// The index of the bucket of `took`; a bucket includes its upper bound.
#[must_use]
pub fn duration_bucket(took: Duration) -> usize {
    let seconds = took.as_secs_f64();
    DURATION_BUCKET_BOUNDS.partition_point(|bound| *bound < seconds)
}
