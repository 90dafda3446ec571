//! Renders the request counters as Prometheus metric families: each scrape sums all threads.

use std::sync::PoisonError;

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use super::label_values::{TASKS_ROUTE_LABEL, UNMATCHED_ROUTE_LABEL};
use super::names;
use super::request_counters::{
    DRAIN_CUT_HELP, DURATION_HELP, REQUESTS_HELP, RequestCounters, RouteCounters, UNKEYED_HELP,
};
use crate::cohort_hash::RequestPath;
use crate::task::DURATION_BUCKET_BOUNDS;

/// Status codes whose series are shown before the first answer with them.
const ALWAYS_SHOWN_CODES: [u16; 3] = [200, 202, 500];

impl Collector for RequestCounters {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut counts = Vec::new();
        let (mut durations, mut unkeyed, mut cut) = (Vec::new(), Vec::new(), Vec::new());
        for (name, route) in self.routes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for path in [RequestPath::Sync, RequestPath::Async] {
                collect_response_counts(name, route, path, &mut counts);
                durations.push(collect_durations(name, route, path));
            }
            cut.push(counter_metric(route.total_cut_by_drain(), &[("route", name)]));
            if name != UNMATCHED_ROUTE_LABEL && name != TASKS_ROUTE_LABEL {
                unkeyed.push(counter_metric(
                    route.sum_threads(RequestPath::Sync, |counters| &counters.unkeyed_requests),
                    &[("route", name)],
                ));
            }
        }
        vec![
            metric_family(names::REQUESTS, REQUESTS_HELP, proto::MetricType::COUNTER, counts),
            metric_family(
                names::REQUEST_DURATION,
                DURATION_HELP,
                proto::MetricType::HISTOGRAM,
                durations,
            ),
            metric_family(
                names::UNKEYED_REQUESTS,
                UNKEYED_HELP,
                proto::MetricType::COUNTER,
                unkeyed,
            ),
            metric_family(names::DRAIN_CUT, DRAIN_CUT_HELP, proto::MetricType::COUNTER, cut),
        ]
    }
}

fn collect_response_counts(
    name: &str,
    route: &RouteCounters,
    path: RequestPath,
    into: &mut Vec<proto::Metric>,
) {
    for (slot, code) in (100u16..600).enumerate() {
        let count = route.sum_threads(path, |counters| &counters.responses_by_code[slot]);
        if count == 0 && !ALWAYS_SHOWN_CODES.contains(&code) {
            continue;
        }
        into.push(counter_metric(
            count,
            &[("code", &code.to_string()), ("path", path.as_str()), ("route", name)],
        ));
    }
}

fn counter_metric(count: u64, pairs: &[(&str, &str)]) -> proto::Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(count_as_f64(count));
    let mut metric = proto::Metric::default();
    metric.set_counter(counter);
    metric.set_label(label_pairs(pairs));
    metric
}

fn collect_durations(name: &str, route: &RouteCounters, path: RequestPath) -> proto::Metric {
    let mut histogram = proto::Histogram::default();
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(DURATION_BUCKET_BOUNDS.len());
    for (slot, bound) in DURATION_BUCKET_BOUNDS.iter().enumerate() {
        cumulative += route.sum_threads(path, |counters| &counters.duration_counts[slot]);
        let mut bucket = proto::Bucket::default();
        bucket.set_cumulative_count(cumulative);
        bucket.set_upper_bound(*bound);
        buckets.push(bucket);
    }
    cumulative +=
        route.sum_threads(path, |counters| &counters.duration_counts[DURATION_BUCKET_BOUNDS.len()]);
    histogram.set_bucket(buckets);
    histogram.set_sample_count(cumulative);
    histogram.set_sample_sum(
        count_as_f64(route.sum_threads(path, |counters| &counters.duration_micros_sum)) / 1e6,
    );
    let mut metric = proto::Metric::default();
    metric.set_histogram(histogram);
    metric.set_label(label_pairs(&[("path", path.as_str()), ("route", name)]));
    metric
}

fn label_pairs(pairs: &[(&str, &str)]) -> Vec<proto::LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut label = proto::LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    };
    pairs.iter().map(pair).collect()
}

fn metric_family(
    name: &str,
    help: &str,
    kind: proto::MetricType,
    metrics: Vec<proto::Metric>,
) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

#[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
fn count_as_f64(count: u64) -> f64 {
    count as f64
}
