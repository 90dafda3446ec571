//! Metric handles. Names are in `names.rs`; what the data plane counts per request is in
//! `cells.rs`.
//!
//! Labels come from the configuration, never from a request, and every series exists at 0 from the
//! moment its route or topic does. Counters are per process; gauges of shared things are equal on
//! every `serve`, so dashboards take their maximum.

mod cells;
pub mod names;
mod shadow;

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use self::cells::{PathTotals, RequestCounters, RouteCounters};
pub use self::shadow::ShadowOutcome;

use crate::task::DURATION_BUCKET_BOUNDS;

/// The `route` label of requests that no route names.
pub const UNMATCHED_ROUTE_LABEL: &str = "_other";
/// The `route` label of the task endpoints.
pub const TASKS_ROUTE_LABEL: &str = "_tasks";

/// Which way a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// To the upstream, at once.
    Sync,
    /// Through the queue.
    Async,
}

impl Path {
    /// The `path` label, and the value of `x-omnidaemon-path`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

/// Why a request of the async cohort was served sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackReason {
    /// Not a request that can be captured.
    Ineligible,
    /// The store is gone.
    StoreUnavailable,
    /// The queue is at `max_backlog`.
    Backpressure,
    /// The store is there and took nothing in.
    StoreRefused,
    /// The store died before it said whether the task is durable.
    EnqueueUnknown,
}

impl FallbackReason {
    const ALL: [Self; 5] = [
        Self::Ineligible,
        Self::StoreUnavailable,
        Self::Backpressure,
        Self::StoreRefused,
        Self::EnqueueUnknown,
    ];

    /// The `reason` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ineligible => "ineligible",
            Self::StoreUnavailable => "store_unavailable",
            Self::Backpressure => "backpressure",
            Self::StoreRefused => "store_refused",
            Self::EnqueueUnknown => "unknown",
        }
    }
}

/// How a canaried request ended, or what its client noticed on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// Its task completed.
    Completed,
    /// Its task failed for good.
    Failed,
    /// Its task was cancelled.
    Cancelled,
    /// Its client was told to poll.
    Deferred,
    /// The store refused it, or its fate there is not known and its client was told so
    /// (`on_unknown: refuse`).
    Refused,
    /// The proxy answered it with a 4xx: its envelope names what is not configured, or its body did
    /// not come.
    Rejected,
}

impl TaskOutcome {
    const ALL: [Self; 6] = [
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Deferred,
        Self::Refused,
        Self::Rejected,
    ];

    /// The `outcome` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
        }
    }
}

/// The handles of one process.
pub struct Metrics {
    registry: Registry,
    tasks_received: IntCounterVec,
    tasks_processed: IntCounterVec,
    tasks_failed: IntCounterVec,
    processing_duration: HistogramVec,
    queue_depth: IntGaugeVec,
    queue_oldest: GaugeVec,
    /// Live slots of this process.
    pub workers_active: IntGauge,
    /// Slots of this process that run a task.
    pub workers_busy: IntGauge,
    /// Worker processes that died unasked.
    pub workers_crashed: IntCounter,
    /// Per-thread counts of requests.
    pub request_counters: RequestCounters,
    task_outcomes: IntCounterVec,
    rollout_weight: GaugeVec,
    rollout_percent: GaugeVec,
    gate_verdict: GaugeVec,
    fallbacks: IntCounterVec,
    unknown_enqueues: IntCounterVec,
    deprecated_requests: IntCounterVec,
    /// 1 or 0.
    pub config_reload_ok: IntGauge,
    deliveries: IntCounterVec,
    /// Deliveries that wait.
    pub outbox_depth: IntGauge,
    idempotent_requests: IntCounterVec,
    tasks_trimmed: IntCounterVec,
    shadow_outcomes: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    /// Handles for a process with `threads` data-plane threads.
    ///
    /// # Panics
    /// Never: the names are constants that are registered once, in a registry of their own.
    #[must_use]
    #[allow(clippy::too_many_lines)] // one collector after the other
    pub fn new(threads: usize) -> Self {
        let registry = Registry::new();
        let requests = RequestCounters::new(threads);
        let metrics = Self {
            tasks_received: counter_vec(names::TASKS_RECEIVED, "Tasks accepted", &["topic"]),
            tasks_processed: counter_vec(names::TASKS_PROCESSED, "Tasks completed", &["topic"]),
            tasks_failed: counter_vec(
                names::TASKS_FAILED,
                "Tasks that failed for good",
                &["topic"],
            ),
            processing_duration: HistogramVec::new(
                HistogramOpts::new(names::PROCESSING_DURATION, "Seconds an attempt took")
                    .buckets(DURATION_BUCKET_BOUNDS.to_vec()),
                &["topic"],
            )
            .expect("a valid name"),
            queue_depth: IntGaugeVec::new(
                Opts::new(names::QUEUE_DEPTH, "Waiting tasks"),
                &["topic"],
            )
            .expect("a valid name"),
            queue_oldest: gauge_vec(
                names::QUEUE_OLDEST,
                "Age of the oldest waiting task, seconds",
                &["topic"],
            ),
            workers_active: gauge(names::WORKERS_ACTIVE, "Live worker slots of this process"),
            workers_busy: gauge(
                names::WORKERS_BUSY,
                "Worker slots of this process that run a task",
            ),
            workers_crashed: IntCounter::new(
                names::WORKERS_CRASHED,
                "Worker processes that died unasked",
            )
            .expect("a valid name"),
            request_counters: requests.clone(),
            task_outcomes: counter_vec(
                names::TASK_OUTCOMES,
                "How canaried requests ended, and what their clients noticed",
                &["route", "outcome"],
            ),
            rollout_weight: gauge_vec(
                names::ROLLOUT_WEIGHT,
                "The running weight, percent",
                &["route"],
            ),
            rollout_percent: gauge_vec(
                names::ROLLOUT_PERCENT,
                "The allowed share, percent",
                &["route"],
            ),
            gate_verdict: gauge_vec(
                names::GATE_VERDICT,
                "What a gate said last: 1 pass, 0 inconclusive, -1 fail, NaN error",
                &["route", "gate"],
            ),
            fallbacks: counter_vec(
                names::FALLBACK,
                "Requests of the async cohort that were served sync",
                &["route", "reason"],
            ),
            unknown_enqueues: counter_vec(
                names::UNKNOWN_ENQUEUES,
                "Requests whose enqueue was never answered",
                &["route"],
            ),
            deprecated_requests: counter_vec(
                names::DEPRECATED_REQUESTS,
                "Calls of a deprecated route",
                &["route", "mode"],
            ),
            config_reload_ok: gauge(
                names::CONFIG_RELOAD_OK,
                "1 when the last reload was applied, 0 when refused",
            ),
            deliveries: counter_vec(
                names::DELIVERIES,
                "Tries to tell of a task's end",
                &["kind", "outcome"],
            ),
            outbox_depth: gauge(names::OUTBOX_DEPTH, "Deliveries that wait"),
            idempotent_requests: counter_vec(
                names::IDEMPOTENT_REQUESTS,
                "Requests with an idempotency key",
                &["route", "outcome"],
            ),
            tasks_trimmed: counter_vec(
                names::TASKS_TRIMMED,
                "Tasks that failed because a foreign publisher trimmed them",
                &["topic"],
            ),
            shadow_outcomes: counter_vec(
                names::SHADOW_REQUESTS,
                "Requests that shadow traffic picked, by what came of them and their copies",
                &["route", "outcome"],
            ),
            registry,
        };
        metrics.config_reload_ok.set(1);
        for kind in ["webhook", "reply"] {
            for outcome in ["delivered", "retried", "dropped"] {
                metrics.deliveries.with_label_values(&[kind, outcome]);
            }
        }
        metrics.register_collectors();
        metrics
    }

    fn register_collectors(&self) {
        let collectors: [Box<dyn prometheus::core::Collector>; 23] = [
            Box::new(self.tasks_received.clone()),
            Box::new(self.tasks_processed.clone()),
            Box::new(self.tasks_failed.clone()),
            Box::new(self.processing_duration.clone()),
            Box::new(self.queue_depth.clone()),
            Box::new(self.queue_oldest.clone()),
            Box::new(self.workers_active.clone()),
            Box::new(self.workers_busy.clone()),
            Box::new(self.workers_crashed.clone()),
            Box::new(self.request_counters.clone()),
            Box::new(self.task_outcomes.clone()),
            Box::new(self.rollout_weight.clone()),
            Box::new(self.rollout_percent.clone()),
            Box::new(self.gate_verdict.clone()),
            Box::new(self.fallbacks.clone()),
            Box::new(self.unknown_enqueues.clone()),
            Box::new(self.deprecated_requests.clone()),
            Box::new(self.config_reload_ok.clone()),
            Box::new(self.deliveries.clone()),
            Box::new(self.outbox_depth.clone()),
            Box::new(self.idempotent_requests.clone()),
            Box::new(self.tasks_trimmed.clone()),
            Box::new(self.shadow_outcomes.clone()),
        ];
        for collector in collectors {
            self.registry.register(collector).expect("each name is registered once");
        }
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            self.registry.register(Box::new(process)).expect("its names are not ours");
        }
    }

    /// Makes a route's series exist.
    pub fn declare_route(&self, route: &str) {
        for reason in FallbackReason::ALL {
            self.fallbacks.with_label_values(&[route, reason.as_str()]);
        }
        for outcome in TaskOutcome::ALL {
            self.task_outcomes.with_label_values(&[route, outcome.as_str()]);
        }
        for mode in ["announce", "redirect", "gone"] {
            self.deprecated_requests.with_label_values(&[route, mode]);
        }
        for outcome in ["claimed", "replayed", "conflict", "mismatch", "unclaimed"] {
            self.idempotent_requests.with_label_values(&[route, outcome]);
        }
        for outcome in ShadowOutcome::ALL {
            self.shadow_outcomes.with_label_values(&[route, outcome.as_str()]);
        }
        self.unknown_enqueues.with_label_values(&[route]);
        self.rollout_weight.with_label_values(&[route]);
        self.rollout_percent.with_label_values(&[route]);
        let _ = self.request_counters.route_counters(route);
    }

    /// Makes a topic's series exist.
    pub fn declare_topic(&self, topic: &str) {
        for counter in
            [&self.tasks_received, &self.tasks_processed, &self.tasks_failed, &self.tasks_trimmed]
        {
            counter.with_label_values(&[topic]);
        }
        self.processing_duration.with_label_values(&[topic]);
        self.queue_depth.with_label_values(&[topic]);
        self.queue_oldest.with_label_values(&[topic]);
    }

    /// Counts an accepted task.
    pub fn count_task_received(&self, topic: &str) {
        self.tasks_received.with_label_values(&[topic]).inc();
    }

    /// Counts a completed task.
    pub fn count_task_processed(&self, topic: &str) {
        self.tasks_processed.with_label_values(&[topic]).inc();
    }

    /// Counts a task that failed for good.
    pub fn count_task_failed(&self, topic: &str) {
        self.tasks_failed.with_label_values(&[topic]).inc();
    }

    /// Counts a task, failed already, that a foreign publisher trimmed.
    pub fn count_task_trimmed(&self, topic: &str) {
        self.tasks_trimmed.with_label_values(&[topic]).inc();
    }

    /// Records how long an attempt took.
    pub fn observe_attempt_duration(&self, topic: &str, took: std::time::Duration) {
        self.processing_duration.with_label_values(&[topic]).observe(took.as_secs_f64());
    }

    /// Sets a topic's queue gauges.
    pub fn set_queue_gauges(&self, topic: &str, queued: u64, oldest: std::time::Duration) {
        self.queue_depth.with_label_values(&[topic]).set(i64::try_from(queued).unwrap_or(i64::MAX));
        self.queue_oldest.with_label_values(&[topic]).set(oldest.as_secs_f64());
    }

    /// A topic's queue gauges as they were set last: waiting tasks, and the age of the oldest.
    #[must_use]
    pub fn read_queue_gauges(&self, topic: &str) -> (u64, std::time::Duration) {
        let depth = self.queue_depth.with_label_values(&[topic]).get();
        let oldest = self.queue_oldest.with_label_values(&[topic]).get();
        (
            u64::try_from(depth).unwrap_or_default(),
            std::time::Duration::try_from_secs_f64(oldest).unwrap_or_default(),
        )
    }

    /// Counts how a canaried request ended.
    pub fn count_task_outcome(&self, route: &str, outcome: TaskOutcome) {
        self.task_outcomes.with_label_values(&[route, outcome.as_str()]).inc();
    }

    /// Counts a request of the async cohort that was served sync.
    pub fn count_fallback(&self, route: &str, reason: FallbackReason) {
        self.fallbacks.with_label_values(&[route, reason.as_str()]).inc();
    }

    /// How many canaried requests of a route ended so in this process.
    #[must_use]
    pub fn read_task_outcomes(&self, route: &str, outcome: TaskOutcome) -> u64 {
        self.task_outcomes.with_label_values(&[route, outcome.as_str()]).get()
    }

    /// How many requests of a route's async cohort this process served sync for that reason.
    #[must_use]
    pub fn read_fallbacks(&self, route: &str, reason: FallbackReason) -> u64 {
        self.fallbacks.with_label_values(&[route, reason.as_str()]).get()
    }

    /// How many requests of a route, or their copies, shadow traffic counted so in this process.
    #[must_use]
    pub fn read_shadow_outcomes(&self, route: &str, outcome: ShadowOutcome) -> u64 {
        self.shadow_outcomes.with_label_values(&[route, outcome.as_str()]).get()
    }

    /// Counts a request whose enqueue was never answered.
    pub fn count_unknown_enqueue(&self, route: &str) {
        self.unknown_enqueues.with_label_values(&[route]).inc();
    }

    /// Counts a call of a deprecated route.
    pub fn count_deprecated_request(&self, route: &str, mode: &str) {
        self.deprecated_requests.with_label_values(&[route, mode]).inc();
    }

    /// Sets a route's rollout gauges, percent.
    pub fn set_rollout_gauges(&self, route: &str, weight: f64, percent: f64) {
        self.rollout_weight.with_label_values(&[route]).set(weight);
        self.rollout_percent.with_label_values(&[route]).set(percent);
    }

    /// Makes the series of these gates exist, by route and name, and no others.
    pub fn declare_gates<'a>(&self, gates: impl Iterator<Item = (&'a str, &'a str)>) {
        self.gate_verdict.reset();
        for (route, gate) in gates {
            self.gate_verdict.with_label_values(&[route, gate]);
        }
    }

    /// Sets what a gate said last: 1, 0, -1 or NaN.
    pub fn set_gate_verdict(&self, route: &str, gate: &str, verdict: f64) {
        self.gate_verdict.with_label_values(&[route, gate]).set(verdict);
    }

    /// Counts a try to tell of a task's end, by its kind and how it went.
    pub fn count_delivery(&self, kind: &str, outcome: &str) {
        self.deliveries.with_label_values(&[kind, outcome]).inc();
    }

    /// Counts a request with an idempotency key, by what came of its claim.
    pub fn count_idempotent_request(&self, route: &str, outcome: &str) {
        self.idempotent_requests.with_label_values(&[route, outcome]).inc();
    }

    /// Counts a request that shadow traffic picked, or its copy, by what came of it.
    pub fn count_shadow_outcome(&self, route: &str, outcome: ShadowOutcome) {
        self.shadow_outcomes.with_label_values(&[route, outcome.as_str()]).inc();
    }

    /// Everything in the Prometheus text format.
    #[must_use]
    pub fn render_exposition(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn counter_vec(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name")
}

fn gauge_vec(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    GaugeVec::new(Opts::new(name, help), labels).expect("a valid name")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_at_zero_from_the_start() {
        let metrics = Metrics::new(1);
        metrics.declare_route("invoke");
        metrics.declare_topic("t");
        metrics.declare_gates([("invoke", "errors")].into_iter());
        let text = metrics.render_exposition();
        for name in names::ALL_METRICS {
            assert!(
                text.contains(&format!("\n{name}")) || text.starts_with(name),
                "{name} is missing in {text}"
            );
        }
        assert!(
            text.contains("omnidaemon_fallback_total{reason=\"ineligible\",route=\"invoke\"} 0"),
            "{text}"
        );
    }

    #[test]
    fn requests_of_all_threads_are_summed() {
        let metrics = Metrics::new(2);
        let route = metrics.request_counters.route_counters("invoke");
        route.count_response(0, Path::Sync, 200);
        route.count_response(1, Path::Sync, 200);
        route.observe_duration(1, Path::Async, std::time::Duration::from_millis(30));
        let text = metrics.render_exposition();
        assert!(
            text.contains(
                "omnidaemon_requests_total{code=\"200\",path=\"sync\",route=\"invoke\"} 2"
            ),
            "{text}"
        );
        assert!(
            text.contains("omnidaemon_request_duration_seconds_bucket{path=\"async\",route=\"invoke\",le=\"0.05\"} 1"),
            "{text}"
        );
    }
}
