//! The median duration of the calls of the last ten minutes, from counters that only grow.

use std::collections::VecDeque;
use std::time::Duration;

use crate::task::{DURATION_BUCKET_BOUNDS, DURATION_BUCKET_COUNT, DurationCounts};

/// The interval between two readings.
const READING_INTERVAL: Duration = Duration::from_secs(30);
/// How many readings back the comparison goes: ten minutes.
const MAX_READINGS: usize = 20;
/// The number of calls from which their median is relied upon.
const MIN_CALLS: u64 = 20;

/// Readings of the duration counters of one route and path.
#[derive(Debug, Default)]
pub(super) struct RecentDurations {
    /// The oldest first.
    readings: VecDeque<DurationCounts>,
    /// When the newest reading was made, as the time since the process started.
    last_reading: Option<Duration>,
}

impl RecentDurations {
    /// The median of the calls since about ten minutes before `uptime`, where there were 20; else
    /// of all calls of this process, where there were so many. `counts` are the counters now.
    pub(super) fn update_median(
        &mut self,
        uptime: Duration,
        counts: DurationCounts,
    ) -> Option<Duration> {
        if self.last_reading.is_none_or(|last| uptime.saturating_sub(last) >= READING_INTERVAL) {
            self.last_reading = Some(uptime);
            self.readings.push_back(counts);
            if self.readings.len() > MAX_READINGS {
                self.readings.pop_front();
            }
        }
        let oldest = self.readings.front().copied().unwrap_or([0; DURATION_BUCKET_COUNT]);
        let recent = std::array::from_fn(|bucket| counts[bucket].saturating_sub(oldest[bucket]));
        median(&recent).or_else(|| median(&counts))
    }
}

/// The median of at least 20 durations, interpolated within its bucket.
fn median(counts: &DurationCounts) -> Option<Duration> {
    let total: u64 = counts.iter().sum();
    if total < MIN_CALLS {
        return None;
    }
    let (mut below, half) = (0, total.div_ceil(2));
    for (bucket, count) in counts.iter().enumerate() {
        if below + count >= half {
            let low = bucket.checked_sub(1).map_or(0.0, |last| DURATION_BUCKET_BOUNDS[last]);
            let high = DURATION_BUCKET_BOUNDS.get(bucket).copied().unwrap_or(low);
            #[allow(clippy::cast_precision_loss)] // counts are far below 2^52
            let share = (half - below) as f64 / *count as f64;
            return Duration::try_from_secs_f64(low + (high - low) * share).ok();
        }
        below += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::duration_bucket;

    fn counts(durations: &[(u64, u64)]) -> DurationCounts {
        let mut counts = [0; DURATION_BUCKET_COUNT];
        for (millis, calls) in durations {
            counts[duration_bucket(Duration::from_millis(*millis))] += calls;
        }
        counts
    }

    #[test]
    fn the_median_of_few_calls_is_not_known() {
        assert_eq!(median(&counts(&[(860, 19)])), None);
        let median = median(&counts(&[(860, 20)])).expect("known");
        assert_eq!(median, Duration::from_millis(750), "halfway between the bounds 0.5 and 1");
        let of_slow = super::median(&counts(&[(4_000_000, 20)]));
        assert_eq!(of_slow, Some(Duration::from_hours(1)), "the last bound");
    }

    #[test]
    fn calls_of_more_than_ten_minutes_ago_count_only_without_recent_ones() {
        let (mut durations, minute) = (RecentDurations::default(), Duration::from_mins(1));
        let slow = counts(&[(9_000, 1000)]);
        assert!(durations.update_median(Duration::ZERO, slow) > Some(Duration::from_secs(5)));
        let both = counts(&[(9_000, 1000), (80, 40)]);
        let recent = durations.update_median(minute, both).expect("known");
        assert!(recent < Duration::from_millis(100), "{recent:?}");
        for half_minute in 0..60 {
            durations.update_median(minute + Duration::from_secs(30) * half_minute, both);
        }
        let later = durations.update_median(minute * 60, both).expect("known");
        assert!(later > Duration::from_secs(5), "no recent call: {later:?}");
    }
}
