//! Parses a share of traffic in percent, which becomes a [`Weight`].

use crate::cohort_hash::Weight;
use crate::config::diagnostics::quote_for_message;
use crate::config::parse::field_error::FieldError;

/// Parses a number from 0 to 100 with at most two decimals: `10`, `12.5` or `10%`.
pub(crate) fn parse_percent(text: &str) -> Result<Weight, FieldError> {
    const HINT: &str = "write a number from 0 to 100, to the hundredth";
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let (digits, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let decimal = [digits, decimals]
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let value = number.parse::<f64>().ok().filter(|_| decimal);
    let message = match value {
        None if number.starts_with('-') => format!("{} is below 0", quote_for_message(text)),
        None => format!("{} is not a percentage", quote_for_message(text)),
        Some(value) if value > 100.0 => format!("{number} is over 100"),
        Some(_) if decimals.trim_end_matches('0').len() > 2 => {
            format!("{number} is finer than a hundredth of a percent")
        }
        Some(value) => {
            return Weight::from_percent(value)
                .ok_or_else(|| FieldError::new("is no percentage", HINT));
        }
    };
    Err(FieldError::new(message, HINT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_numbers_from_0_to_100() {
        for (text, points) in [
            ("10", 1000),
            ("12.5", 1250),
            ("10%", 1000),
            ("0.01", 1),
            ("100.00", 10_000),
            ("50 %", 5000),
        ] {
            assert_eq!(parse_percent(text).map(Weight::basis_points), Ok(points), "{text}");
        }
        let hint = "write a number from 0 to 100, to the hundredth";
        for (text, message) in [
            ("110", "110 is over 100"),
            ("-1", "`-1` is below 0"),
            ("0.001", "0.001 is finer than a hundredth of a percent"),
            ("1e1", "`1e1` is not a percentage"),
            (".nan", "`.nan` is not a percentage"),
            ("NaN", "`NaN` is not a percentage"),
            ("", "`` is not a percentage"),
            ("10%%", "`10%%` is not a percentage"),
        ] {
            assert_eq!(parse_percent(text), Err(FieldError::new(message, hint)), "{text}");
        }
    }
}
