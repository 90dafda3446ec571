//! Durations and shares as text, in one form for explanations, reports, API and command line.

use std::time::Duration;

/// A duration by its two largest units: `2 d 4 h`, `1 h 5 min`, `6 min`, `42 s`, `250 ms`.
#[must_use]
pub fn format_span(time: Duration) -> String {
    if time > Duration::ZERO && time < Duration::from_secs(1) {
        return format!("{} ms", time.as_millis());
    }
    let seconds = time.as_secs_f64().round();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // never negative; saturates at the largest u64
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(minutes, "min", seconds % 60, "s"),
        3600..172_800 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// A duration that was configured or compared: not rounded between one second and one minute, as in
/// `1.5 s`; all others as by [`format_span`].
#[must_use]
pub fn format_exact_span(time: Duration) -> String {
    if (1_000..60_000).contains(&time.as_millis()) && !time.as_millis().is_multiple_of(1_000) {
        return format!("{} s", time.as_secs_f64());
    }
    format_span(time)
}

/// A share (1 is all) in percent, with up to three significant digits: `97.1 %`, `0.25 %`, `1 %`.
#[must_use]
pub fn format_share(share: f64) -> String {
    let percent = share * 100.0;
    let rounded = if percent.abs() < 1.0 {
        (percent * 100.0).round() / 100.0
    } else {
        (percent * 10.0).round() / 10.0
    };
    format!("{rounded} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        let shown = [0, 42, 60, 390, 3600, 3900, 172_799, 172_800, 190_000]
            .map(|s| format_span(Duration::from_secs(s)));
        assert_eq!(
            shown,
            [
                "0 s",
                "42 s",
                "1 min",
                "6 min 30 s",
                "1 h",
                "1 h 5 min",
                "47 h 59 min",
                "2 d",
                "2 d 4 h"
            ]
        );
        assert_eq!(
            [59_700, 250].map(|ms| format_span(Duration::from_millis(ms))),
            ["1 min", "250 ms"]
        );
        let exact = [250, 1_500, 30_200, 59_999, 42_000, 125_400]
            .map(|ms| format_exact_span(Duration::from_millis(ms)));
        assert_eq!(exact, ["250 ms", "1.5 s", "30.2 s", "59.999 s", "42 s", "2 min 5 s"]);
    }

    #[test]
    fn shares_are_short() {
        assert_eq!(
            [0.0, 0.01, 0.971, 0.0025, 1.0].map(format_share),
            ["0 %", "1 %", "97.1 %", "0.25 %", "100 %"]
        );
    }
}
