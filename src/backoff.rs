//! Exponential backoff: how long to wait between repeated tries.
//!
//! The delay starts at a first value and doubles with each try up to a maximum. Tries that fail
//! together should not be repeated together: [`full_jitter`] spreads them over the whole delay, as
//! in <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>. Everything here
//! is pure: the caller passes the random number and sleeps.

use std::time::Duration;

/// A first delay that doubles up to a maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackoffPolicy {
    first: Duration,
    max: Duration,
}

impl BackoffPolicy {
    /// A policy whose delays are `first`, `2 * first`, `4 * first` and so on, `max` at most.
    #[must_use]
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// The delay after try number `attempt`, counted from 1.
    #[must_use]
    pub(crate) fn delay_for(self, attempt: u32) -> Duration {
        let factor = 2u32.saturating_pow(attempt.saturating_sub(1));
        self.first.saturating_mul(factor).min(self.max)
    }

    /// The delay after the first try.
    #[must_use]
    pub(crate) fn first_delay(self) -> Duration {
        self.delay_for(1)
    }

    /// The delay that follows a delay of `previous`.
    #[must_use]
    pub(crate) fn next_delay(self, previous: Duration) -> Duration {
        previous.saturating_mul(2).min(self.max)
    }
}

/// A uniformly drawn share of `delay`, both ends included, in whole milliseconds. `random` is any
/// uniformly distributed number.
#[must_use]
pub(crate) fn full_jitter(delay: Duration, random: u64) -> Duration {
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % millis.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: BackoffPolicy =
        BackoffPolicy::new(Duration::from_secs(5), Duration::from_hours(1));

    #[test]
    fn delays_double_up_to_the_maximum() {
        let seconds = [0, 1, 2, 3, 10, 11, u32::MAX].map(|n| POLICY.delay_for(n).as_secs());
        assert_eq!(seconds, [5, 5, 10, 20, 2560, 3600, 3600]);
        let over = BackoffPolicy::new(Duration::from_hours(2), Duration::from_hours(1));
        assert_eq!(over.first_delay(), Duration::from_hours(1));
    }

    #[test]
    fn full_jitter_can_draw_every_delay_from_zero_to_the_whole() {
        let delay = Duration::from_secs(5);
        let drawn = [0, 5_000, 5_001].map(|random| full_jitter(delay, random).as_millis());
        assert_eq!(drawn, [0, 5_000, 0]);
        assert_eq!(full_jitter(Duration::ZERO, u64::MAX), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn stepping_and_counting_give_the_same_delays(
            first in 1u64..10_000, max in 1u64..100_000_000, tries in 1u32..40
        ) {
            let [first, max] = [first, max].map(Duration::from_millis);
            let policy = BackoffPolicy::new(first, max);
            let stepped = (1..tries)
                .fold(policy.first_delay(), |previous, _| policy.next_delay(previous));
            prop_assert_eq!(stepped, policy.delay_for(tries));
        }

        #[test]
        fn jitter_never_exceeds_the_delay(millis in 0u64..1 << 40, random: u64) {
            let delay = Duration::from_millis(millis);
            prop_assert!(full_jitter(delay, random) <= delay);
        }
    }
}
