//! `rollout.windows`: the days and hours of a time zone in which a weight may be raised.
//!
//! Pure: the current time is an argument. A window is open at every instant whose wall-clock time
//! in its zone lies inside the window. So a window in an hour that daylight saving skips does not
//! open that day, and one in an hour that is repeated opens twice.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How many days the search for the next opening covers: more than a week, since a zone may skip a
/// day.
const OPENING_SEARCH_DAYS: usize = 15;

/// One of `rollout.windows`.
#[derive(Clone, Debug, PartialEq)]
pub struct PromotionWindow {
    /// The days on which the window opens, from 0 for Monday, in order.
    pub weekdays: Vec<u8>,
    /// Minutes of the day: the first one inside the window and the first one after it. A window
    /// over midnight has the first value above the second, and belongs to the day that it begins
    /// on.
    pub minutes_of_day: (u16, u16),
    /// The time zone of days and hours.
    pub time_zone: TimeZone,
}

/// Whether a weight may be raised now: in one of the windows, or always where there are none.
#[must_use]
pub fn is_promotion_allowed(windows: &[PromotionWindow], now: Timestamp) -> bool {
    windows.is_empty() || windows.iter().any(|window| window.is_open_at(now))
}

/// The next time at which a weight may be raised; none when it may be raised now.
#[must_use]
pub fn next_promotion_opening(windows: &[PromotionWindow], now: Timestamp) -> Option<Timestamp> {
    if is_promotion_allowed(windows, now) {
        return None;
    }
    windows.iter().filter_map(|window| window.next_opening_after(now)).min()
}

// === impl PromotionWindow ===

impl PromotionWindow {
    fn is_open_at(&self, now: Timestamp) -> bool {
        let local = self.time_zone.to_datetime(now);
        let day = local.weekday().to_monday_zero_offset().unsigned_abs();
        let minute =
            u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let (from, to) = self.minutes_of_day;
        if from < to {
            return self.weekdays.contains(&day) && (from..to).contains(&minute);
        }
        let day_before = (day + 6) % 7;
        (minute >= from && self.weekdays.contains(&day))
            || (minute < to && self.weekdays.contains(&day_before))
    }

    /// The next opening: the wall clock reaches the window's first minute, or is set to a time
    /// inside the window.
    fn next_opening_after(&self, now: Timestamp) -> Option<Timestamp> {
        let clock_set = self.time_zone.following(now).take(2).map(|change| change.timestamp());
        let today = self.time_zone.to_datetime(now).date();
        let days =
            std::iter::successors(Some(today), |day| day.tomorrow().ok()).take(OPENING_SEARCH_DAYS);
        let begins = days.flat_map(|day| {
            let begin = self.time_zone.to_ambiguous_timestamp(day.to_datetime(self.opening_time()));
            [begin.earlier(), begin.later()].into_iter().flatten()
        });
        clock_set.chain(begins).filter(|at| *at > now && self.is_open_at(*at)).min()
    }

    fn opening_time(&self) -> jiff::civil::Time {
        let part = |minutes: u16| i8::try_from(minutes).unwrap_or_default();
        jiff::civil::Time::new(
            part(self.minutes_of_day.0 / 60),
            part(self.minutes_of_day.0 % 60),
            0,
            0,
        )
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn test_window(days: &[u8], hours: (u16, u16), zone: &str) -> PromotionWindow {
        PromotionWindow {
            weekdays: days.to_vec(),
            minutes_of_day: hours,
            time_zone: TimeZone::get(zone).expect("a zone"),
        }
    }

    fn parse_time(time: &str) -> Timestamp {
        time.parse().expect("a time")
    }

    const WORKDAYS: [u8; 5] = [0, 1, 2, 3, 4];

    #[test]
    fn without_windows_it_is_always_open() {
        assert!(is_promotion_allowed(&[], parse_time("2026-11-28T03:00:00Z")));
        assert_eq!(next_promotion_opening(&[], parse_time("2026-11-28T03:00:00Z")), None);
    }

    #[test]
    fn office_hours_follow_the_wall_clock_of_their_zone() {
        let office = [test_window(&WORKDAYS, (9 * 60, 17 * 60), "Europe/Berlin")];
        for (time, open) in [
            ("2026-11-27T09:00:00+01:00", true),
            ("2026-11-27T16:59:59+01:00", true),
            ("2026-11-27T17:00:00+01:00", false),
            ("2026-11-27T08:59:59+01:00", false),
            ("2026-11-28T12:00:00+01:00", false),
            // The same hour of UTC is inside the window in summer, and before it in winter.
            ("2026-07-01T07:30:00Z", true),
            ("2026-12-01T07:30:00Z", false),
        ] {
            assert_eq!(is_promotion_allowed(&office, parse_time(time)), open, "{time}");
        }
        assert_eq!(next_promotion_opening(&office, parse_time("2026-11-27T12:00:00+01:00")), None);
        let monday = parse_time("2026-11-30T09:00:00+01:00");
        assert_eq!(
            next_promotion_opening(&office, parse_time("2026-11-27T17:00:00+01:00")),
            Some(monday)
        );
        // The clocks are set over the weekend.
        assert_eq!(
            next_promotion_opening(&office, parse_time("2027-03-26T18:00:00+01:00")),
            Some(parse_time("2027-03-29T09:00:00+02:00"))
        );
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_that_it_begins_on() {
        let night = [test_window(&[4], (22 * 60, 6 * 60), "UTC")];
        for (time, open) in [
            ("2026-11-27T21:59:00Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T05:59:00Z", true),
            ("2026-11-28T06:00:00Z", false),
            ("2026-11-28T22:00:00Z", false),
            ("2026-11-27T03:00:00Z", false),
        ] {
            assert_eq!(is_promotion_allowed(&night, parse_time(time)), open, "{time}");
        }
        assert_eq!(
            next_promotion_opening(&night, parse_time("2026-11-28T06:00:00Z")),
            Some(parse_time("2026-12-04T22:00:00Z"))
        );
    }

    #[test]
    fn an_hour_that_the_clock_skips_never_comes_and_one_that_it_repeats_comes_twice() {
        let sunday = |hours| [test_window(&[6], hours, "Europe/Berlin")];
        // 2027-03-28: the clock goes from 02:00 to 03:00.
        let skipped = sunday((2 * 60, 3 * 60));
        assert_eq!(
            next_promotion_opening(&skipped, parse_time("2027-03-27T12:00:00Z")),
            Some(parse_time("2027-04-04T02:00:00+02:00"))
        );
        let begins_in_it = sunday((2 * 60 + 30, 4 * 60));
        assert_eq!(
            next_promotion_opening(&begins_in_it, parse_time("2027-03-27T12:00:00Z")),
            Some(parse_time("2027-03-28T01:00:00Z"))
        );
        // 2026-10-25: after 02:59 comes 02:00 again.
        let repeated = sunday((2 * 60, 2 * 60 + 30));
        assert!(is_promotion_allowed(&repeated, parse_time("2026-10-25T02:10:00+02:00")));
        assert!(!is_promotion_allowed(&repeated, parse_time("2026-10-25T02:40:00+02:00")));
        let again = parse_time("2026-10-25T02:00:00+01:00");
        assert_eq!(
            next_promotion_opening(&repeated, parse_time("2026-10-25T02:40:00+02:00")),
            Some(again)
        );
    }

    #[test]
    fn the_window_that_opens_first_is_the_next_one() {
        let windows =
            [test_window(&[0], (600, 660), "UTC"), test_window(&[5], (600, 660), "Asia/Tokyo")];
        let friday = parse_time("2026-11-27T12:00:00Z");
        assert_eq!(
            next_promotion_opening(&windows, friday),
            Some(parse_time("2026-11-28T10:00:00+09:00"))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Compared with a search over every minute; the transitions of these zones are at whole
        /// minutes.
        #[test]
        fn the_next_opening_is_the_first_minute_that_is_open(
            start in 0i64..(365 * 24 * 60), from in 0u16..1440, length in 1u16..1440, day in 0u8..7,
            zone in prop_oneof![Just("Europe/Berlin"), Just("America/Sao_Paulo"),
            Just("Australia/Lord_Howe"), Just("UTC")],
        ) {
            let windows = [test_window(&[day], (from, (from + length) % 1440), zone)];
            let first_minute = parse_time("2017-10-01T00:00:00Z").as_second() / 60;
            let minute =
                |n: i64| Timestamp::from_second((first_minute + n) * 60).expect("a time");
            let found = next_promotion_opening(&windows, minute(start));
            let first_allowed = (start..start + 15 * 24 * 60)
                .map(minute)
                .find(|at| is_promotion_allowed(&windows, *at));
            let allowed_now = is_promotion_allowed(&windows, minute(start));
            prop_assert_eq!(found.or_else(|| allowed_now.then(|| minute(start))), first_allowed);
        }
    }
}
