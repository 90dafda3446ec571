//! What the data plane counts per request: one cell per thread, route and path, written by that
//! thread alone and summed when somebody scrapes. No lock and no shared cache line on the hot path.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use super::{Path, TASKS_ROUTE_LABEL, UNMATCHED_ROUTE_LABEL, names};
use crate::cohort::CLIENT_GROUPS;
use crate::task::{DURATION_BUCKET_BOUNDS, DURATION_BUCKET_COUNT, DurationCounts, duration_bucket};

/// Status codes 100 to 599.
const STATUS_CODE_COUNT: usize = 500;
/// Series that exist before the first such answer.
const ALWAYS_SHOWN_CODES: [u16; 3] = [200, 202, 500];

/// The cells of all routes.
#[derive(Clone)]
pub struct RequestCounters {
    thread_count: usize,
    routes: Arc<Mutex<BTreeMap<String, Arc<RouteCounters>>>>,
    descriptions: Arc<Vec<Desc>>,
}

/// The cells of one route.
pub struct RouteCounters {
    by_thread: Box<[Box<[PathCounters; 2]>]>,
}

/// The sums of one path over all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathTotals {
    /// Requests answered.
    pub responses: u64,
    /// Of them with a 4xx.
    pub client_errors: u64,
    /// Of them with a 5xx.
    pub server_errors: u64,
    /// By how long they took, one count per bucket.
    pub duration_counts: DurationCounts,
    /// Those with a 4xx by group of clients, where it was known.
    pub client_errors_by_group: [u64; CLIENT_GROUPS],
    /// Those with a 5xx.
    pub server_errors_by_group: [u64; CLIENT_GROUPS],
}

struct PathCounters {
    responses_by_code: [AtomicU64; STATUS_CODE_COUNT],
    /// Not cumulative; the last is +Inf.
    duration_counts: [AtomicU64; DURATION_BUCKET_COUNT],
    duration_micros_sum: AtomicU64,
    client_errors_by_group: [AtomicU64; CLIENT_GROUPS],
    server_errors_by_group: [AtomicU64; CLIENT_GROUPS],
    unkeyed_requests: AtomicU64,
}

// === impl RequestCells ===

impl RequestCounters {
    /// # Panics
    /// Never: the names are constants.
    pub(super) fn new(threads: usize) -> Self {
        let description = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(name.into(), help.into(), labels, std::collections::HashMap::new())
                .expect("a valid name")
        };
        let descriptions = vec![
            description(names::REQUESTS, REQUESTS_HELP, &["route", "path", "code"]),
            description(names::REQUEST_DURATION, DURATION_HELP, &["route", "path"]),
            description(names::UNKEYED_REQUESTS, UNKEYED_HELP, &["route"]),
        ];
        Self {
            thread_count: threads.max(1),
            routes: Arc::default(),
            descriptions: Arc::new(descriptions),
        }
    }

    /// The cells of a route; the same ones each time, so that a reload keeps its counts.
    #[must_use]
    pub fn route_counters(&self, name: &str) -> Arc<RouteCounters> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(RouteCounters {
                by_thread: (0..self.thread_count).map(|_| Box::default()).collect(),
            })
        };
        routes.entry(name.to_owned()).or_insert_with(new).clone()
    }
}

const REQUESTS_HELP: &str = "Requests answered, per route, path and status";
const UNKEYED_HELP: &str =
    "Requests without any of their route's sticky keys, which go either way at random";
const DURATION_HELP: &str = "Seconds from a request's head to the end of its answer";

// === impl RouteCells ===

impl RouteCounters {
    /// Counts an answer. `thread` is the data-plane thread that calls, and nobody else may call
    /// with it.
    pub fn count_response(&self, thread: usize, path: Path, code: u16) {
        let slot = usize::from(code.clamp(100, 599)) - 100;
        add_single_writer(&self.path_counters(thread, path).responses_by_code[slot], 1);
    }

    /// Notes which group of clients was given a 4xx or a 5xx.
    pub fn count_error_by_group(&self, thread: usize, path: Path, code: u16, clients: Option<u8>) {
        let (Some(clients), cell) = (clients, self.path_counters(thread, path)) else { return };
        let by =
            if code < 500 { &cell.client_errors_by_group } else { &cell.server_errors_by_group };
        add_single_writer(&by[usize::from(clients) % CLIENT_GROUPS], 1);
    }

    /// Counts a request that goes at random for want of a sticky key.
    pub fn count_unkeyed_request(&self, thread: usize) {
        add_single_writer(&self.path_counters(thread, Path::Sync).unkeyed_requests, 1);
    }

    /// Records how long a request took.
    pub fn observe_duration(&self, thread: usize, path: Path, took: Duration) {
        let cell = self.path_counters(thread, path);
        add_single_writer(&cell.duration_counts[duration_bucket(took)], 1);
        add_single_writer(
            &cell.duration_micros_sum,
            u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        );
    }

    /// What was counted on a path since the process began.
    #[must_use]
    pub fn path_totals(&self, path: Path) -> PathTotals {
        let codes = |from: usize, to: usize| {
            (from..to)
                .map(|code| self.sum_threads(path, |cell| &cell.responses_by_code[code - 100]))
                .sum()
        };
        PathTotals {
            responses: codes(100, 600),
            client_errors: codes(400, 500),
            server_errors: codes(500, 600),
            duration_counts: std::array::from_fn(|bucket| {
                self.sum_threads(path, |cell| &cell.duration_counts[bucket])
            }),
            client_errors_by_group: std::array::from_fn(|group| {
                self.sum_threads(path, |cell| &cell.client_errors_by_group[group])
            }),
            server_errors_by_group: std::array::from_fn(|group| {
                self.sum_threads(path, |cell| &cell.server_errors_by_group[group])
            }),
        }
    }

    fn path_counters(&self, thread: usize, path: Path) -> &PathCounters {
        &self.by_thread[thread % self.by_thread.len()][path as usize]
    }

    fn sum_threads(&self, path: Path, of: impl Fn(&PathCounters) -> &AtomicU64) -> u64 {
        self.by_thread.iter().map(|thread| of(&thread[path as usize]).load(Ordering::Relaxed)).sum()
    }
}

/// One writer, so a load and a store do: no locked instruction.
fn add_single_writer(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

// === impl PathCells ===

impl Default for PathCounters {
    fn default() -> Self {
        Self {
            responses_by_code: std::array::from_fn(|_| AtomicU64::new(0)),
            duration_counts: std::array::from_fn(|_| AtomicU64::new(0)),
            duration_micros_sum: AtomicU64::new(0),
            client_errors_by_group: Default::default(),
            server_errors_by_group: Default::default(),
            unkeyed_requests: AtomicU64::new(0),
        }
    }
}

// === impl Collector ===

impl Collector for RequestCounters {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut counts = Vec::new();
        let (mut durations, mut unkeyed) = (Vec::new(), Vec::new());
        for (name, route) in self.routes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for path in [Path::Sync, Path::Async] {
                collect_response_counts(name, route, path, &mut counts);
                durations.push(collect_durations(name, route, path));
            }
            if name != UNMATCHED_ROUTE_LABEL && name != TASKS_ROUTE_LABEL {
                unkeyed.push(counter_metric(
                    route.sum_threads(Path::Sync, |cell| &cell.unkeyed_requests),
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
        ]
    }
}

fn collect_response_counts(
    name: &str,
    route: &RouteCounters,
    path: Path,
    into: &mut Vec<proto::Metric>,
) {
    for (slot, code) in (100u16..600).enumerate() {
        let count = route.sum_threads(path, |cell| &cell.responses_by_code[slot]);
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

fn collect_durations(name: &str, route: &RouteCounters, path: Path) -> proto::Metric {
    let mut histogram = proto::Histogram::default();
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(DURATION_BUCKET_BOUNDS.len());
    for (slot, bound) in DURATION_BUCKET_BOUNDS.iter().enumerate() {
        cumulative += route.sum_threads(path, |cell| &cell.duration_counts[slot]);
        let mut bucket = proto::Bucket::default();
        bucket.set_cumulative_count(cumulative);
        bucket.set_upper_bound(*bound);
        buckets.push(bucket);
    }
    cumulative +=
        route.sum_threads(path, |cell| &cell.duration_counts[DURATION_BUCKET_BOUNDS.len()]);
    histogram.set_bucket(buckets);
    histogram.set_sample_count(cumulative);
    histogram.set_sample_sum(
        count_as_f64(route.sum_threads(path, |cell| &cell.duration_micros_sum)) / 1e6,
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
