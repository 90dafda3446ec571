//! The state of a route's rollout: all that the next decision depends on, and what operators see.
//!
//! The controller persists it whole, so that a restart at any point changes nothing; the stored
//! form is in `control/stored/`. Durations add up while the leader observes the rollout and stand
//! still while it cannot: they are never the difference of two clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::actor::Actor;
use super::blocked::BlockedReason;
use super::capacity_window::CapacityWindow;
use super::evidence::{EvidenceCounts, RolloutEvidence};
use super::gate::{GateMemory, GateReport, LatencyThreshold, UnreadGateReport};
use super::phase::RolloutPhase;
use crate::cohort_hash::Weight;
use crate::config::GatesDigest;
use crate::task::UnixMs;

/// The state of a route's rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutState {
    /// Raised whenever the weight changes, and where a cohort begins or is closed: requests are
    /// counted under it.
    pub epoch: u64,
    /// The desired weight; replicas never run more than their file's `percent`.
    pub weight: Weight,
    /// The phase.
    pub phase: RolloutPhase,
    /// When the phase began.
    pub phase_since: UnixMs,
    /// When the weight last changed.
    pub weight_changed_at: UnixMs,
    /// Why the last change was made, for people.
    pub reason: String,
    /// Who made the last change.
    pub actor: Actor,
    /// Whether an operator set the weight: automation waits until `resume`.
    pub manual_hold: bool,
    /// How long the current step has been observed.
    pub soak_elapsed: Duration,
    /// How long the current phase has waited for what it waits for.
    pub phase_waited: Duration,
    /// How long a source of evidence has been down; zero while all are up.
    pub sources_down_for: Duration,
    /// Evaluations in a row with all sources up.
    pub sources_up_streak: u32,
    /// The epochs whose requests are judged; later requests are for a later evaluation.
    pub cohort: EpochRange,
    /// The earliest epoch whose outcomes still count, as late ones.
    pub first_epoch: u64,
    /// The first epoch of the step before this one: `first_epoch` after the next evaluation.
    pub previous_step_epoch: u64,
    /// The epoch in which [`RolloutPhase::Healthy`] began: epochs from here on are as long as those
    /// of a healthy rollout.
    pub healthy_since_epoch: u64,
    /// PASS verdicts in a row.
    pub pass_streak: u32,
    /// FAIL verdicts in a row.
    pub fail_streak: u32,
    /// The sync path before this step, for steps with `baseline: frozen`.
    pub sync_baseline: Option<EvidenceCounts>,
    /// When `sync_baseline` was taken; none in a record of a release that did not keep it.
    pub sync_baseline_at: Option<UnixMs>,
    /// Whether `latency` is among the default gates: not for a rollout that began in a release
    /// without that gate, until it begins again at 0 %.
    pub has_latency_gate: bool,
    /// What is slow in this step for a gate with `threshold: sync_p95`; none until it is known.
    pub latency_threshold: Option<LatencyThreshold>,
    /// The sequential scores of the gates, by gate name.
    pub gate_memory: BTreeMap<String, GateMemory>,
    /// The evidence of the epochs from `first_epoch` on, as of the last evaluation.
    pub seen_evidence: Vec<RolloutEvidence>,
    /// The digest of the gate configuration that the current soak is for; none until a leader of
    /// this release has loaded its file.
    pub gates_digest: Option<GatesDigest>,
    /// The digest that releases before [`GatesDigest`] stored. Kept as it was read, so that a
    /// leader of such a release finds its own value and restarts no soak.
    pub legacy_gates_digest: u64,
    /// Whether the workers keep up with the step's calls.
    pub capacity_window: CapacityWindow,
    /// Why soak time and gates stand still, while they do.
    pub blocked_reason: Option<BlockedReason>,
    /// The reports of the last evaluation.
    pub gate_reports: Vec<GateReport>,
    /// Stored reports whose verdict this release does not know. While there are any, a healthy
    /// rollout does not climb; the next evaluation replaces them.
    pub unread_gate_reports: Vec<UnreadGateReport>,
}

/// A range of epochs, both ends included. The epochs of a range are judged together, as a cohort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochRange {
    /// The first epoch.
    pub from_epoch: u64,
    /// The last epoch; the current one while the cohort is open.
    pub to_epoch: u64,
    /// How long ago the cohort was closed; none while it is open.
    pub closed_for: Option<Duration>,
}

// === impl RolloutState ===

impl RolloutState {
    /// A rollout that nothing has happened to: all requests are sync.
    #[must_use]
    pub fn new(now: UnixMs) -> Self {
        Self {
            epoch: 0,
            weight: Weight::ZERO,
            phase: RolloutPhase::Idle,
            phase_since: now,
            weight_changed_at: now,
            reason: "a new rollout".into(),
            actor: Actor::Controller,
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
            sync_baseline_at: None,
            has_latency_gate: true,
            latency_threshold: None,
            gate_memory: BTreeMap::new(),
            seen_evidence: Vec::new(),
            gates_digest: None,
            legacy_gates_digest: 0,
            capacity_window: CapacityWindow::default(),
            blocked_reason: None,
            gate_reports: Vec::new(),
            unread_gate_reports: Vec::new(),
        }
    }

    /// The epochs whose evidence the next evaluation needs, in order.
    #[must_use]
    pub fn evidence_epochs(&self) -> Vec<u64> {
        (self.first_epoch..=self.epoch).collect()
    }

    /// Why soak time and gates stand still, as a sentence for people.
    #[must_use]
    pub fn blocked_text(&self) -> Option<String> {
        self.blocked_reason.as_ref().map(|reason| reason.render(self.weight))
    }
}

/// The weight that a replica runs: never more than its own file's `percent`.
#[must_use]
pub fn running_weight(state: &RolloutState, percent: Weight) -> Weight {
    state.weight.min(percent)
}

/// Whether requests of the sync path may be copied to the async path: not after a rollback.
#[must_use]
pub fn is_shadow_allowed(state: &RolloutState) -> bool {
    !state.phase.is_rolled_back()
}
