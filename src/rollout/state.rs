//! A route's rollout as it stands: all that the next decision depends on, and all that an operator
//! is told.
//!
//! The controller persists it whole, so that a restart at any point changes nothing; how it is
//! written down is in `control/state.rs`. Durations accumulate while somebody watches and stand
//! still while nobody can: they are never the difference of two clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::evidence::{EvidenceCounts, RolloutEvidence};
use super::gate::{GateMemory, GateReport};
use crate::cohort::Weight;
use crate::task::UnixMs;

/// Who acts when nobody does.
pub const CONTROLLER_ACTOR: &str = "controller";

/// A route's rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutState {
    /// Raised whenever the weight changes, and where a cohort begins or is closed: requests are
    /// counted under it.
    pub epoch: u64,
    /// The desired weight; what runs is never over the file's `percent`.
    pub weight: Weight,
    /// Where it stands.
    pub phase: RolloutPhase,
    /// Since when.
    pub phase_since: UnixMs,
    /// When the weight last changed.
    pub weight_changed_at: UnixMs,
    /// Why it stands there, for people.
    pub reason: String,
    /// Who put it there: an operator, or [`CONTROLLER_ACTOR`].
    pub actor: String,
    /// Whether an operator set the weight: automation holds until `resume`.
    pub manual_hold: bool,
    /// How long the present step has been watched.
    pub soak_elapsed: Duration,
    /// How long the present phase has waited for what it waits for.
    pub phase_waited: Duration,
    /// How long a source of evidence has been gone; zero while all are there.
    pub sources_down_for: Duration,
    /// Evaluations in a row with all sources there.
    pub sources_up_streak: u32,
    /// The epochs whose requests are judged; what came after them is the next look's.
    pub cohort: EpochRange,
    /// The earliest epoch whose outcomes still count, as late ones.
    pub first_epoch: u64,
    /// Where the step before this one began: what `first` becomes at the next look.
    pub previous_step_epoch: u64,
    /// Where it was last reached: epochs from here on last as long as those of a healthy rollout
    /// do.
    pub healthy_since_epoch: u64,
    /// PASSes in a row.
    pub pass_streak: u32,
    /// FAILs in a row.
    pub fail_streak: u32,
    /// The sync path before this step, for steps that compare with it.
    pub sync_baseline: Option<EvidenceCounts>,
    /// What the gates remember, by name.
    pub gate_memory: BTreeMap<String, GateMemory>,
    /// The evidence of the epochs from `first`, as it was at the last look.
    pub seen_evidence: Vec<RolloutEvidence>,
    /// A digest of the gates that the present soak is for.
    pub gates_digest: u64,
    /// Why soak and gates stand still, where they do.
    pub blocked_reason: Option<String>,
    /// What the gates said last.
    pub gate_reports: Vec<GateReport>,
}

/// A range of epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochRange {
    /// The first.
    pub from_epoch: u64,
    /// The last; the present epoch while the cohort is open.
    pub to_epoch: u64,
    /// How long ago it was closed; none while it is open.
    pub closed_for: Option<Duration>,
}

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutPhase {
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
        reason: PauseReason,
        /// The phase that it was in.
        resume_to: PausablePhase,
    },
    /// To weight 0, until all replicas have it.
    RollingBack,
    /// Rolled back or aborted; left by `retry`.
    Degraded,
}

/// A phase that can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PausablePhase {
    /// [`RolloutPhase::Shifting`]
    Shifting,
    /// [`RolloutPhase::Soaking`]
    Soaking,
    /// [`RolloutPhase::Gating`]
    Gating,
    /// [`RolloutPhase::Healthy`]
    Healthy,
}

/// Why a rollout is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseReason {
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
    GatesFailed,
}

// === impl State ===

impl RolloutState {
    /// A rollout that nobody has touched: everything is sync.
    #[must_use]
    pub fn new(now: UnixMs) -> Self {
        Self {
            epoch: 0,
            weight: Weight::ZERO,
            phase: RolloutPhase::Idle,
            phase_since: now,
            weight_changed_at: now,
            reason: "a new rollout".into(),
            actor: CONTROLLER_ACTOR.into(),
            manual_hold: false,
            soak_elapsed: Duration::ZERO,
            phase_waited: Duration::ZERO,
            sources_down_for: Duration::ZERO,
            sources_up_streak: 0,
            cohort: EpochRange::default(),
            first_epoch: 0,
            previous_step_epoch: 0,
            healthy_since_epoch: 0,
            pass_streak: 0,
            fail_streak: 0,
            sync_baseline: None,
            gate_memory: BTreeMap::new(),
            seen_evidence: Vec::new(),
            gates_digest: 0,
            blocked_reason: None,
            gate_reports: Vec::new(),
        }
    }

    /// The epochs whose evidence the next look needs, in order.
    #[must_use]
    pub fn evidence_epochs(&self) -> Vec<u64> {
        (self.first_epoch..=self.epoch).collect()
    }
}

// === impl Phase ===

impl RolloutPhase {
    /// All but the paused ones.
    pub const UNPAUSED: [Self; 8] = [
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
    pub fn as_pausable(&self) -> Option<PausablePhase> {
        match self {
            Self::Shifting => Some(PausablePhase::Shifting),
            Self::Soaking => Some(PausablePhase::Soaking),
            Self::Gating => Some(PausablePhase::Gating),
            Self::Healthy => Some(PausablePhase::Healthy),
            Self::Paused { resume_to: then, .. } => Some(*then),
            Self::Idle | Self::Manual | Self::RollingBack | Self::Degraded => None,
        }
    }
}

// === impl Progress ===

impl From<PausablePhase> for RolloutPhase {
    fn from(progress: PausablePhase) -> Self {
        match progress {
            PausablePhase::Shifting => Self::Shifting,
            PausablePhase::Soaking => Self::Soaking,
            PausablePhase::Gating => Self::Gating,
            PausablePhase::Healthy => Self::Healthy,
        }
    }
}

// === impl Pause ===

impl PauseReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Operator,
        Self::AwaitingApproval,
        Self::NotConverged,
        Self::Inconclusive,
        Self::MetricsUnavailable,
        Self::GatesFailed,
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
            Self::GatesFailed => "failed",
        }
    }
}
