//! Times as Redis and its scripts take them: durations in milliseconds, instants in seconds.
//!
//! Scripts get durations and add them to the server's clock, so that the clocks of the processes
//! need not agree.

use std::time::Duration;

use crate::task::UnixMs;

/// The longest duration that a script adds to the present, ms.
const MAX_DELAY_MS: u64 = 1 << 52;

/// The present, by the clock of this process.
pub(crate) fn unix_now() -> UnixMs {
    jiff::Timestamp::now().into()
}

/// The milliseconds until `at`, by the clock of this process, which chose `at`; a script adds them
/// to its own time.
pub(crate) fn millis_until(at: UnixMs) -> u64 {
    as_millis_u64(at.since(unix_now())).min(MAX_DELAY_MS)
}

/// A duration in whole milliseconds, saturating.
pub(crate) fn as_millis_u64(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time to live in the range that Redis takes: from 1 ms to what it can add to the present.
pub(crate) fn clamp_ttl_ms(ttl: Duration) -> u64 {
    as_millis_u64(ttl).clamp(1, MAX_DELAY_MS)
}

/// Seconds since 1970, as Python writes times.
#[allow(clippy::cast_precision_loss)] // exact up to the year 287,000
pub(crate) fn to_unix_seconds(time: UnixMs) -> f64 {
    time.0 as f64 / 1000.0
}

/// The time that Python wrote as seconds since 1970; an earlier one becomes 1970.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturating, and never negative
pub(crate) fn from_unix_seconds(seconds: f64) -> UnixMs {
    UnixMs((seconds * 1000.0).round().max(0.0) as u64)
}

/// By how many milliseconds another clock is ahead of ours at least (negative: behind), where it
/// showed `other` at some time between `sent` and `answered` of our clock.
pub(crate) fn min_clock_ahead_ms(other: UnixMs, sent: UnixMs, answered: UnixMs) -> i64 {
    let since = |earlier: UnixMs| other.0.wrapping_sub(earlier.0).cast_signed();
    if other > answered { since(answered) } else { since(sent).min(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_only_by_what_the_round_trip_does_not_explain() {
        let ahead =
            |told, sent, answered| min_clock_ahead_ms(UnixMs(told), UnixMs(sent), UnixMs(answered));
        assert_eq!([ahead(150, 100, 200), ahead(100, 100, 200), ahead(200, 100, 200)], [0; 3]);
        assert_eq!((ahead(5000, 100, 200), ahead(100, 5000, 6000)), (4800, -4900));
    }
}
