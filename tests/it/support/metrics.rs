//! A scraped `/metrics`, to be asked for values.

/// The samples of one scrape.
pub struct ScrapedMetrics(Vec<MetricSample>);

struct MetricSample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl ScrapedMetrics {
    /// Reads the Prometheus text format.
    ///
    /// # Panics
    /// On a line that is not of it.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let sample =
            |line| MetricSample::parse(line).unwrap_or_else(|| panic!("not a sample: {line:?}"));
        Self(lines.map(sample).collect())
    }

    /// The sum of the series of `name` that have all of `labels`, whatever else they have; none
    /// without any.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut values = self
            .0
            .iter()
            .filter(|s| s.name == name && s.has_labels(labels))
            .map(|s| s.value)
            .peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// The same, where the series must be.
    ///
    /// # Panics
    /// When there is none; says what there is of that name.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| {
            let there: Vec<_> =
                self.0.iter().filter(|s| s.name == name).map(|s| &s.labels).collect();
            panic!("no {name} with {labels:?}; there is {there:?}")
        })
    }
}

impl MetricSample {
    fn has_labels(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.iter().any(|(n, v)| n == name && v == value))
    }

    /// `name{label="value",…} value`, the labels being optional.
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, inner) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}')?),
            None => (series, ""),
        };
        Some(Self {
            name: name.to_owned(),
            labels: parse_labels(inner)?,
            value: value.parse().ok()?,
        })
    }
}

fn parse_labels(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => {
                    value.push(if let (_, c @ ('\\' | '"')) = chars.next()? { c } else { '\n' });
                }
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        text = rest[end..].trim_start_matches(',');
    }
    Some(labels)
}

#[test]
fn a_scrape_is_read_and_its_series_are_summed() {
    let text = "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"q\\\"}, z\"} 2\na{x=\"1\",y=\"\"} \
        3e1\na{x=\"2\"} 9\n\nb NaN\n";
    let metrics = ScrapedMetrics::parse(text);
    assert_eq!(metrics.get("a", &[("x", "1")]), Some(32.0));
    assert_eq!(metrics.get("a", &[("y", "q\"}, z")]), Some(2.0));
    assert!(metrics.value("b", &[]).is_nan() && metrics.get("a", &[("x", "3")]).is_none());
}
