//! The sections `workers` and `results`.

use std::time::Duration;

/// `workers:`
#[derive(Clone, Debug, PartialEq)]
pub struct WorkersConfig {
    /// The number of workers; with 0 this process runs no tasks.
    pub count: usize,
    /// The most tasks that each runs at a time, of all topics together; none: each topic's own
    /// `concurrency` is the only limit.
    pub concurrency: Option<usize>,
    /// How long running tasks may continue at shutdown before they are interrupted.
    pub drain_timeout: Duration,
}

/// `results:`
#[derive(Clone, Debug, PartialEq)]
pub struct ResultsConfig {
    /// How long the result of a task is kept after its end.
    pub ttl: Duration,
    /// The largest result that is stored, in bytes.
    pub max_result_bytes: usize,
}
