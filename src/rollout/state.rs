//! A route's rollout as it stands: all that the next decision depends on, and all that an operator is told.
//!
//! The controller persists it whole, so that a restart at any point changes nothing; how it is written down is in
//! `control/state.rs`. Durations accumulate while somebody watches and stand still while nobody can: they are never the
//! difference of two clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::evidence::{Counts, Evidence};
use super::gate::{Memory, Report};
use crate::cohort::Weight;
use crate::task::UnixMs;

/// Who acts when nobody does.
pub const CONTROLLER: &str = "controller";

/// A route's rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Raised whenever the weight changes, and where a cohort begins or is closed: requests are counted under it.
    pub epoch: u64,
    /// The desired weight; what runs is never over the file's `percent`.
    pub weight: Weight,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub since: UnixMs,
    /// When the weight last changed.
    pub changed: UnixMs,
    /// Why it stands there, for people.
    pub reason: String,
    /// Who put it there: an operator, or [`CONTROLLER`].
    pub by: String,
    /// Whether an operator set the weight: automation holds until `resume`.
    pub held: bool,
    /// How long the present step has been watched.
    pub soaked: Duration,
    /// How long the present phase has waited for what it waits for.
    pub waited: Duration,
    /// How long a source of evidence has been gone; zero while all are there.
    pub blind: Duration,
    /// Evaluations in a row with all sources there.
    pub sighted: u32,
    /// The epochs whose requests are judged; what came after them is the next look's.
    pub cohort: Cohort,
    /// The earliest epoch whose outcomes still count, as late ones.
    pub first: u64,
    /// Where the step before this one began: what `first` becomes at the next look.
    pub prior: u64,
    /// Where it was last reached: epochs from here on last as long as those of a healthy rollout do.
    pub healthy: u64,
    /// PASSes in a row.
    pub passes: u32,
    /// FAILs in a row.
    pub fails: u32,
    /// The sync path before this step, for steps that compare with it.
    pub baseline: Option<Counts>,
    /// What the gates remember, by name.
    pub memory: BTreeMap<String, Memory>,
    /// The evidence of the epochs from `first`, as it was at the last look.
    pub seen: Vec<Evidence>,
    /// A digest of the gates that the present soak is for.
    pub gates: u64,
    /// Why soak and gates stand still, where they do.
    pub frozen: Option<String>,
    /// What the gates said last.
    pub reports: Vec<Report>,
}

/// A range of epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cohort {
    /// The first.
    pub from: u64,
    /// The last; the present epoch while the cohort is open.
    pub to: u64,
    /// How long ago it was closed; none while it is open.
    pub closed: Option<Duration>,
}

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is allowed, or nothing has begun.
    Idle,
    /// `mode: manual`: the weight is the file's, the gates are shown.
    Manual,
    /// Replicas are taking up the weight.
    Shifting,
    /// The step is being watched.
    Soaking,
    /// Its cohort is closed, and its outcomes are awaited and judged.
    Gating,
    /// `percent` is reached; the gates keep judging.
    Healthy,
    /// It goes on from `then` when told to, or when what it waits for is there.
    Paused {
        /// Why.
        why: Pause,
        /// The phase that it was in.
        then: Progress,
    },
    /// To weight 0, until all replicas have it.
    RollingBack,
    /// Rolled back or aborted; left by `retry`.
    Degraded,
}

/// A phase that can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// [`Phase::Shifting`]
    Shifting,
    /// [`Phase::Soaking`]
    Soaking,
    /// [`Phase::Gating`]
    Gating,
    /// [`Phase::Healthy`]
    Healthy,
}

/// Why a rollout is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Somebody said `pause`.
    Operator,
    /// The step's gates have passed, and it asks for a person.
    AwaitingApproval,
    /// Replicas did not take up the weight in time.
    NotConverged,
    /// The gates have been undecided for `max_wait`.
    Inconclusive,
    /// A source of evidence has been gone for longer than its grace.
    MetricsUnavailable,
    /// The gates failed, and `on_fail` is `pause`.
    Failed,
}

// === impl State ===

impl State {
    /// A rollout that nobody has touched: everything is sync.
    #[must_use]
    pub fn fresh(now: UnixMs) -> Self {
        Self {
            epoch: 0,
            weight: Weight::ZERO,
            phase: Phase::Idle,
            since: now,
            changed: now,
            reason: "a new rollout".into(),
            by: CONTROLLER.into(),
            held: false,
            soaked: Duration::ZERO,
            waited: Duration::ZERO,
            blind: Duration::ZERO,
            sighted: 0,
            cohort: Cohort::default(),
            first: 0,
            prior: 0,
            healthy: 0,
            passes: 0,
            fails: 0,
            baseline: None,
            memory: BTreeMap::new(),
            seen: Vec::new(),
            gates: 0,
            frozen: None,
            reports: Vec::new(),
        }
    }

    /// The epochs whose evidence the next look needs, in order.
    #[must_use]
    pub fn epochs(&self) -> Vec<u64> {
        (self.first..=self.epoch).collect()
    }
}

// === impl Phase ===

impl Phase {
    /// All but the paused ones.
    pub const GOING: [Self; 8] = [
        Self::Idle,
        Self::Manual,
        Self::Shifting,
        Self::Soaking,
        Self::Gating,
        Self::Healthy,
        Self::RollingBack,
        Self::Degraded,
    ];

    /// The word in the API.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Manual => "manual",
            Self::Shifting => "shifting",
            Self::Soaking => "soaking",
            Self::Gating => "gating",
            Self::Healthy => "healthy",
            Self::Paused { .. } => "paused",
            Self::RollingBack => "rolling_back",
            Self::Degraded => "degraded",
        }
    }

    /// The phase, as one that can be paused.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        match self {
            Self::Shifting => Some(Progress::Shifting),
            Self::Soaking => Some(Progress::Soaking),
            Self::Gating => Some(Progress::Gating),
            Self::Healthy => Some(Progress::Healthy),
            Self::Paused { then, .. } => Some(*then),
            Self::Idle | Self::Manual | Self::RollingBack | Self::Degraded => None,
        }
    }
}

// === impl Progress ===

impl From<Progress> for Phase {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Shifting => Self::Shifting,
            Progress::Soaking => Self::Soaking,
            Progress::Gating => Self::Gating,
            Progress::Healthy => Self::Healthy,
        }
    }
}

// === impl Pause ===

impl Pause {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Operator,
        Self::AwaitingApproval,
        Self::NotConverged,
        Self::Inconclusive,
        Self::MetricsUnavailable,
        Self::Failed,
    ];

    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::AwaitingApproval => "awaiting_approval",
            Self::NotConverged => "not_converged",
            Self::Inconclusive => "inconclusive",
            Self::MetricsUnavailable => "metrics_unavailable",
            Self::Failed => "failed",
        }
    }
}
