//! The per-request counts of the data plane: one set of counters per thread, route and path.
//!
//! Only its own thread writes a set, and a scrape sums all of them (`request_collector.rs`), so
//! that counting a request takes no lock and shares no cache line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Desc;

use super::names;
use crate::cohort_hash::{CLIENT_GROUPS, RequestPath};
use crate::task::{DURATION_BUCKET_COUNT, DurationCounts, duration_bucket};

/// How many status codes are counted: 100 to 599.
const STATUS_CODE_COUNT: usize = 500;

pub(super) const REQUESTS_HELP: &str = "Requests answered, per route, path and status";
pub(super) const UNKEYED_HELP: &str =
    "Requests without any of their route's sticky keys, which are assigned at random";
pub(super) const DRAIN_CUT_HELP: &str =
    "Requests that had not ended when the drain was over, and were cut off";
pub(super) const DURATION_HELP: &str = "Seconds from a request's head to the end of its answer";

/// The request counters of all routes; cheap to clone.
#[derive(Clone)]
pub struct RequestCounters {
    thread_count: usize,
    pub(super) routes: Arc<Mutex<BTreeMap<String, Arc<RouteCounters>>>>,
    pub(super) descriptions: Arc<Vec<Desc>>,
}

/// The request counters of one route.
pub struct RouteCounters {
    by_thread: Box<[Box<[PathCounters; 2]>]>,
}

/// The counts of one route and path, summed over all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathTotals {
    /// Answered requests.
    pub responses: u64,
    /// Requests answered with a 4xx.
    pub client_errors: u64,
    /// Requests answered with a 5xx.
    pub server_errors: u64,
    /// Counts of request durations, one per bucket.
    pub duration_counts: DurationCounts,
    /// Requests answered with a 4xx, by client group where that is known.
    pub client_errors_by_group: [u64; CLIENT_GROUPS],
    /// Requests answered with a 5xx, by client group where that is known.
    pub server_errors_by_group: [u64; CLIENT_GROUPS],
    /// Requests that count for gates, by client group where that is known.
    pub requests_by_group: [u64; CLIENT_GROUPS],
    /// Requests that were assigned to the path at random.
    pub random_assignments: u64,
    /// Requests that were assigned to the path although the bucket of their sticky key belongs to
    /// the other one.
    pub mismatched_assignments: u64,
}

/// The counters of one thread, route and path.
pub(super) struct PathCounters {
    /// Indexed by the status code less 100.
    pub(super) responses_by_code: [AtomicU64; STATUS_CODE_COUNT],
    /// One per bucket, not cumulative; the last bucket is +Inf.
    pub(super) duration_counts: [AtomicU64; DURATION_BUCKET_COUNT],
    pub(super) duration_micros_sum: AtomicU64,
    client_errors_by_group: [AtomicU64; CLIENT_GROUPS],
    server_errors_by_group: [AtomicU64; CLIENT_GROUPS],
    requests_by_group: [AtomicU64; CLIENT_GROUPS],
    pub(super) unkeyed_requests: AtomicU64,
    random_assignments: AtomicU64,
    mismatched_assignments: AtomicU64,
    pub(super) cut_by_drain: AtomicU64,
}

// === impl RequestCounters ===

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
            description(names::DRAIN_CUT, DRAIN_CUT_HELP, &["route"]),
        ];
        Self {
            thread_count: threads.max(1),
            routes: Arc::default(),
            descriptions: Arc::new(descriptions),
        }
    }

    /// The counters of a route; the same ones at every call, so that a reload keeps the counts.
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

    /// The requests of all routes that were cut off because the drain was over.
    #[must_use]
    pub fn total_cut_by_drain(&self) -> u64 {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.values().map(|route| route.total_cut_by_drain()).sum()
    }
}

// === impl RouteCounters ===

impl RouteCounters {
    /// Counts an answer with status `code`. `thread` is the index of the calling data-plane
    /// thread; no other thread may pass it.
    pub fn count_response(&self, thread: usize, path: RequestPath, code: u16) {
        let slot = usize::from(code.clamp(100, 599)) - 100;
        add_single_writer(&self.path_counters(thread, path).responses_by_code[slot], 1);
    }

    /// Counts a 4xx or 5xx answer for the client group `group`, if it is known.
    pub fn count_error_by_group(
        &self,
        thread: usize,
        path: RequestPath,
        code: u16,
        group: Option<u8>,
    ) {
        let (Some(group), counters) = (group, self.path_counters(thread, path)) else { return };
        let by_group = if code < 500 {
            &counters.client_errors_by_group
        } else {
            &counters.server_errors_by_group
        };
        add_single_writer(&by_group[usize::from(group) % CLIENT_GROUPS], 1);
    }

    /// Counts a request of the client group `group`, if it is known: on the sync path one that was
    /// answered, on the async path one that became a task or was refused.
    pub fn count_request_by_group(&self, thread: usize, path: RequestPath, group: Option<u8>) {
        let Some(group) = group else { return };
        let by_group = &self.path_counters(thread, path).requests_by_group;
        add_single_writer(&by_group[usize::from(group) % CLIENT_GROUPS], 1);
    }

    /// Counts a request that was assigned at random because it has no sticky key.
    pub fn count_unkeyed_request(&self, thread: usize) {
        add_single_writer(&self.path_counters(thread, RequestPath::Sync).unkeyed_requests, 1);
    }

    /// Counts a request that was assigned to a path at random.
    pub fn count_random_assignment(&self, thread: usize, path: RequestPath) {
        add_single_writer(&self.path_counters(thread, path).random_assignments, 1);
    }

    /// Counts a request that was assigned to a path although the bucket of its sticky key belongs
    /// to the other one.
    pub fn count_mismatched_assignment(&self, thread: usize, path: RequestPath) {
        add_single_writer(&self.path_counters(thread, path).mismatched_assignments, 1);
    }

    /// Counts a request that was cut off because the drain was over.
    pub fn count_cut_by_drain(&self, thread: usize, path: RequestPath) {
        add_single_writer(&self.path_counters(thread, path).cut_by_drain, 1);
    }

    /// The requests of both paths that were cut off because the drain was over.
    #[must_use]
    pub fn total_cut_by_drain(&self) -> u64 {
        [RequestPath::Sync, RequestPath::Async]
            .map(|path| self.sum_threads(path, |counters| &counters.cut_by_drain))
            .iter()
            .sum()
    }

    /// Records the duration of a request.
    pub fn observe_duration(&self, thread: usize, path: RequestPath, took: Duration) {
        let counters = self.path_counters(thread, path);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add_single_writer(&counters.duration_counts[duration_bucket(took)], 1);
        add_single_writer(&counters.duration_micros_sum, micros);
    }

    /// The counts of a path since the process started.
    #[must_use]
    pub fn path_totals(&self, path: RequestPath) -> PathTotals {
        let codes = |from: usize, to: usize| {
            (from..to)
                .map(|code| {
                    self.sum_threads(path, |counters| &counters.responses_by_code[code - 100])
                })
                .sum()
        };
        PathTotals {
            responses: codes(100, 600),
            client_errors: codes(400, 500),
            server_errors: codes(500, 600),
            duration_counts: std::array::from_fn(|bucket| {
                self.sum_threads(path, |counters| &counters.duration_counts[bucket])
            }),
            client_errors_by_group: std::array::from_fn(|group| {
                self.sum_threads(path, |counters| &counters.client_errors_by_group[group])
            }),
            server_errors_by_group: std::array::from_fn(|group| {
                self.sum_threads(path, |counters| &counters.server_errors_by_group[group])
            }),
            requests_by_group: std::array::from_fn(|group| {
                self.sum_threads(path, |counters| &counters.requests_by_group[group])
            }),
            random_assignments: self.sum_threads(path, |counters| &counters.random_assignments),
            mismatched_assignments: self
                .sum_threads(path, |counters| &counters.mismatched_assignments),
        }
    }

    fn path_counters(&self, thread: usize, path: RequestPath) -> &PathCounters {
        &self.by_thread[thread % self.by_thread.len()][path as usize]
    }

    /// The sum over all threads of one counter of a path.
    pub(super) fn sum_threads(
        &self,
        path: RequestPath,
        of: impl Fn(&PathCounters) -> &AtomicU64,
    ) -> u64 {
        self.by_thread.iter().map(|thread| of(&thread[path as usize]).load(Ordering::Relaxed)).sum()
    }
}

/// Adds without a locked instruction: a load and a store suffice, since only one thread writes.
fn add_single_writer(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

// === impl PathCounters ===

impl Default for PathCounters {
    fn default() -> Self {
        Self {
            responses_by_code: std::array::from_fn(|_| AtomicU64::new(0)),
            duration_counts: std::array::from_fn(|_| AtomicU64::new(0)),
            duration_micros_sum: AtomicU64::new(0),
            client_errors_by_group: Default::default(),
            server_errors_by_group: Default::default(),
            requests_by_group: Default::default(),
            unkeyed_requests: AtomicU64::new(0),
            random_assignments: AtomicU64::new(0),
            mismatched_assignments: AtomicU64::new(0),
            cut_by_drain: AtomicU64::new(0),
        }
    }
}
