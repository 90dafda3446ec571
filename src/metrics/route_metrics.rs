//! The metrics of routes and their rollouts: methods of [`Metrics`] labelled by route.

use super::Metrics;
use super::label_values::{
    DEPRECATION_MODES, FallbackReason, IDEMPOTENCY_OUTCOMES, ShadowOutcome, TaskOutcome,
};

impl Metrics {
    /// Creates the series of a route, at 0.
    pub fn declare_route(&self, route: &str) {
        let by_route = &self.routes;
        for reason in FallbackReason::ALL {
            by_route.fallbacks.with_label_values(&[route, reason.as_str()]);
        }
        for outcome in TaskOutcome::ALL {
            by_route.task_outcomes.with_label_values(&[route, outcome.as_str()]);
        }
        for mode in DEPRECATION_MODES {
            by_route.deprecated_requests.with_label_values(&[route, mode]);
        }
        for outcome in IDEMPOTENCY_OUTCOMES {
            by_route.idempotent_requests.with_label_values(&[route, outcome]);
        }
        for outcome in ShadowOutcome::ALL {
            by_route.shadow_outcomes.with_label_values(&[route, outcome.as_str()]);
        }
        by_route.unknown_enqueues.with_label_values(&[route]);
        by_route.rollout_weight.with_label_values(&[route]);
        by_route.rollout_percent.with_label_values(&[route]);
        let _ = self.request_counters.route_counters(route);
    }

    /// Creates the series of these gates, given as route and gate name, and removes all others.
    pub fn declare_gates<'a>(&self, gates: impl Iterator<Item = (&'a str, &'a str)>) {
        self.routes.gate_verdict.reset();
        for (route, gate) in gates {
            self.routes.gate_verdict.with_label_values(&[route, gate]);
        }
    }

    /// Counts how a canaried request ended.
    pub fn count_task_outcome(&self, route: &str, outcome: TaskOutcome) {
        self.routes.task_outcomes.with_label_values(&[route, outcome.as_str()]).inc();
    }

    /// Counts a request of the async cohort that was served on the sync path.
    pub fn count_fallback(&self, route: &str, reason: FallbackReason) {
        self.routes.fallbacks.with_label_values(&[route, reason.as_str()]).inc();
    }

    /// Counts a request whose enqueue was never answered.
    pub fn count_unknown_enqueue(&self, route: &str) {
        self.routes.unknown_enqueues.with_label_values(&[route]).inc();
    }

    /// Counts a call of a deprecated route by its deprecation mode (`announce`, `redirect` or
    /// `gone`).
    pub fn count_deprecated_request(&self, route: &str, mode: &str) {
        self.routes.deprecated_requests.with_label_values(&[route, mode]).inc();
    }

    /// Counts a request with an idempotency key by the outcome of its claim.
    pub fn count_idempotent_request(&self, route: &str, outcome: &str) {
        self.routes.idempotent_requests.with_label_values(&[route, outcome]).inc();
    }

    /// Counts a request that was picked for shadow traffic, or its copy.
    pub fn count_shadow_outcome(&self, route: &str, outcome: ShadowOutcome) {
        self.routes.shadow_outcomes.with_label_values(&[route, outcome.as_str()]).inc();
    }

    /// The number of canaried requests of a route with this outcome in this process.
    #[must_use]
    pub fn read_task_outcomes(&self, route: &str, outcome: TaskOutcome) -> u64 {
        self.routes.task_outcomes.with_label_values(&[route, outcome.as_str()]).get()
    }

    /// The number of fallbacks of a route for this reason in this process.
    #[must_use]
    pub fn read_fallbacks(&self, route: &str, reason: FallbackReason) -> u64 {
        self.routes.fallbacks.with_label_values(&[route, reason.as_str()]).get()
    }

    /// The number of shadow outcomes of this kind of a route in this process.
    #[must_use]
    pub fn read_shadow_outcomes(&self, route: &str, outcome: ShadowOutcome) -> u64 {
        self.routes.shadow_outcomes.with_label_values(&[route, outcome.as_str()]).get()
    }

    /// Sets the rollout gauges of a route, percent.
    pub fn set_rollout_gauges(&self, route: &str, weight: f64, percent: f64) {
        self.routes.rollout_weight.with_label_values(&[route]).set(weight);
        self.routes.rollout_percent.with_label_values(&[route]).set(percent);
    }

    /// Sets the last verdict of a gate: 1 pass, 0 inconclusive, -1 fail, NaN error.
    pub fn set_gate_verdict(&self, route: &str, gate: &str, verdict: f64) {
        self.routes.gate_verdict.with_label_values(&[route, gate]).set(verdict);
    }
}
