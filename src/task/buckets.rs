//! How durations are counted: in buckets, which histograms, evidence and gates share.

use std::time::Duration;

/// Upper bounds of the buckets, seconds; one more bucket is over the last.
pub const DURATION_BUCKET_BOUNDS: [f64; 20] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
    600.0, 1200.0, 1800.0, 3600.0,
];

/// How many buckets there are: one per bound, and one over the last.
pub const DURATION_BUCKET_COUNT: usize = DURATION_BUCKET_BOUNDS.len() + 1;

/// Requests by how long they took, one count per bucket (not cumulative).
pub type DurationCounts = [u64; DURATION_BUCKET_COUNT];

/// The bucket of a duration: a bound belongs to the bucket that it ends.
#[must_use]
pub fn duration_bucket(took: Duration) -> usize {
    let seconds = took.as_secs_f64();
    DURATION_BUCKET_BOUNDS.partition_point(|bound| *bound < seconds)
}
