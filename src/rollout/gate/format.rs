//! Numbers in gate reports: percentages as short as they stay true, counts with separators.

use super::input::Evaluation;
use crate::config::MinSamples;

/// A share (1 is all) as a percentage with two significant digits: `1.9 %`.
pub(super) fn format_percent(share: f64) -> String {
    format_rounded(share * 100.0, choose_decimals(share * 100.0)) + " %"
}

/// A bound beside its limit, with as many digits as tell the two apart: `1.9 % > 1 %` or `0.98 % ≤
/// 1 %`.
pub(super) fn format_comparison(bound: f64, limit: f64) -> String {
    let (bound, limit) = (bound * 100.0, limit * 100.0);
    let limit_text = format_rounded(limit, 6);
    let mut digits = choose_decimals(bound);
    while digits < 6 && format_rounded(bound, digits) == limit_text {
        digits += 1;
    }
    let sign = if bound <= limit { "≤" } else { ">" };
    format!("{} % {sign} {limit_text} %", format_rounded(bound, digits))
}

/// A count with thousands separators: `2,704`.
pub(super) fn format_count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A value within its limits: `1 ≤ 2.5 ≤ 30`.
pub(super) fn format_range(value: f64, min: Option<f64>, max: Option<f64>) -> String {
    let lower = min.map_or_else(String::new, |min| format!("{min} ≤ "));
    let upper = max.map_or_else(String::new, |max| format!(" ≤ {max}"));
    format!("{lower}{value}{upper}")
}

/// Why PASS would come too early, whatever the gate's numbers are: too few outcomes, or a cohort
/// that is not mature.
pub(super) fn explain_too_early(
    ended: u64,
    min_samples: MinSamples,
    evaluation: &Evaluation<'_>,
) -> Option<String> {
    if ended < min_samples.async_requests {
        return Some(format!(
            "needs {} more outcomes for min_samples",
            format_count(min_samples.async_requests - ended)
        ));
    }
    (!evaluation.is_mature).then(|| {
        let (open, accepted) = (
            format_count(evaluation.cohort_evidence.open_tasks()),
            format_count(evaluation.cohort_evidence.accepted_tasks),
        );
        format!("{open} of {accepted} tasks have not ended yet")
    })
}

fn choose_decimals(number: f64) -> usize {
    match number.abs() {
        size if size >= 10.0 => 0,
        size if size >= 1.0 => 1,
        size if size >= 0.1 => 2,
        size if size >= 0.01 => 3,
        _ => 4,
    }
}

fn format_rounded(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_short_and_never_contradict_their_sign() {
        let cases = [
            (0.018_57, 0.01, "1.9 % > 1 %"),
            (0.009_99, 0.01, "0.999 % ≤ 1 %"),
            (0.010_04, 0.01, "1.004 % > 1 %"),
        ];
        for (bound, limit, text) in cases {
            assert_eq!(format_comparison(bound, limit), text);
        }
        assert_eq!(format_comparison(0.01, 0.01), "1 % ≤ 1 %");
        assert_eq!(format_comparison(-0.002, 0.005), "-0.2 % ≤ 0.5 %");
        assert_eq!(
            [0.0, 0.000_02, 0.07, 0.5, 1.0].map(format_percent),
            ["0 %", "0.002 %", "7 %", "50 %", "100 %"]
        );
    }

    #[test]
    fn counts_have_thousands_separators() {
        assert_eq!(
            [0, 143, 2_704, 1_000_000].map(format_count),
            ["0", "143", "2,704", "1,000,000"]
        );
    }
}
