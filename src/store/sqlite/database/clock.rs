//! The two clocks of the SQLite store.
//!
//! Stored times (`created`, the start of a retry, expiry) are wall time. Leases and heartbeats
//! belong to this process and use a steady time that never jumps: a laptop that wakes up, or a
//! corrected system clock, must not expire the leases of running tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::task::UnixMs;

/// The system's clocks with an offset that a test can add; clones share the offset.
#[derive(Clone, Debug)]
pub struct SqliteClock {
    start: Instant,
    offset_ms: Arc<AtomicU64>,
}

// === impl SqliteClock ===

impl SqliteClock {
    /// Moves both times ahead.
    pub fn advance(&self, by: Duration) {
        self.offset_ms
            .fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The wall time.
    #[must_use]
    pub fn wall_time(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).plus(self.offset())
    }

    /// The time since this clock was created. It never goes back or jumps.
    #[must_use]
    pub fn steady_time(&self) -> Duration {
        self.start.elapsed() + self.offset()
    }

    fn offset(&self) -> Duration {
        Duration::from_millis(self.offset_ms.load(Ordering::Relaxed))
    }
}

impl Default for SqliteClock {
    fn default() -> Self {
        Self { start: Instant::now(), offset_ms: Arc::default() }
    }
}
