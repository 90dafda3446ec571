//! What the data plane counts per request: one cell per thread, route and path, written by that thread
//! alone and summed when somebody scrapes. No lock and no shared cache line on the hot path.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use super::{OTHER, Path, TASKS, names};
use crate::cohort::GROUPS;
use crate::task::{BUCKETS, DURATION_BUCKETS, Took, bucket};

/// Status codes 100 to 599.
const CODES: usize = 500;
/// Series that exist before the first such answer.
const DECLARED: [u16; 3] = [200, 202, 500];

/// The cells of all routes.
#[derive(Clone)]
pub struct RequestCells {
    threads: usize,
    routes: Arc<Mutex<BTreeMap<String, Arc<RouteCells>>>>,
    descriptions: Arc<Vec<Desc>>,
}

/// The cells of one route.
pub struct RouteCells {
    threads: Box<[Box<[PathCells; 2]>]>,
}

/// The sums of one path over all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathTotals {
    /// Requests answered.
    pub answered: u64,
    /// Of them with a 4xx.
    pub client_errors: u64,
    /// Of them with a 5xx.
    pub server_errors: u64,
    /// By how long they took, one count per bucket.
    pub took: Took,
    /// Those with a 4xx by group of clients, where it was known.
    pub client_errors_by: [u64; GROUPS],
    /// Those with a 5xx.
    pub server_errors_by: [u64; GROUPS],
}

struct PathCells {
    codes: [AtomicU64; CODES],
    /// Not cumulative; the last is +Inf.
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
    client_errors_by: [AtomicU64; GROUPS],
    server_errors_by: [AtomicU64; GROUPS],
    unkeyed: AtomicU64,
}

// === impl RequestCells ===

impl RequestCells {
    /// # Panics
    /// Never: the names are constants.
    pub(super) fn new(threads: usize) -> Self {
        let description = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(name.into(), help.into(), labels, std::collections::HashMap::new()).expect("a valid name")
        };
        let descriptions = vec![
            description(names::REQUESTS, REQUESTS_HELP, &["route", "path", "code"]),
            description(names::REQUEST_DURATION, DURATION_HELP, &["route", "path"]),
            description(names::UNKEYED_REQUESTS, UNKEYED_HELP, &["route"]),
        ];
        Self { threads: threads.max(1), routes: Arc::default(), descriptions: Arc::new(descriptions) }
    }

    /// The cells of a route; the same ones each time, so that a reload keeps its counts.
    #[must_use]
    pub fn route(&self, name: &str) -> Arc<RouteCells> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(RouteCells { threads: (0..self.threads).map(|_| Box::default()).collect() });
        routes.entry(name.to_owned()).or_insert_with(new).clone()
    }
}

const REQUESTS_HELP: &str = "Requests answered, per route, path and status";
const UNKEYED_HELP: &str = "Requests without any of their route's sticky keys, which go either way at random";
const DURATION_HELP: &str = "Seconds from a request's head to the end of its answer";

// === impl RouteCells ===

impl RouteCells {
    /// Counts an answer. `thread` is the data-plane thread that calls, and nobody else may call with it.
    pub fn answered(&self, thread: usize, path: Path, code: u16) {
        let slot = usize::from(code.clamp(100, 599)) - 100;
        bump(&self.cell(thread, path).codes[slot], 1);
    }

    /// Notes which group of clients was given a 4xx or a 5xx.
    pub fn blame(&self, thread: usize, path: Path, code: u16, clients: Option<u8>) {
        let (Some(clients), cell) = (clients, self.cell(thread, path)) else { return };
        let by = if code < 500 { &cell.client_errors_by } else { &cell.server_errors_by };
        bump(&by[usize::from(clients) % GROUPS], 1);
    }

    /// Counts a request that goes at random for want of a sticky key.
    pub fn unkeyed(&self, thread: usize) {
        bump(&self.cell(thread, Path::Sync).unkeyed, 1);
    }

    /// Records how long a request took.
    pub fn took(&self, thread: usize, path: Path, took: Duration) {
        let cell = self.cell(thread, path);
        bump(&cell.buckets[bucket(took)], 1);
        bump(&cell.sum_micros, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// What was counted on a path since the process began.
    #[must_use]
    pub fn totals(&self, path: Path) -> PathTotals {
        let codes =
            |from: usize, to: usize| (from..to).map(|code| self.sum(path, |cell| &cell.codes[code - 100])).sum();
        PathTotals {
            answered: codes(100, 600),
            client_errors: codes(400, 500),
            server_errors: codes(500, 600),
            took: std::array::from_fn(|bucket| self.sum(path, |cell| &cell.buckets[bucket])),
            client_errors_by: std::array::from_fn(|group| self.sum(path, |cell| &cell.client_errors_by[group])),
            server_errors_by: std::array::from_fn(|group| self.sum(path, |cell| &cell.server_errors_by[group])),
        }
    }

    fn cell(&self, thread: usize, path: Path) -> &PathCells {
        &self.threads[thread % self.threads.len()][path as usize]
    }

    fn sum(&self, path: Path, of: impl Fn(&PathCells) -> &AtomicU64) -> u64 {
        self.threads.iter().map(|thread| of(&thread[path as usize]).load(Ordering::Relaxed)).sum()
    }
}

/// One writer, so a load and a store do: no locked instruction.
fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

// === impl PathCells ===

impl Default for PathCells {
    fn default() -> Self {
        Self {
            codes: std::array::from_fn(|_| AtomicU64::new(0)),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_micros: AtomicU64::new(0),
            client_errors_by: Default::default(),
            server_errors_by: Default::default(),
            unkeyed: AtomicU64::new(0),
        }
    }
}

// === impl Collector ===

impl Collector for RequestCells {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut counts = Vec::new();
        let (mut durations, mut unkeyed) = (Vec::new(), Vec::new());
        for (name, route) in self.routes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for path in [Path::Sync, Path::Async] {
                collect_codes(name, route, path, &mut counts);
                durations.push(collect_durations(name, route, path));
            }
            if name != OTHER && name != TASKS {
                unkeyed.push(counted(route.sum(Path::Sync, |cell| &cell.unkeyed), &[("route", name)]));
            }
        }
        vec![
            family(names::REQUESTS, REQUESTS_HELP, proto::MetricType::COUNTER, counts),
            family(names::REQUEST_DURATION, DURATION_HELP, proto::MetricType::HISTOGRAM, durations),
            family(names::UNKEYED_REQUESTS, UNKEYED_HELP, proto::MetricType::COUNTER, unkeyed),
        ]
    }
}

fn collect_codes(name: &str, route: &RouteCells, path: Path, into: &mut Vec<proto::Metric>) {
    for (slot, code) in (100u16..600).enumerate() {
        let count = route.sum(path, |cell| &cell.codes[slot]);
        if count == 0 && !DECLARED.contains(&code) {
            continue;
        }
        into.push(counted(count, &[("code", &code.to_string()), ("path", path.as_str()), ("route", name)]));
    }
}

fn counted(count: u64, pairs: &[(&str, &str)]) -> proto::Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(float(count));
    let mut metric = proto::Metric::default();
    metric.set_counter(counter);
    metric.set_label(labels(pairs));
    metric
}

fn collect_durations(name: &str, route: &RouteCells, path: Path) -> proto::Metric {
    let mut histogram = proto::Histogram::default();
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(DURATION_BUCKETS.len());
    for (slot, bound) in DURATION_BUCKETS.iter().enumerate() {
        cumulative += route.sum(path, |cell| &cell.buckets[slot]);
        let mut bucket = proto::Bucket::default();
        bucket.set_cumulative_count(cumulative);
        bucket.set_upper_bound(*bound);
        buckets.push(bucket);
    }
    cumulative += route.sum(path, |cell| &cell.buckets[DURATION_BUCKETS.len()]);
    histogram.set_bucket(buckets);
    histogram.set_sample_count(cumulative);
    histogram.set_sample_sum(float(route.sum(path, |cell| &cell.sum_micros)) / 1e6);
    let mut metric = proto::Metric::default();
    metric.set_histogram(histogram);
    metric.set_label(labels(&[("path", path.as_str()), ("route", name)]));
    metric
}

fn labels(pairs: &[(&str, &str)]) -> Vec<proto::LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut label = proto::LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    };
    pairs.iter().map(pair).collect()
}

fn family(name: &str, help: &str, kind: proto::MetricType, metrics: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

#[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
fn float(count: u64) -> f64 {
    count as f64
}
