//! The section `rollout` of a route: the share of traffic that goes async, the steps to it and the
//! gates of each step.
//!
//! Ratios are shares from 0 to 1, also where the file writes percentages. How gates are evaluated
//! is in `src/rollout/gate/`.

use std::time::Duration;

use http::HeaderName;

use crate::cohort_hash::Weight;
use crate::config::model::gate_type::GateType;
use crate::config::{PromotionWindow, Secret, ShadowConfig};

/// `rollout:`
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutConfig {
    /// The largest share of requests that may go async.
    pub percent: Weight,
    /// The weights on the way to `percent`, rising.
    pub steps: Vec<StepConfig>,
    /// Whether gates must pass before the weight is raised.
    pub mode: RolloutMode,
    /// Hashed with the sticky key, so that rollouts have independent cohorts; by default the name
    /// of the route.
    pub salt: String,
    /// The headers and cookies that identify a client; the first one present is used. When the list
    /// is empty, each request is assigned at random.
    pub sticky_keys: Vec<StickyKey>,
    /// Clients that take one path at every weight above 0.
    pub pin: PinConfig,
    /// The time between two evaluations of the gates.
    pub evaluation_interval: Duration,
    /// How long a step runs before its gates may pass; a step may have its own soak.
    pub soak: Duration,
    /// The number of requests that a step needs before its gates may pass.
    pub min_samples: MinSamples,
    /// The share of the async cohort's tasks that must have ended before the gates may pass.
    pub min_ended_ratio: f64,
    /// How long the gates of a step may stay undecided before the rollout pauses.
    pub max_step_wait: Duration,
    /// How long replicas may take to run a new weight before the rollout pauses.
    pub converge_timeout: Duration,
    /// Failed evaluations in a row after which `on_fail` is applied.
    pub failure_limit: u32,
    /// Passed evaluations in a row that complete a step.
    pub success_streak: u32,
    /// The reaction to failed gates.
    pub on_fail: GateFailureAction,
    /// The gates of every step; never empty, since a file without gates has the default ones.
    pub gates: Vec<GateConfig>,
    /// The limit at which the rollout is rolled back at once, without waiting for the gates.
    pub breaker: BreakerConfig,
    /// The server that gates of type `prometheus` query.
    pub prometheus: Option<PrometheusConfig>,
    /// The times at which a weight may be raised; an empty list allows every time.
    pub promotion_windows: Vec<PromotionWindow>,
    /// The webhooks that events of the rollout are posted to.
    pub notifications: Vec<NotificationConfig>,
    /// Shadow traffic; none when no request is copied.
    pub shadow: Option<ShadowConfig>,
}

/// `rollout.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutMode {
    /// The weight is raised from step to step as the gates pass.
    Gated,
    /// The weight is `percent` at once; the gates are evaluated and shown, but decide nothing.
    Manual,
}

/// One of `rollout.steps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepConfig {
    /// The weight of the step.
    pub weight: Weight,
    /// The soak of this step, instead of the rollout's.
    pub soak: Option<Duration>,
    /// Whether an operator must promote the rollout past this step (`approval: manual`).
    pub needs_approval: bool,
    /// The sync traffic that the async path is compared with.
    pub baseline: BaselineMode,
}

/// `steps.baseline`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaselineMode {
    /// The sync path during the step (`live`).
    Live,
    /// The counts of the sync path in the step before (`frozen`), since no request is sync at
    /// 100 %.
    Frozen,
}

/// One of `rollout.sticky.keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickyKey {
    /// `header:NAME`
    Header(HeaderName),
    /// `cookie:NAME`
    Cookie(String),
}

/// `rollout.pin`: values of the sticky keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinConfig {
    /// Values of clients that always take the sync path.
    pub sync_key_values: Vec<String>,
    /// Values of clients that take the async path as soon as the weight is above 0.
    pub async_key_values: Vec<String>,
}

/// `rollout.min_samples`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinSamples {
    /// Canaried requests whose outcome is known.
    pub async_requests: u64,
    /// Requests on the sync path; 0 requires none.
    pub sync_requests: u64,
}

/// `rollout.on_fail`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateFailureAction {
    /// Sets the weight to 0 until an operator sends `retry`.
    Rollback,
    /// Keeps the weight until an operator sends a command.
    Pause,
}

/// One of `rollout.gates`.
#[derive(Clone, Debug, PartialEq)]
pub struct GateConfig {
    /// The name of the gate; the `gate` label of metrics.
    pub name: String,
    /// The type of the gate with its limits.
    pub kind: GateKind,
}

/// `gates.type`, with the settings of that type.
#[derive(Clone, Debug, PartialEq)]
pub enum GateKind {
    /// `error_ratio`: the share of requests that failed.
    ErrorRatio(RatioLimits),
    /// `client_error_ratio`: the share of requests that were answered with a 4xx.
    ClientErrorRatio(RatioLimits),
    /// `deferred_ratio`: the share of canaried requests that were answered with 202. There is no
    /// such share on the sync path to compare with.
    DeferredRatio(RatioLimits),
    /// `slow_ratio`: the share of requests that took longer than `threshold`.
    SlowRatio {
        /// One of [`crate::task::DURATION_BUCKET_BOUNDS`].
        threshold: Duration,
        /// The latency that is compared with the threshold.
        measure: LatencyMeasure,
        /// The limits of the share.
        limits: RatioLimits,
    },
    /// `slow_ratio` with `threshold: sync_p95`: the share that took longer than the p95 of the sync
    /// path before the step. Both limits are set.
    SlowerThanSync(RatioLimits),
    /// `shadow_mismatch`: the share of copies whose answer differed from the original's. The gate
    /// is added to every rollout with shadow traffic; the file cannot configure it.
    ShadowMismatch(RatioLimits),
    /// `queue_oldest`: the age of the oldest waiting task of the route's topic.
    QueueOldest {
        /// The highest age that passes.
        max: Duration,
    },
    /// `queue_depth`: the number of waiting tasks of the route's topic.
    QueueDepth {
        /// The highest number that passes.
        max: u64,
    },
    /// `prometheus`: the value of an instant query.
    PrometheusQuery {
        /// A `PromQL` query that gives one value.
        query: String,
        /// The lowest value that passes.
        min: Option<f64>,
        /// The highest value that passes.
        max: Option<f64>,
        /// The verdict when the result is empty.
        on_empty_result: EmptyResultPolicy,
    },
}

/// The limits of a ratio gate. At least one of `max` and `margin` is set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatioLimits {
    /// The highest share of the async path, independent of the sync path.
    pub max: Option<f64>,
    /// By how much the share of the async path may exceed the share of the sync path.
    pub margin: Option<f64>,
    /// The multiple of the sync path's share up to which the gate does not fail.
    pub tolerated_ratio: f64,
    /// The probability of a false rollback over all evaluations together.
    pub alpha: f64,
}

/// `slow_ratio`'s `of`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyMeasure {
    /// From the request to the end of its task (`end_to_end`).
    EndToEnd,
    /// From the request to its response, which may be a 202 (`acknowledgement`).
    Acknowledgement,
}

/// `on_empty`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyResultPolicy {
    /// The gate is inconclusive.
    Inconclusive,
    /// The gate passes: for queries whose result is empty when there is no fault.
    Pass,
}

/// `rollout.breaker`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerConfig {
    /// How far back outcomes are counted.
    pub window: Duration,
    /// The number of outcomes in the window that the breaker needs before it can trip.
    pub min_requests: u64,
    /// The share of failures at which the rollout is rolled back.
    pub max_error_ratio: f64,
}

/// `rollout.prometheus`
#[derive(Clone, Debug, PartialEq)]
pub struct PrometheusConfig {
    /// The base URL of the server, without a slash at the end; may carry user info.
    pub url: Secret,
    /// The longest time that a query may take.
    pub query_timeout: Duration,
    /// The age above which a sample is ignored.
    pub max_sample_age: Duration,
    /// How long the server may be unavailable before the rollout pauses.
    pub unavailable_grace: Duration,
}

/// One of `rollout.notify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationConfig {
    /// The events that are posted.
    pub triggers: Vec<NotificationTrigger>,
    /// The URL that events are posted to. `webhooks.hosts` does not restrict it: that list limits
    /// the URLs of callers, and this one is written by the operator.
    pub webhook_url: Secret,
}

/// One of `notify.on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationTrigger {
    /// A step was completed.
    StepCompleted,
    /// The rollout was rolled back.
    RolledBack,
    /// The rollout was paused by the controller or by an operator.
    Paused,
    /// The weight has reached `percent`, and the gates have passed there.
    TargetReached,
}

// === impl RolloutConfig ===

impl RolloutConfig {
    /// The rollout of a file that sets only `percent` and `mode` for the route named `route`.
    #[must_use]
    pub fn new(route: &str, percent: Weight, mode: RolloutMode) -> Self {
        let step = |points| StepConfig::new(Weight::from_basis_points(points));
        Self {
            percent,
            steps: [1_000, 2_500, 5_000, 10_000].map(step).to_vec(),
            mode,
            salt: route.to_owned(),
            sticky_keys: Vec::new(),
            pin: PinConfig::default(),
            evaluation_interval: Duration::from_secs(30),
            soak: Duration::from_mins(30),
            min_samples: MinSamples { async_requests: 300, sync_requests: 300 },
            min_ended_ratio: 0.99,
            max_step_wait: Duration::from_hours(24),
            converge_timeout: Duration::from_mins(2),
            failure_limit: 2,
            success_streak: 2,
            on_fail: GateFailureAction::Rollback,
            gates: default_gates(),
            breaker: BreakerConfig {
                window: Duration::from_secs(30),
                min_requests: 20,
                max_error_ratio: 0.5,
            },
            prometheus: None,
            promotion_windows: Vec::new(),
            notifications: Vec::new(),
            shadow: None,
        }
    }

    /// The gates that judge a rollout: all of the file, without the default `latency` where the
    /// rollout began in a release without that gate.
    pub fn judging_gates(&self, has_latency_gate: bool) -> impl Iterator<Item = &GateConfig> {
        let left_out = if has_latency_gate { None } else { default_latency_gate(&self.gates) };
        self.gates.iter().filter(move |gate| left_out.is_none_or(|left| !std::ptr::eq(left, *gate)))
    }

    /// The soak at `weight`: that of its step, or else the rollout's.
    #[must_use]
    pub fn soak_at(&self, weight: Weight) -> Duration {
        self.step_at(weight).and_then(|step| step.soak).unwrap_or(self.soak)
    }

    /// The step at `weight`; none for a weight between two steps.
    #[must_use]
    pub fn step_at(&self, weight: Weight) -> Option<&StepConfig> {
        self.steps.iter().find(|step| step.weight == weight)
    }

    /// The sync traffic that the async path is compared with at `weight`.
    #[must_use]
    pub fn baseline_at(&self, weight: Weight) -> BaselineMode {
        self.step_at(weight).copied().unwrap_or_else(|| StepConfig::new(weight)).baseline
    }

    /// The weight after `weight` on the way to `percent`; none when `percent` is reached.
    #[must_use]
    pub fn next_weight_after(&self, weight: Weight) -> Option<Weight> {
        let next = self.steps.iter().map(|step| step.weight).find(|step| *step > weight);
        (weight < self.percent).then(|| next.unwrap_or(self.percent).min(self.percent))
    }
}

// === impl RolloutMode ===

impl RolloutMode {
    /// The name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gated => "gated",
            Self::Manual => "manual",
        }
    }
}

// === impl StepConfig ===

impl StepConfig {
    /// The step of a file that sets only its weight. At 100 % the baseline is frozen, since no
    /// request is sync.
    #[must_use]
    pub fn new(weight: Weight) -> Self {
        let baseline =
            if weight == Weight::FULL { BaselineMode::Frozen } else { BaselineMode::Live };
        Self { weight, soak: None, needs_approval: false, baseline }
    }
}

// === impl GateKind ===

impl GateKind {
    /// The gate's type.
    #[must_use]
    pub const fn gate_type(&self) -> GateType {
        match self {
            Self::ErrorRatio(_) => GateType::ErrorRatio,
            Self::ClientErrorRatio(_) => GateType::ClientErrorRatio,
            Self::DeferredRatio(_) => GateType::DeferredRatio,
            Self::SlowRatio { .. } | Self::SlowerThanSync(_) => GateType::SlowRatio,
            Self::ShadowMismatch(_) => GateType::ShadowMismatch,
            Self::QueueOldest { .. } => GateType::QueueOldest,
            Self::QueueDepth { .. } => GateType::QueueDepth,
            Self::PrometheusQuery { .. } => GateType::Prometheus,
        }
    }

    /// The name in the file.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        self.gate_type().as_str()
    }

    /// The limits of a gate on a share; none for the other types.
    #[must_use]
    pub fn ratio_limits(&self) -> Option<&RatioLimits> {
        match self {
            Self::ErrorRatio(limits)
            | Self::ClientErrorRatio(limits)
            | Self::DeferredRatio(limits)
            | Self::SlowerThanSync(limits) => Some(limits),
            Self::SlowRatio { limits, .. } | Self::ShadowMismatch(limits) => Some(limits),
            Self::QueueOldest { .. } | Self::QueueDepth { .. } | Self::PrometheusQuery { .. } => {
                None
            }
        }
    }
}

// === impl RatioLimits ===

impl RatioLimits {
    /// The limits of `threshold: sync_p95`, where the file has none: by definition at most 5 % of
    /// sync requests took longer than their p95.
    pub const SYNC_P95: Self =
        Self { max: Some(0.05), margin: Some(0.02), tolerated_ratio: 1.25, alpha: 0.01 };
}

impl Default for RatioLimits {
    fn default() -> Self {
        Self { max: None, margin: None, tolerated_ratio: 1.25, alpha: 0.01 }
    }
}

/// The type of the gate that shadow traffic adds, which is also its name.
pub const SHADOW_MISMATCH_GATE: &str = GateType::ShadowMismatch.as_str();

/// The gates of a rollout whose file has none.
#[must_use]
pub fn default_gates() -> Vec<GateConfig> {
    let limits = |max, margin| RatioLimits { max, margin, ..RatioLimits::default() };
    let gate = |name: &str, kind| GateConfig { name: name.to_owned(), kind };
    vec![
        gate("errors", GateKind::ErrorRatio(limits(Some(0.01), Some(0.005)))),
        gate("client_errors", GateKind::ClientErrorRatio(limits(None, Some(0.02)))),
        gate("deferred", GateKind::DeferredRatio(limits(Some(0.01), None))),
        gate("latency", GateKind::SlowerThanSync(RatioLimits::SYNC_P95)),
    ]
}

/// The gate `latency` of a list that begins with the default gates. Releases before that gate had
/// the others as their default.
#[must_use]
pub fn default_latency_gate(gates: &[GateConfig]) -> Option<&GateConfig> {
    let defaults = default_gates();
    gates.starts_with(&defaults).then(|| &gates[defaults.len() - 1])
}

/// The number of requests without a failure that certify a share of failures of at most `max` at
/// one-sided 95 % confidence: the least `n` with `z²/(n + z²) ≤ max`, where the left side is the
/// upper bound of Wilson's interval (1927) for 0 failures of `n`.
#[must_use]
pub fn min_samples_to_certify(max: f64) -> u64 {
    const Z_SQUARED: f64 = 1.645 * 1.645;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // the cast saturates, and the value is never below 0
    let samples = (Z_SQUARED * (1.0 - max) / max).ceil() as u64;
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_requests_that_certify_a_share_follows_wilson() {
        assert_eq!(
            [0.05, 0.01, 0.005, 0.001, 1.0].map(min_samples_to_certify),
            [52, 268, 539, 2_704, 0]
        );
    }

    #[test]
    fn at_a_hundred_percent_the_baseline_is_frozen_unless_the_step_sets_it() {
        let mut rollout = RolloutConfig::new("r", Weight::FULL, RolloutMode::Gated);
        let baselines = |rollout: &RolloutConfig| {
            [5_000, 7_500, 10_000].map(|at| rollout.baseline_at(Weight::from_basis_points(at)))
        };
        assert_eq!(
            baselines(&rollout),
            [BaselineMode::Live, BaselineMode::Live, BaselineMode::Frozen]
        );
        rollout.steps.clear();
        assert_eq!(
            baselines(&rollout),
            [BaselineMode::Live, BaselineMode::Live, BaselineMode::Frozen]
        );
        rollout.steps =
            vec![StepConfig { baseline: BaselineMode::Live, ..StepConfig::new(Weight::FULL) }];
        assert_eq!(rollout.baseline_at(Weight::FULL), BaselineMode::Live);
    }
}
