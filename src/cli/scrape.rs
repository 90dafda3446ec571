//! A parser of the Prometheus text format, to read the numbers of `/metrics`.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of one exposition.
#[derive(Clone, Debug, Default)]
pub(super) struct MetricsScrape(Vec<ScrapeSample>);

/// The labels of a series, by name.
pub(super) type SampleLabels = BTreeMap<String, String>;

/// One series and its value.
#[derive(Clone, Debug)]
struct ScrapeSample {
    name: String,
    labels: SampleLabels,
    value: f64,
}

// === impl MetricsScrape ===

impl MetricsScrape {
    /// Parses an exposition; lines that are no samples are skipped.
    pub(super) fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(ScrapeSample::parse)
                .collect(),
        )
    }

    /// The sum of the series of `name` that have all of `labels`; none when there is no such
    /// series.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.sum_where(name, |series| {
            labels.iter().all(|(label, value)| series.get(*label).is_some_and(|own| own == value))
        })
    }

    /// The sum of the series of `name` whose labels `filter` accepts; none when there is no such
    /// series.
    pub(super) fn sum_where(
        &self,
        name: &str,
        filter: impl Fn(&SampleLabels) -> bool,
    ) -> Option<f64> {
        let accepted = self.0.iter().filter(|sample| sample.name == name && filter(&sample.labels));
        accepted.map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// The values of `label` in the series of `name`.
    pub(super) fn label_values(&self, name: &str, label: &str) -> BTreeSet<String> {
        let series = self.0.iter().filter(|sample| sample.name == name);
        series.filter_map(|sample| sample.labels.get(label).cloned()).collect()
    }

    /// The cumulative buckets of the histogram `name` with these labels: upper bound and count, in
    /// the order of the bounds.
    pub(super) fn histogram_buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let name = format!("{name}_bucket");
        let bounds = self.label_values(&name, "le");
        let bucket = |bound: &String| {
            let labels = [labels, &[("le", bound.as_str())]].concat();
            Some((bound.parse().ok()?, self.sum(&name, &labels)?))
        };
        let mut buckets: Vec<(f64, f64)> = bounds.iter().filter_map(bucket).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        buckets
    }
}

// === impl ScrapeSample ===

impl ScrapeSample {
    /// Parses `name{label="value",…} value [timestamp]`.
    fn parse(line: &str) -> Option<Self> {
        let (name, rest) = line.split_at(line.find(['{', ' '])?);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => parse_labels(rest)?,
            None => (SampleLabels::new(), rest),
        };
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels, value })
    }
}

/// The labels up to the closing brace, and the text after it.
fn parse_labels(mut text: &str) -> Option<(SampleLabels, &str)> {
    let mut labels = SampleLabels::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = parse_quoted(rest)?;
        labels.insert(name.to_owned(), value);
        text = rest;
    }
}

/// The text up to the closing quote, unescaped, and the text after it.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_and_summed_by_label() {
        let text = "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"q\\\"}, z\\n\"} 2 \
            1700000000\na{x=\"1\",y=\"\"} 3e1\na{x=\"2\"} 9\nb 7\nnot one\n";
        let scrape = MetricsScrape::parse(text);
        assert_eq!(scrape.sum("a", &[("x", "1")]), Some(32.0));
        assert_eq!((scrape.sum("a", &[]), scrape.sum("b", &[])), (Some(41.0), Some(7.0)));
        assert_eq!(scrape.sum("a", &[("y", "q\"}, z\n")]), Some(2.0));
        assert_eq!((scrape.sum("nothing", &[]), scrape.sum("a", &[("x", "3")])), (None, None));
        assert_eq!(scrape.sum_where("a", |labels| labels["x"].as_str() > "1"), Some(9.0));
        assert_eq!(scrape.label_values("a", "x").into_iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn buckets_rise_by_their_bounds() {
        let scrape = MetricsScrape::parse(
            "h_bucket{r=\"i\",le=\"10\"} 3\nh_bucket{r=\"i\",le=\"2.5\"} \
                1\nh_bucket{r=\"i\",le=\"+Inf\"} 4\nh_bucket{r=\"o\",le=\"2.5\"} 9\n",
        );
        assert_eq!(
            scrape.histogram_buckets("h", &[("r", "i")]),
            [(2.5, 1.0), (10.0, 3.0), (f64::INFINITY, 4.0)]
        );
    }
}
