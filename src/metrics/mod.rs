//! The metrics of one process.
//!
//! Labels come from the configuration or from a closed set, never from a request, and every series
//! exists at 0 as soon as its route or topic is configured. Counters are per process; gauges of
//! shared things have the same value in every `serve` process, so dashboards take their maximum.
//! The methods of [`Metrics`] are in `task_metrics.rs` and `route_metrics.rs`; requests are counted
//! per thread by [`RequestCounters`].

mod collectors;
mod label_values;
pub mod names;
mod request_collector;
mod request_counters;
mod route_metrics;
mod task_metrics;

use prometheus::core::Collector;
use prometheus::{Encoder, IntCounter, IntGauge, Registry, TextEncoder};

use self::collectors::{RouteCollectors, TaskCollectors};
use self::label_values::{DELIVERY_KINDS, DELIVERY_OUTCOMES};
pub use self::label_values::{
    FallbackReason, ShadowOutcome, TASKS_ROUTE_LABEL, TaskOutcome, UNMATCHED_ROUTE_LABEL,
};
pub use self::request_counters::{PathTotals, RequestCounters, RouteCounters};

/// The metrics of one process and the registry that renders them.
pub struct Metrics {
    registry: Registry,
    tasks: TaskCollectors,
    routes: RouteCollectors,
    /// Per-thread counts of requests.
    pub request_counters: RequestCounters,
    /// Live workers of this process.
    pub workers_active: IntGauge,
    /// Workers of this process that the running tasks keep busy.
    pub workers_busy: IntGauge,
    /// Worker processes that died without being stopped.
    pub workers_crashed: IntCounter,
    /// 1 when the last reload was applied, 0 when it was refused.
    pub config_reload_ok: IntGauge,
    /// Waiting deliveries.
    pub outbox_depth: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    /// The metrics of a process with `threads` data-plane threads.
    ///
    /// # Panics
    /// Never: the names are constants that are registered once, in a registry of their own.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let metrics = Self {
            registry: Registry::new(),
            tasks: TaskCollectors::new(),
            routes: RouteCollectors::new(),
            request_counters: RequestCounters::new(threads),
            workers_active: gauge(names::WORKERS_ACTIVE, "Live workers of this process"),
            workers_busy: gauge(
                names::WORKERS_BUSY,
                "Workers of this process that the running tasks keep busy",
            ),
            workers_crashed: IntCounter::new(
                names::WORKERS_CRASHED,
                "Worker processes that died without being stopped",
            )
            .expect("a valid name"),
            config_reload_ok: gauge(
                names::CONFIG_RELOAD_OK,
                "1 when the last reload was applied, 0 when refused",
            ),
            outbox_depth: gauge(names::OUTBOX_DEPTH, "Deliveries that wait"),
        };
        metrics.config_reload_ok.set(1);
        for kind in DELIVERY_KINDS {
            for outcome in DELIVERY_OUTCOMES {
                metrics.tasks.deliveries.with_label_values(&[kind, outcome]);
            }
        }
        metrics.register_collectors();
        metrics
    }

    fn register_collectors(&self) {
        let own: [Box<dyn Collector>; 6] = [
            Box::new(self.request_counters.clone()),
            Box::new(self.workers_active.clone()),
            Box::new(self.workers_busy.clone()),
            Box::new(self.workers_crashed.clone()),
            Box::new(self.config_reload_ok.clone()),
            Box::new(self.outbox_depth.clone()),
        ];
        for collector in own.into_iter().chain(self.tasks.boxed()).chain(self.routes.boxed()) {
            self.registry.register(collector).expect("each name is registered once");
        }
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            self.registry.register(Box::new(process)).expect("its names differ from all others");
        }
    }

    /// All metrics in the Prometheus text format.
    #[must_use]
    pub fn render_exposition(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cohort_hash::RequestPath;

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
        route.count_response(0, RequestPath::Sync, 200);
        route.count_response(1, RequestPath::Sync, 200);
        route.observe_duration(1, RequestPath::Async, std::time::Duration::from_millis(30));
        let text = metrics.render_exposition();
        assert!(
            text.contains(
                "omnidaemon_requests_total{code=\"200\",path=\"sync\",route=\"invoke\"} 2"
            ),
            "{text}"
        );
        assert!(
            text.contains(concat!(
                "omnidaemon_request_duration_seconds_bucket",
                "{path=\"async\",route=\"invoke\",le=\"0.05\"} 1"
            )),
            "{text}"
        );
    }
}
