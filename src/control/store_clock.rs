//! The clock that rollouts use: the store's, so that replicas whose own clocks differ agree on
//! promotion windows and on the times of events. Durations do not use it: the leader measures them
//! with a monotonic clock.
//!
//! Every replica sync brings the difference between the store's clock and this machine's. While
//! the store is unreachable the last difference stays in use.

use crate::task::UnixMs;

/// A change of the difference that is ignored, ms: measurements vary by less than that.
const OFFSET_TOLERANCE_MS: u64 = 1000;

/// The store's clock, as far as it is known; before the first replica sync, this machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreClock {
    /// Milliseconds that the store's clock is ahead; negative where it is behind.
    offset_ms: i64,
}

// === impl StoreClock ===

impl StoreClock {
    /// The store's present time.
    #[must_use]
    pub fn now(self) -> UnixMs {
        self.to_store_time(jiff::Timestamp::now().into())
    }

    pub(super) fn update_offset(&mut self, ahead_ms: i64) {
        if ahead_ms.abs_diff(self.offset_ms) >= OFFSET_TOLERANCE_MS {
            self.offset_ms = ahead_ms;
        }
    }

    fn to_store_time(self, own_time: UnixMs) -> UnixMs {
        UnixMs(own_time.0.saturating_add_signed(self.offset_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_store_and_ignores_small_changes() {
        let mut clock = StoreClock::default();
        let times = [400, 3_600_000, 3_599_500, -1_500, -800, 0].map(|ahead| {
            clock.update_offset(ahead);
            clock.to_store_time(UnixMs(10_000_000)).0 - 6_000_000
        });
        assert_eq!(times, [4_000_000, 7_600_000, 7_600_000, 3_998_500, 3_998_500, 4_000_000]);
    }
}
