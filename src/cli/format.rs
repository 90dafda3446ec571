//! Values of tables as text: numbers, times, and `-` for an absent value.

use std::fmt::Display;

/// A value as text; `-` for none.
pub(super) fn format_optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A number, rounded to the hundredth.
pub(super) fn format_decimal(number: f64) -> String {
    ((number * 100.0).round() / 100.0).to_string()
}

/// Milliseconds since the Unix epoch as a UTC time, to the second.
pub(super) fn format_utc_seconds(millis: Option<u64>) -> String {
    parse_utc_millis(millis).map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"))
}

/// Milliseconds since the Unix epoch as a UTC time, to the millisecond.
pub(super) fn format_utc_millis(millis: Option<u64>) -> String {
    parse_utc_millis(millis).map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
}

fn parse_utc_millis(millis: Option<u64>) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_millisecond(i64::try_from(millis?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_and_times_are_in_utc() {
        assert_eq!([10.0, 0.123_456, 7.0].map(format_decimal), ["10", "0.12", "7"]);
        assert_eq!(
            (format_optional(None::<u32>), format_optional(Some(3))),
            ("-".into(), "3".into())
        );
        assert_eq!(format_utc_seconds(Some(1_500)), "1970-01-01T00:00:01Z");
        assert_eq!(format_utc_millis(Some(1_500)), "1970-01-01T00:00:01.500Z");
        assert_eq!(format_utc_millis(None), "-");
    }
}
