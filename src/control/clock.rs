//! The time that rollouts go by: the store's, so that replicas whose own clocks differ agree on windows and on when things
//! happened. Durations are measured here (`lead.rs`), by a clock that never jumps.
//!
//! Kept is how far the store is ahead, which every meeting says anew; without a store it is what it was.

use crate::task::UnixMs;

/// A difference that is no news, ms: so much may one meeting say and the next one not.
const SAME: u64 = 1000;

/// The store's clock as far as it is known, which at first is our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreClock {
    /// Milliseconds; negative where the store is behind.
    ahead: i64,
}

// === impl StoreClock ===

impl StoreClock {
    /// What it shows.
    #[must_use]
    pub fn now(self) -> UnixMs {
        self.at(jiff::Timestamp::now().into())
    }

    pub(super) fn learn(&mut self, ahead: i64) {
        if ahead.abs_diff(self.ahead) >= SAME {
            self.ahead = ahead;
        }
    }

    fn at(self, ours: UnixMs) -> UnixMs {
        UnixMs(ours.0.saturating_add_signed(self.ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_store_and_does_not_tremble() {
        let mut clock = StoreClock::default();
        let shown = [400, 3_600_000, 3_599_500, -1_500, -800, 0].map(|ahead| {
            clock.learn(ahead);
            clock.at(UnixMs(10_000_000)).0 - 6_000_000
        });
        assert_eq!(shown, [4_000_000, 7_600_000, 7_600_000, 3_998_500, 3_998_500, 4_000_000]);
    }
}
