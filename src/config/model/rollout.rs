//! `rollout:` of a route: how much traffic may move, by which steps, and what must hold for each of
//! them.
//!
//! Ratios are shares from 0 to 1, however the file writes them. What the gates mean is in
//! `rollout/`.

use std::time::Duration;

use http::HeaderName;

use crate::cohort::Weight;
use crate::config::model::gate_type::GateType;
use crate::config::{PromotionWindow, Secret, ShadowConfig};

/// `rollout:`
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutConfig {
    /// The share that the operator allows.
    pub percent: Weight,
    /// Phases on the way to it, rising.
    pub steps: Vec<StepConfig>,
    /// Whether gates must pass first.
    pub mode: RolloutMode,
    /// Keeps the cohorts of two rollouts apart; the route's name by default.
    pub salt: String,
    /// What makes a client sticky, first present wins; none is random per request.
    pub sticky_keys: Vec<StickyKey>,
    /// Clients that are on one path whatever the weight, while it is not 0.
    pub pin: PinConfig,
    /// How often the gates are looked at.
    pub evaluation_interval: Duration,
    /// How long a step is watched before its gates may pass; steps may say their own.
    pub soak: Duration,
    /// Requests of a step below which its gates cannot pass.
    pub min_samples: MinSamples,
    /// The share of a cohort's tasks that must have ended before its gates may pass.
    pub min_ended_ratio: f64,
    /// How long a step may be undecided before the rollout pauses.
    pub max_step_wait: Duration,
    /// How long replicas may take to run a new weight before the rollout pauses.
    pub converge_timeout: Duration,
    /// FAILs in a row that turn the rollout back.
    pub failure_limit: u32,
    /// PASSes in a row that complete a step.
    pub success_streak: u32,
    /// What FAIL does.
    pub on_fail: GateFailureAction,
    /// What must hold; never empty: the default gates where the file has none.
    pub gates: Vec<GateConfig>,
    /// What turns back at once.
    pub breaker: BreakerConfig,
    /// Where the queries of `prometheus` gates are asked.
    pub prometheus: Option<PrometheusConfig>,
    /// When a weight may be raised; empty is always.
    pub promotion_windows: Vec<PromotionWindow>,
    /// Who is told.
    pub notifications: Vec<NotificationConfig>,
    /// What of the sync path is copied to the async one; none where nothing is.
    pub shadow: Option<ShadowConfig>,
}

/// `rollout.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutMode {
    /// Climbs the steps as their gates pass.
    Gated,
    /// Jumps to `percent`; the gates are evaluated and shown.
    Manual,
}

/// One of `rollout.steps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepConfig {
    /// The weight that it runs at.
    pub weight: Weight,
    /// Its own soak, where it has one.
    pub soak: Option<Duration>,
    /// Whether a person must say that it may be left (`approval: manual`).
    pub needs_approval: bool,
    /// What its async path is compared with.
    pub baseline: BaselineMode,
}

/// `steps.baseline`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaselineMode {
    /// The sync path of the same time (`live`).
    Live,
    /// The sync path of the step before, as it was (`frozen`): at 100 % there is no other.
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
    /// Kept out.
    pub sync_key_values: Vec<String>,
    /// Sent first: async as soon as the weight is not 0.
    pub async_key_values: Vec<String>,
}

/// `rollout.min_samples`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinSamples {
    /// Canaried requests with an outcome.
    pub async_requests: u64,
    /// Requests on the sync path; 0 asks for no comparison.
    pub sync_requests: u64,
}

/// `rollout.on_fail`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateFailureAction {
    /// To weight 0, until somebody says `retry`.
    Rollback,
    /// Stays, until somebody decides.
    Pause,
}

/// One of `rollout.gates`.
#[derive(Clone, Debug, PartialEq)]
pub struct GateConfig {
    /// Its name; the `gate` label.
    pub name: String,
    /// What it asks.
    pub kind: GateKind,
}

/// `gates.type`, with what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub enum GateKind {
    /// `error_ratio`: the share that failed.
    ErrorRatio(RatioLimits),
    /// `client_error_ratio`: the share answered with a 4xx.
    ClientErrorRatio(RatioLimits),
    /// `deferred_ratio`: the share whose client was told to poll. The sync path defers nobody.
    DeferredRatio(RatioLimits),
    /// `slow_ratio`: the share that took longer.
    SlowRatio {
        /// Than this: exactly one of [`crate::task::DURATION_BUCKET_BOUNDS`].
        threshold: Duration,
        /// Which latency.
        measure: LatencyMeasure,
        /// Of how many it may be true.
        limits: RatioLimits,
    },
    /// `shadow_mismatch`: the share of shadow traffic's copies that were answered otherwise. It
    /// stands by itself where there is shadow traffic.
    ShadowMismatch(RatioLimits),
    /// `queue_oldest`: the age of the oldest waiting task of the route's topic.
    QueueOldest {
        /// The highest that passes.
        max: Duration,
    },
    /// `queue_depth`: the tasks of the route's topic that wait.
    QueueDepth {
        /// The highest that passes.
        max: u64,
    },
    /// `prometheus`: the value of an instant query.
    PrometheusQuery {
        /// The query, which gives one value.
        query: String,
        /// The lowest that passes.
        min: Option<f64>,
        /// The highest that passes.
        max: Option<f64>,
        /// What an empty answer is.
        on_empty_result: EmptyResultPolicy,
    },
}

/// What a ratio of the async path is held against. At least one of `max` and `margin` is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatioLimits {
    /// The highest share, whatever the sync path does.
    pub max: Option<f64>,
    /// By how much it may exceed the sync path's share.
    pub margin: Option<f64>,
    /// How many times the sync path's share is not yet worth turning back for.
    pub tolerated_ratio: f64,
    /// The chance of a false rollback over all looks.
    pub alpha: f64,
}

/// `slow_ratio`'s `of`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyMeasure {
    /// From the request to the end of its task (`end_to_end`).
    EndToEnd,
    /// From the request to its answer, which may be 202 (`acknowledgement`).
    Acknowledgement,
}

/// `on_empty`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyResultPolicy {
    /// Nothing is known.
    Inconclusive,
    /// As if it passed: for queries that are empty when all is well.
    Pass,
}

/// `rollout.breaker`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerConfig {
    /// The time that is looked at.
    pub window: Duration,
    /// Outcomes in it below which nothing is decided.
    pub min_requests: u64,
    /// The share of failures that turns back at once.
    pub max_error_ratio: f64,
}

/// `rollout.prometheus`
#[derive(Clone, Debug, PartialEq)]
pub struct PrometheusConfig {
    /// Its base URL, without a slash at the end; may carry user info.
    pub url: Secret,
    /// The longest that a query may take.
    pub query_timeout: Duration,
    /// The oldest sample that counts.
    pub max_sample_age: Duration,
    /// How long it may be unavailable before the rollout pauses.
    pub unavailable_grace: Duration,
}

/// One of `rollout.notify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationConfig {
    /// Names of events.
    pub triggers: Vec<NotificationTrigger>,
    /// The URL that is told. Whoever writes the file may tell whom they like: it is not held to
    /// `webhooks.hosts`.
    pub webhook_url: Secret,
}

/// One of `notify.on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationTrigger {
    /// A step was completed.
    StepCompleted,
    /// It turned back.
    RolledBack,
    /// It paused, by itself or by somebody.
    Paused,
    /// `percent` is reached.
    TargetReached,
}

// === impl Rollout ===

impl RolloutConfig {
    /// What a file that says `percent` and `mode`, and nothing else, means for a route of that
    /// name.
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

    /// How long a rollout at `weight` is watched before its gates may pass.
    #[must_use]
    pub fn soak_at(&self, weight: Weight) -> Duration {
        self.step_at(weight).and_then(|step| step.soak).unwrap_or(self.soak)
    }

    /// The step of `weight`; none for a weight between the steps.
    #[must_use]
    pub fn step_at(&self, weight: Weight) -> Option<&StepConfig> {
        self.steps.iter().find(|step| step.weight == weight)
    }

    /// What the async path is compared with at `weight`.
    #[must_use]
    pub fn baseline_at(&self, weight: Weight) -> BaselineMode {
        self.step_at(weight).copied().unwrap_or_else(|| StepConfig::new(weight)).baseline
    }

    /// The next weight on the way from `weight` to `percent`; none when it is reached.
    #[must_use]
    pub fn next_weight_after(&self, weight: Weight) -> Option<Weight> {
        let next = self.steps.iter().map(|step| step.weight).find(|step| *step > weight);
        (weight < self.percent).then(|| next.unwrap_or(self.percent).min(self.percent))
    }
}

// === impl RolloutMode ===

impl RolloutMode {
    /// The word in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gated => "gated",
            Self::Manual => "manual",
        }
    }
}

// === impl Step ===

impl StepConfig {
    /// A step that says its weight and nothing else. At 100 % nothing live is left to compare with.
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
            Self::SlowRatio { .. } => GateType::SlowRatio,
            Self::ShadowMismatch(_) => GateType::ShadowMismatch,
            Self::QueueOldest { .. } => GateType::QueueOldest,
            Self::QueueDepth { .. } => GateType::QueueDepth,
            Self::PrometheusQuery { .. } => GateType::Prometheus,
        }
    }

    /// The word in the file.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        self.gate_type().as_str()
    }

    /// The limits of one that looks at a share.
    #[must_use]
    pub fn ratio_limits(&self) -> Option<&RatioLimits> {
        match self {
            Self::ErrorRatio(limits)
            | Self::ClientErrorRatio(limits)
            | Self::DeferredRatio(limits) => Some(limits),
            Self::SlowRatio { limits, .. } | Self::ShadowMismatch(limits) => Some(limits),
            Self::QueueOldest { .. } | Self::QueueDepth { .. } | Self::PrometheusQuery { .. } => {
                None
            }
        }
    }
}

// === impl Limits ===

impl Default for RatioLimits {
    fn default() -> Self {
        Self { max: None, margin: None, tolerated_ratio: 1.25, alpha: 0.01 }
    }
}

/// The type of the gate of shadow traffic, and its name.
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
    ]
}

/// Requests without a single failure that show, at one-sided 95 %, a share of failures of at most
/// `max`: the least `n` whose upper bound `z²/(n + z²)` is no higher (Wilson 1927, with 0 of `n`).
#[must_use]
pub fn min_samples_to_certify(max: f64) -> u64 {
    const Z_SQUARED: f64 = 1.645 * 1.645;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // saturates, and is never below 0
    let samples = (Z_SQUARED * (1.0 - max) / max).ceil() as u64;
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_requests_without_a_failure_certify_a_share() {
        assert_eq!(
            [0.05, 0.01, 0.005, 0.001, 1.0].map(min_samples_to_certify),
            [52, 268, 539, 2_704, 0]
        );
    }

    #[test]
    fn at_a_hundred_percent_the_baseline_is_frozen_unless_the_step_says_otherwise() {
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
