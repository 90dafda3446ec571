//! The metrics that a `PromQL` query names. It reads just enough of the language's tokens to
//! distinguish metric names from functions, labels and keywords.

use std::collections::BTreeSet;

/// Words that are never a metric name.
const PROMQL_KEYWORDS: [&str; 16] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
    "and",
    "or",
    "unless",
    "atan2",
    "inf",
    "nan",
    "start",
    "end",
];
/// Keywords that are followed by a list of labels.
const LABEL_LIST_KEYWORDS: [&str; 6] =
    ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// The names of the metrics in `query`.
#[must_use]
pub fn extract_metric_names(query: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '{' => skip_past_close(&rest[1..], '}'),
            '[' => skip_past_close(&rest[1..], ']'),
            '"' | '\'' | '`' => skip_past_quote(&rest[1..], first),
            '#' => rest.split_once('\n').map_or("", |(_, rest)| rest),
            '0'..='9' => rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.'),
            first if is_name_char(first) => {
                let (name, after) =
                    rest.split_at(rest.find(|c| !is_name_char(c)).unwrap_or(rest.len()));
                let (word, next) = (name.to_ascii_lowercase(), after.trim_start());
                if LABEL_LIST_KEYWORDS.contains(&word.as_str()) && next.starts_with('(') {
                    skip_past_close(&next[1..], ')')
                } else {
                    if !PROMQL_KEYWORDS.contains(&word.as_str())
                        && !next.starts_with('(')
                        && !is_aggregation(next)
                    {
                        found.insert(name.to_owned());
                    }
                    after
                }
            }
            other => &rest[other.len_utf8()..],
        };
    }
    found
}

/// Whether the text after a name makes it an aggregation, as in `sum by (job) (…)`.
fn is_aggregation(next: &str) -> bool {
    ["by", "without"].iter().any(|word| {
        let follows = next.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        follows && next[word.len()..].trim_start().starts_with('(')
    })
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The text after the closing bracket; brackets within strings do not count.
fn skip_past_close(mut text: &str, close: char) -> &str {
    while let Some(first) = text.chars().next() {
        text = &text[first.len_utf8()..];
        match first {
            '"' | '\'' | '`' => text = skip_past_quote(text, first),
            first if first == close => break,
            _ => {}
        }
    }
    text
}

/// The text after the closing quote.
fn skip_past_quote(text: &str, quote: char) -> &str {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            c if c == quote && !escaped => return &text[at + c.len_utf8()..],
            '\\' if quote != '`' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_distinguished_from_functions_labels_and_keywords() {
        for (query, expected) in [
            ("max(omnidaemon_queue_oldest_seconds)", vec!["omnidaemon_queue_oldest_seconds"]),
            (
                concat!(
                    r#"sum by (job, code) (rate(http_requests_total"#,
                    r#"{code=~"5..", job="a(b)"}[5m])) / 100"#
                ),
                vec!["http_requests_total"],
            ),
            ("sum(a) without (x) + on (y) group_left (z) b offset 5m", vec!["a", "b"]),
            (
                "histogram_quantile(0.95, sum by(le)(rate(job:d_bucket[5m:30s])))",
                vec!["job:d_bucket"],
            ),
            ("a > bool 3 and b unless c or vector(1)", vec!["a", "b", "c"]),
            ("up == Inf # up_down\n", vec!["up"]),
            ("label_replace(up, \"a\", '$1', `b`, \"x\\\"y\")", vec!["up"]),
            ("1 + 2e3", vec![]),
            ("{__name__=\"x\"}", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(
                extract_metric_names(query).into_iter().collect::<Vec<_>>(),
                expected,
                "{query}"
            );
        }
    }

    #[test]
    fn a_truncated_query_is_read_to_its_end() {
        for query in ["sum(a{b=\"", "a[5m", "\"", "é", "a by ("] {
            let _ = extract_metric_names(query);
        }
    }
}
