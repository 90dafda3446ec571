//! How durations are counted: in buckets, which histograms, evidence and gates share.

/// Upper bounds of the buckets, seconds; one more bucket is over the last.
pub const DURATION_BUCKETS: [f64; 20] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
    1800.0, 3600.0,
];
