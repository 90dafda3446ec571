//! Parsers of scalar values: numbers, durations, sizes, shares, names, times and tokens.
//!
//! A parser takes only the text of the value, and returns the value or a [`FieldError`]. For an
//! empty text its hint must describe the values that it accepts: `section.rs` shows that hint when
//! a value is missing.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::config::Secret;
use crate::config::diagnostics::quote_for_message;
use crate::config::parse::field_error::{FieldError, suggest};
use crate::task::Topic;

/// Parses a whole number from `low` to `high`.
pub(crate) fn count_between<T>(low: T, high: T) -> impl Fn(&str) -> Result<T, FieldError>
where
    T: FromStr + PartialOrd + Display + Copy,
{
    move |text| {
        let hint = format!("write a whole number from {low} to {high}");
        match text.parse::<T>() {
            Ok(number) if number < low => {
                Err(FieldError::new(format!("{number} is below {low}"), hint))
            }
            Ok(number) if number > high => {
                Err(FieldError::new(format!("{number} is over {high}"), hint))
            }
            Ok(number) => Ok(number),
            Err(_) => Err(FieldError::new(
                format!("{} is not a whole number in range", quote_for_message(text)),
                hint,
            )),
        }
    }
}

/// Parses a duration with a unit, from `low` milliseconds to `high` seconds.
pub(crate) fn duration_between(
    low: u64,
    high: u64,
) -> impl Fn(&str) -> Result<Duration, FieldError> {
    let (low, high) = (Duration::from_millis(low), Duration::from_secs(high));
    move |text| {
        let hint = "write a duration such as `10s`, `1h30m` or `500ms`";
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FieldError::new(
                format!("{} has no unit", quote_for_message(text)),
                format!("write {}", quote_for_message(&format!("{text}s"))),
            ));
        }
        let duration = humantime::parse_duration(text).map_err(|_| {
            FieldError::new(format!("{} is not a duration", quote_for_message(text)), hint)
        })?;
        let range = format!(
            "write a duration from {} to {}",
            humantime::format_duration(low),
            humantime::format_duration(high)
        );
        match duration {
            duration if duration < low => {
                Err(FieldError::new(format!("{} is too short", quote_for_message(text)), range))
            }
            duration if duration > high => {
                Err(FieldError::new(format!("{} is too long", quote_for_message(text)), range))
            }
            duration => Ok(duration),
        }
    }
}

/// Parses a whole number from `low` to `high`, or `none`.
pub(crate) fn count_or_none<T>(low: T, high: T) -> impl Fn(&str) -> Result<Option<T>, FieldError>
where
    T: FromStr + PartialOrd + Display + Copy,
{
    move |text| match text {
        "none" => Ok(None),
        text => count_between(low, high)(text)
            .map(Some)
            .map_err(|wrong| FieldError { hint: wrong.hint + ", or `none`", ..wrong }),
    }
}

/// Parses a duration as `duration_between` does, or `none`.
pub(crate) fn duration_or_none(
    low: u64,
    high: u64,
) -> impl Fn(&str) -> Result<Option<Duration>, FieldError> {
    move |text| match text {
        "none" => Ok(None),
        text => duration_between(low, high)(text)
            .map(Some)
            .map_err(|wrong| FieldError { hint: wrong.hint + ", or `none`", ..wrong }),
    }
}

/// Parses a number of bytes, such as `8MiB`, `64KB` or a plain number, from `low` to `high` bytes.
pub(crate) fn size_between(low: usize, high: usize) -> impl Fn(&str) -> Result<usize, FieldError> {
    const UNITS: [(&str, usize); 7] = [
        ("", 1),
        ("B", 1),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    move |text| {
        let wrong = || {
            FieldError::new(
                format!("{} is not a size", quote_for_message(text)),
                "write a size such as `8MiB`, `64KB` or bytes",
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit = text[digits..].trim();
        let (_, scale) =
            UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
        let bytes = text[..digits].parse::<usize>().map_err(|_| wrong())?.saturating_mul(*scale);
        let range = format!("write a size from {low} bytes to {}MiB", high >> 20);
        match bytes {
            bytes if bytes < low => {
                Err(FieldError::new(format!("{} is too small", quote_for_message(text)), range))
            }
            bytes if bytes > high => {
                Err(FieldError::new(format!("{} is too large", quote_for_message(text)), range))
            }
            bytes => Ok(bytes),
        }
    }
}

/// Parses a share such as `1%` or `0.01`: over 0 and at most `high`, which is from 0 to 1.
pub(crate) fn share_up_to(high: f64) -> impl Fn(&str) -> Result<f64, FieldError> {
    move |text| {
        let hint = format!("write a share such as `1%` or `0.01`, at most {}%", high * 100.0);
        let (number, exponent) =
            text.strip_suffix('%').map_or((text, 0), |number| (number.trim_end(), -2));
        let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        // The percent sign becomes an exponent, so that `0.1%` and `0.001` give the same f64; a
        // division by 100 would round differently.
        let value = format!("{number}e{exponent}").parse::<f64>().ok().filter(|_| plain);
        match value {
            None => {
                Err(FieldError::new(format!("{} is not a share", quote_for_message(text)), hint))
            }
            Some(value) if value >= 1.0 && exponent == 0 => Err(FieldError::new(
                format!("{} has no `%`", quote_for_message(text)),
                format!("write {}", quote_for_message(&format!("{text}%"))),
            )),
            Some(value) if value <= 0.0 => {
                Err(FieldError::new(format!("{} is not over 0", quote_for_message(text)), hint))
            }
            Some(value) if value > high => {
                Err(FieldError::new(format!("{} is too much", quote_for_message(text)), hint))
            }
            Some(value) => Ok(value),
        }
    }
}

/// Parses a finite number.
pub(crate) fn parse_number(text: &str) -> Result<f64, FieldError> {
    let wrong = || {
        FieldError::new(
            format!("{} is not a number", quote_for_message(text)),
            "write a number, such as `30`",
        )
    };
    text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(wrong)
}

/// Parses a number from `low` to `high`.
pub(crate) fn number_between(low: f64, high: f64) -> impl Fn(&str) -> Result<f64, FieldError> {
    move |text| {
        let hint = format!("write a number from {low} to {high}");
        match parse_number(text).map_err(|wrong| FieldError { hint: hint.clone(), ..wrong })? {
            number if number < low => {
                Err(FieldError::new(format!("{number} is below {low}"), hint))
            }
            number if number > high => {
                Err(FieldError::new(format!("{number} is over {high}"), hint))
            }
            number => Ok(number),
        }
    }
}

/// Parses one of several words.
pub(crate) fn one_of_words<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&str) -> Result<T, FieldError> {
    move |text| {
        let wrong = || {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            FieldError::new(
                format!("{} is not a valid value", quote_for_message(text)),
                suggest(text, &known),
            )
        };
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(wrong)
    }
}

/// Parses `true` or `false`.
pub(crate) fn parse_bool(text: &str) -> Result<bool, FieldError> {
    text.parse().map_err(|_| {
        FieldError::new(
            format!("{} is not a boolean", quote_for_message(text)),
            "write `true` or `false`",
        )
    })
}

/// Parses the name of a topic.
pub(crate) fn parse_topic_name(text: &str) -> Result<Topic, FieldError> {
    Topic::parse(text).map_err(|error| {
        FieldError::new(format!("{} is no topic", quote_for_message(text)), error.to_string())
    })
}

/// Parses a name that is used in store keys, metric labels and paths.
pub(crate) fn parse_name(text: &str) -> Result<String, FieldError> {
    let fits = (1..=100).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    let wrong = || {
        FieldError::new(
            format!("{} is no name", quote_for_message(text)),
            "write 1 to 100 characters of A-Z a-z 0-9 . _ -",
        )
    };
    if fits { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// Parses any text that is not empty.
pub(crate) fn parse_text(text: &str) -> Result<String, FieldError> {
    if text.is_empty() {
        Err(FieldError::new("is empty", "write a text"))
    } else {
        Ok(text.to_owned())
    }
}

/// Parses a time of RFC 3339.
pub(crate) fn parse_timestamp(text: &str) -> Result<jiff::Timestamp, FieldError> {
    let hint = "write a time with its zone, such as `2027-06-01T00:00:00Z`";
    text.parse()
        .map_err(|_| FieldError::new(format!("{} is not a time", quote_for_message(text)), hint))
}

/// Parses a bearer token; an empty text is no token. Messages do not quote it.
pub(crate) fn parse_token(text: &str) -> Result<Option<Secret>, FieldError> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok((!text.is_empty()).then(|| Secret::new(text)));
    }
    Err(FieldError::new(
        "has characters that a header cannot carry",
        "write printable ASCII without spaces",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts the value or the problem that `parse` returns for each text.
    fn assert_parses<T: std::fmt::Debug>(
        parse: impl Fn(&str) -> Result<T, FieldError>,
        cases: &[(&str, &str)],
    ) {
        for (text, expected) in cases {
            let got = match parse(text) {
                Ok(value) => format!("{value:?}"),
                Err(FieldError { message, hint }) => format!("{message}: {hint}"),
            };
            assert_eq!(&got, expected, "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_parses(
            duration_or_none(1, 3600),
            &[
                ("10s", "Some(10s)"),
                ("1h", "Some(3600s)"),
                ("1m30s", "Some(90s)"),
                ("500ms", "Some(500ms)"),
                ("none", "None"),
                ("10", "`10` has no unit: write `10s`, or `none`"),
                ("0s", "`0s` is too short: write a duration from 1ms to 1h, or `none`"),
                ("2h", "`2h` is too long: write a duration from 1ms to 1h, or `none`"),
                (
                    "soon",
                    "`soon` is not a duration: write a duration such as `10s`, `1h30m` or \
                        `500ms`, or `none`",
                ),
                (
                    "-1s",
                    "`-1s` is not a duration: write a duration such as `10s`, `1h30m` or `500ms`, \
                        or `none`",
                ),
            ],
        );
        assert_parses(duration_between(0, 1), &[("0s", "0ns")]);
    }

    #[test]
    fn sizes_are_bytes_or_have_units() {
        assert_parses(
            size_between(10, 64 << 20),
            &[
                ("8MiB", "8388608"),
                ("64KB", "64000"),
                ("64 kib", "65536"),
                ("100", "100"),
                ("9", "`9` is too small: write a size from 10 bytes to 64MiB"),
                ("1GiB", "`1GiB` is too large: write a size from 10 bytes to 64MiB"),
                (
                    "99999999999999999GiB",
                    "`99999999999999999GiB` is too large: write a size from 10 bytes to 64MiB",
                ),
                ("8M", "`8M` is not a size: write a size such as `8MiB`, `64KB` or bytes"),
                ("", "`` is not a size: write a size such as `8MiB`, `64KB` or bytes"),
                ("MiB", "`MiB` is not a size: write a size such as `8MiB`, `64KB` or bytes"),
                ("½MiB", "`½MiB` is not a size: write a size such as `8MiB`, `64KB` or bytes"),
            ],
        );
    }

    #[test]
    fn shares_have_a_percent_sign_or_are_below_one() {
        let hint = "write a share such as `1%` or `0.01`, at most 50%";
        assert_parses(
            share_up_to(0.5),
            &[
                ("1%", "0.01"),
                ("0.1%", "0.001"),
                ("12.5 %", "0.125"),
                ("0.01", "0.01"),
                (".5", "0.5"),
                ("1", "`1` has no `%`: write `1%`"),
                ("5", "`5` has no `%`: write `5%`"),
                ("0", &format!("`0` is not over 0: {hint}")),
                ("0.0%", &format!("`0.0%` is not over 0: {hint}")),
                ("51%", &format!("`51%` is too much: {hint}")),
                ("-1%", &format!("`-1%` is not a share: {hint}")),
                ("1e3", &format!("`1e3` is not a share: {hint}")),
                ("", &format!("`` is not a share: {hint}")),
                ("%", &format!("`%` is not a share: {hint}")),
                ("few", &format!("`few` is not a share: {hint}")),
            ],
        );
    }

    #[test]
    fn numbers_are_finite_and_in_range() {
        let hint = "write a number from 1 to 1.9";
        assert_parses(
            number_between(1.0, 1.9),
            &[
                ("1", "1.0"),
                ("1.25", "1.25"),
                ("2", &format!("2 is over 1.9: {hint}")),
                ("0.5", &format!("0.5 is below 1: {hint}")),
                ("NaN", &format!("`NaN` is not a number: {hint}")),
                ("30s", &format!("`30s` is not a number: {hint}")),
            ],
        );
        assert_parses(
            parse_number,
            &[("-3e2", "-300.0"), ("inf", "`inf` is not a number: write a number, such as `30`")],
        );
    }

    #[test]
    fn counts_words_times_and_tokens() {
        assert_parses(
            count_between(1u16, 10),
            &[
                ("1", "1"),
                ("0", "0 is below 1: write a whole number from 1 to 10"),
                ("11", "11 is over 10: write a whole number from 1 to 10"),
                (
                    "99999",
                    "`99999` is not a whole number in range: write a whole number from 1 to 10",
                ),
                ("1.5", "`1.5` is not a whole number in range: write a whole number from 1 to 10"),
            ],
        );
        assert_parses(
            one_of_words(&[("accepted", 1), ("hold", 2)]),
            &[
                ("hold", "2"),
                ("acepted", "`acepted` is not a valid value: did you mean `accepted`?"),
                ("x", "`x` is not a valid value: known are `accepted`, `hold`"),
            ],
        );
        let hint = "write a time with its zone, such as `2027-06-01T00:00:00Z`";
        assert_parses(
            parse_timestamp,
            &[
                ("2027-06-01T02:00:00+02:00", "2027-06-01T00:00:00Z"),
                ("2027-06-01", &format!("`2027-06-01` is not a time: {hint}")),
                ("2027-02-30T00:00:00Z", &format!("`2027-02-30T00:00:00Z` is not a time: {hint}")),
            ],
        );
        let hint = "write printable ASCII without spaces";
        let refused = format!("has characters that a header cannot carry: {hint}");
        assert_parses(
            parse_token,
            &[("", "None"), ("s3cret", "Some(***)"), ("s3 cret", &refused), ("s3cret\n", &refused)],
        );
    }
}
