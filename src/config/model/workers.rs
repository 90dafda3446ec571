//! The sections `workers` and `results`.

use std::time::Duration;

/// `workers:`
#[derive(Clone, Debug, PartialEq)]
pub struct WorkersConfig {
    /// Workers; 0 runs none in this process.
    pub count: usize,
    /// The most tasks that each runs at a time, of all topics together; none: each topic's own
    /// `concurrency` is the only limit.
    pub concurrency: Option<usize>,
    /// How long running tasks may go on at shutdown.
    pub drain_timeout: Duration,
}

/// `results:`
#[derive(Clone, Debug, PartialEq)]
pub struct ResultsConfig {
    /// How long a finished task can be read.
    pub ttl: Duration,
    /// The largest result that is kept, bytes.
    pub max_result_bytes: usize,
}
