//! The time that rollouts go by: the store's, so that replicas whose own clocks differ agree on
//! windows and on when things happened. Durations are measured here (`lead.rs`), by a clock that
//! never jumps.
//!
//! Kept is how far the store is ahead, which every meeting says anew; without a store it is what it
//! was.

use crate::task::UnixMs;

/// A difference that is no news, ms: so much may one meeting say and the next one not.
const OFFSET_TOLERANCE_MS: u64 = 1000;

/// The store's clock as far as it is known, which at first is our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreClock {
    /// Milliseconds; negative where the store is behind.
    offset_ms: i64,
}

// === impl StoreClock ===

impl StoreClock {
    /// What it shows.
    #[must_use]
    pub fn now(self) -> UnixMs {
        self.to_store_time(jiff::Timestamp::now().into())
    }

    pub(super) fn update_offset(&mut self, ahead: i64) {
        if ahead.abs_diff(self.offset_ms) >= OFFSET_TOLERANCE_MS {
            self.offset_ms = ahead;
        }
    }

    fn to_store_time(self, ours: UnixMs) -> UnixMs {
        UnixMs(ours.0.saturating_add_signed(self.offset_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_store_and_does_not_tremble() {
        let mut clock = StoreClock::default();
        let shown = [400, 3_600_000, 3_599_500, -1_500, -800, 0].map(|ahead| {
            clock.update_offset(ahead);
            clock.to_store_time(UnixMs(10_000_000)).0 - 6_000_000
        });
        assert_eq!(shown, [4_000_000, 7_600_000, 7_600_000, 3_998_500, 3_998_500, 4_000_000]);
    }
}
