//! A rollout to be explained, and the check of its explanation.

use crate::cohort_hash::Weight;
use crate::config::{GateType, RolloutConfig, RolloutMode};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::explain::{
    ExplanationInput, QueueLoad, RolloutExplanation, WaitingFor, explain_rollout,
};
use crate::rollout::gate::{GateReport, Verdict};
use crate::rollout::{RolloutPhase, RolloutState};
use crate::task::UnixMs;

pub(super) const NOON: UnixMs = UnixMs(1_795_521_600_000);

/// A rollout at 10 % on its way to 50 %, which each test changes.
pub(super) struct ExplainFixture {
    pub(super) config: RolloutConfig,
    pub(super) state: RolloutState,
    pub(super) lagging_replicas: Vec<String>,
    pub(super) evidence: RolloutEvidence,
    pub(super) store_reachable: bool,
    pub(super) is_leader: bool,
    pub(super) queue_load: Option<QueueLoad>,
    pub(super) requests_per_minute: Option<f64>,
    /// 2026-11-24T12:00:00Z, a Tuesday.
    pub(super) now: UnixMs,
}

impl ExplainFixture {
    pub(super) fn in_phase(phase: RolloutPhase) -> Self {
        let percent = Weight::from_basis_points(5_000);
        let weight = if matches!(
            phase,
            RolloutPhase::Idle | RolloutPhase::RollingBack | RolloutPhase::Degraded
        ) {
            0
        } else {
            1_000
        };
        Self {
            config: RolloutConfig::new("invoke", percent, RolloutMode::Gated),
            state: RolloutState {
                phase,
                weight: Weight::from_basis_points(weight),
                ..RolloutState::new(NOON)
            },
            lagging_replicas: Vec::new(),
            evidence: RolloutEvidence::default(),
            store_reachable: true,
            is_leader: true,
            queue_load: None,
            requests_per_minute: Some(20.0),
            now: NOON,
        }
    }

    pub(super) fn with_full_soak(mut self) -> Self {
        self.state.soak_elapsed = self.config.soak;
        self
    }

    pub(super) fn with_report(mut self, verdict: Verdict, why: &str, needs: Option<u64>) -> Self {
        self.state.gate_reports.push(GateReport {
            gate_name: "errors".to_owned(),
            gate_kind: GateType::ErrorRatio.into(),
            verdict,
            explanation: why.to_owned(),
            needed_outcomes: needs,
            async_bad_of_total: None,
            sync_bad_of_total: None,
            value: None,
            interval: None,
        });
        self
    }

    pub(super) fn explanation(&self) -> RolloutExplanation {
        explain_rollout(&ExplanationInput {
            route: "invoke",
            topic: "t",
            queue_load: self.queue_load,
            config: &self.config,
            config_file: Some("config/omnidaemon.yaml"),
            state: &self.state,
            running_weight: self.state.weight.min(self.config.percent),
            next_weight: self.config.next_weight_after(self.state.weight),
            lagging_replicas: &self.lagging_replicas,
            cohort_evidence: self.is_leader.then_some(&self.evidence),
            requests_per_minute: self.requests_per_minute,
            store_reachable: self.store_reachable,
            now: self.now,
        })
    }
}

/// Checks what an explanation waits for, that it contains `words`, and its next action.
#[track_caller]
pub(super) fn assert_explains(
    case: &ExplainFixture,
    waiting_for: WaitingFor,
    words: &[&str],
    next: &str,
) {
    let explanation = case.explanation();
    assert_eq!(explanation.waiting_for, waiting_for, "{}", explanation.text);
    for word in words {
        assert!(explanation.text.contains(word), "no {word:?} in {}", explanation.text);
    }
    assert_eq!(explanation.next_action, next, "{}", explanation.text);
    assert!(explanation.text.ends_with(&format!(". Next: {next}")), "{}", explanation.text);
}

pub(super) const NO_ACTION: &str = "nothing to do";

pub(super) const PROMOTE_COMMAND: &str = "omnidaemon rollout promote invoke --reason …";

pub(super) const RESUME_COMMAND: &str = "omnidaemon rollout resume invoke --reason …";

pub(super) const EDIT_PERCENT: &str =
    "edit routes.invoke.rollout.percent in config/omnidaemon.yaml";
