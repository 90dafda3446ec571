//! The Prometheus collectors of tasks and of routes, with their names, help texts and labels.

use prometheus::core::Collector;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use super::names;
use crate::task::DURATION_BUCKET_BOUNDS;

/// The collectors that are labelled by topic or by delivery.
pub(super) struct TaskCollectors {
    pub(super) received: IntCounterVec,
    pub(super) processed: IntCounterVec,
    pub(super) failed: IntCounterVec,
    pub(super) trimmed: IntCounterVec,
    pub(super) attempt_duration: HistogramVec,
    pub(super) queue_depth: IntGaugeVec,
    pub(super) queue_oldest: GaugeVec,
    pub(super) topic_slots: IntGaugeVec,
    pub(super) deliveries: IntCounterVec,
}

/// The collectors that are labelled by route.
pub(super) struct RouteCollectors {
    pub(super) task_outcomes: IntCounterVec,
    pub(super) rollout_weight: GaugeVec,
    pub(super) rollout_percent: GaugeVec,
    pub(super) gate_verdict: GaugeVec,
    pub(super) fallbacks: IntCounterVec,
    pub(super) unknown_enqueues: IntCounterVec,
    pub(super) deprecated_requests: IntCounterVec,
    pub(super) idempotent_requests: IntCounterVec,
    pub(super) shadow_outcomes: IntCounterVec,
}

// === impl TaskCollectors ===

impl TaskCollectors {
    pub(super) fn new() -> Self {
        let topic = &["topic"];
        Self {
            received: counter_vec(names::TASKS_RECEIVED, "Tasks accepted", topic),
            processed: counter_vec(names::TASKS_PROCESSED, "Tasks completed", topic),
            failed: counter_vec(names::TASKS_FAILED, "Tasks that failed for good", topic),
            trimmed: counter_vec(
                names::TASKS_TRIMMED,
                "Tasks that failed because a foreign publisher trimmed them",
                topic,
            ),
            attempt_duration: HistogramVec::new(
                HistogramOpts::new(names::PROCESSING_DURATION, "Seconds an attempt took")
                    .buckets(DURATION_BUCKET_BOUNDS.to_vec()),
                topic,
            )
            .expect("a valid name"),
            queue_depth: IntGaugeVec::new(Opts::new(names::QUEUE_DEPTH, "Waiting tasks"), topic)
                .expect("a valid name"),
            queue_oldest: gauge_vec(
                names::QUEUE_OLDEST,
                "Age of the oldest waiting task, seconds",
                topic,
            ),
            topic_slots: IntGaugeVec::new(
                Opts::new(
                    names::TOPIC_SLOTS,
                    "Tasks that the topic's live consumers can run at a time",
                ),
                topic,
            )
            .expect("a valid name"),
            deliveries: counter_vec(
                names::DELIVERIES,
                "Tries to deliver the end of a task",
                &["kind", "outcome"],
            ),
        }
    }

    pub(super) fn boxed(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.received.clone()),
            Box::new(self.processed.clone()),
            Box::new(self.failed.clone()),
            Box::new(self.trimmed.clone()),
            Box::new(self.attempt_duration.clone()),
            Box::new(self.queue_depth.clone()),
            Box::new(self.queue_oldest.clone()),
            Box::new(self.topic_slots.clone()),
            Box::new(self.deliveries.clone()),
        ]
    }
}

// === impl RouteCollectors ===

impl RouteCollectors {
    pub(super) fn new() -> Self {
        let route = &["route"];
        Self {
            task_outcomes: counter_vec(
                names::TASK_OUTCOMES,
                "How canaried requests ended, and what their clients noticed",
                &["route", "outcome"],
            ),
            rollout_weight: gauge_vec(names::ROLLOUT_WEIGHT, "The running weight, percent", route),
            rollout_percent: gauge_vec(names::ROLLOUT_PERCENT, "The allowed share, percent", route),
            gate_verdict: gauge_vec(
                names::GATE_VERDICT,
                "The last verdict of a gate: 1 pass, 0 inconclusive, -1 fail, NaN error",
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
                route,
            ),
            deprecated_requests: counter_vec(
                names::DEPRECATED_REQUESTS,
                "Calls of a deprecated route",
                &["route", "mode"],
            ),
            idempotent_requests: counter_vec(
                names::IDEMPOTENT_REQUESTS,
                "Requests with an idempotency key",
                &["route", "outcome"],
            ),
            shadow_outcomes: counter_vec(
                names::SHADOW_REQUESTS,
                "Requests picked for shadow traffic, by the outcome of them and of their copies",
                &["route", "outcome"],
            ),
        }
    }

    pub(super) fn boxed(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.task_outcomes.clone()),
            Box::new(self.rollout_weight.clone()),
            Box::new(self.rollout_percent.clone()),
            Box::new(self.gate_verdict.clone()),
            Box::new(self.fallbacks.clone()),
            Box::new(self.unknown_enqueues.clone()),
            Box::new(self.deprecated_requests.clone()),
            Box::new(self.idempotent_requests.clone()),
            Box::new(self.shadow_outcomes.clone()),
        ]
    }
}

fn counter_vec(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name")
}

fn gauge_vec(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    GaugeVec::new(Opts::new(name, help), labels).expect("a valid name")
}
