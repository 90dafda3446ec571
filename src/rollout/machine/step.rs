//! What follows from an evaluation for the step: it soaks, its cohort is closed or extended, it is
//! completed, or it waits; and the epochs of a healthy rollout.

use std::time::Duration;

use super::input::RolloutObservation;
use super::transition::RolloutTransition;
use crate::cohort_hash::Weight;
use crate::config::{BaselineMode, GateKind, GateType, MinSamples};
use crate::rollout::actor::Actor;
use crate::rollout::event::RolloutEventKind;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::format::format_exact_span;
use crate::rollout::gate::{GateReport, Verdict};
use crate::rollout::limits::{
    COHORT_GROWTH_DIVISOR, HEALTHY_EPOCH_LENGTH, HEALTHY_EPOCHS_JUDGED, MAX_LATENCY_BASELINE_AGE,
};
use crate::rollout::phase::{PauseReason, RolloutPhase};

// === impl RolloutTransition ===

impl RolloutTransition<'_> {
    pub(super) fn advance_step(
        &mut self,
        cohort: &RolloutEvidence,
        verdict: Verdict,
        observation: &RolloutObservation<'_>,
    ) {
        match self.state.phase {
            _ if self.state.fail_streak >= self.plan.config.failure_limit => {
                let why = self.join_failure_reasons();
                if self.fails_by_old_baseline() {
                    self.pause_for_old_baseline(&why);
                } else {
                    self.apply_on_fail(&why);
                }
            }
            RolloutPhase::Soaking => self.advance_soak(cohort, observation.elapsed),
            RolloutPhase::Gating => self.advance_gating(cohort, verdict, observation),
            RolloutPhase::Healthy => self.rotate_healthy_epochs(observation.elapsed),
            _ => {}
        }
    }

    /// Whether the only failing gates compare with the latency of a sync path that is too long ago:
    /// meanwhile the traffic itself may have become slower.
    fn fails_by_old_baseline(&self) -> bool {
        let (state, config) = (&self.state, self.plan.config);
        let is_frozen = config.baseline_at(state.weight) == BaselineMode::Frozen;
        let age = state.sync_baseline_at.map(|taken| self.now.since(taken));
        let is_latency_gate = |name: &str| {
            let mut gates = config.gates.iter().filter(|gate| gate.name == name);
            gates.any(|gate| matches!(gate.kind, GateKind::SlowerThanSync(_)))
        };
        let mut failing =
            state.gate_reports.iter().filter(|report| report.verdict == Verdict::Fail);
        is_frozen
            && age.is_some_and(|age| age > MAX_LATENCY_BASELINE_AGE)
            && failing.all(|report| is_latency_gate(&report.gate_name))
    }

    fn pause_for_old_baseline(&mut self, why: &str) {
        let phase = &self.state.phase;
        if phase.is_paused_for(PauseReason::GatesFailed)
            || phase.is_paused_for(PauseReason::Operator)
        {
            return;
        }
        let age = format_exact_span(MAX_LATENCY_BASELINE_AGE);
        let why = format!("{why}; what it is compared with is more than {age} old");
        self.pause_automatically(PauseReason::GatesFailed, &why);
        let reports = self.state.gate_reports.clone();
        self.attach_reports(reports);
    }

    fn join_failure_reasons(&self) -> String {
        let failed =
            self.state.gate_reports.iter().filter(|report| report.verdict == Verdict::Fail);
        failed.map(|report| report.explanation.as_str()).collect::<Vec<_>>().join("; ")
    }

    /// Adds to the soak time; once that is over and there are enough requests, closes the cohort.
    fn advance_soak(&mut self, cohort: &RolloutEvidence, elapsed: Duration) {
        if self.state.blocked_reason.is_some() {
            return;
        }
        let (config, min) = (self.plan.config, self.effective_min_samples());
        self.state.soak_elapsed += elapsed;
        if self.state.soak_elapsed < config.soak_at(self.state.weight) {
            return;
        }
        if cohort.canaried_requests() >= min.async_requests
            && cohort.sync_counts.total >= min.sync_requests
        {
            self.close_cohort();
            self.enter_phase(RolloutPhase::Gating);
        } else {
            self.accumulate_wait(elapsed);
        }
    }

    /// The requests that a step waits for: no sync ones at 100 %, where all traffic is async.
    fn effective_min_samples(&self) -> MinSamples {
        let min = self.plan.config.min_samples;
        if self.state.weight == Weight::FULL { MinSamples { sync_requests: 0, ..min } } else { min }
    }

    /// The requests that a gate needs. A step that needs a frozen baseline and has none keeps the
    /// sync requests among them, so that it cannot pass.
    pub(super) fn gate_min_samples(&self) -> MinSamples {
        let config = self.plan.config;
        let lacks_baseline = config.baseline_at(self.state.weight) == BaselineMode::Frozen
            && self.state.sync_baseline.is_none();
        if lacks_baseline { config.min_samples } else { self.effective_min_samples() }
    }

    /// Requests from now on are counted in an epoch after the cohort.
    fn close_cohort(&mut self) {
        self.state.cohort.to_epoch = self.state.epoch;
        self.state.cohort.closed_for = Some(Duration::ZERO);
        self.state.epoch += 1;
    }

    fn advance_gating(
        &mut self,
        cohort: &RolloutEvidence,
        verdict: Verdict,
        observation: &RolloutObservation<'_>,
    ) {
        if self.state.pass_streak >= self.plan.config.success_streak {
            return self.complete_step();
        }
        if self.state.blocked_reason.is_some() {
            return;
        }
        if verdict == Verdict::Inconclusive {
            self.accumulate_wait(observation.elapsed);
            if self.state.phase == RolloutPhase::Gating
                && cohort.is_mature(self.plan.config.min_ended_ratio)
            {
                self.extend_cohort(cohort, observation.epoch_evidence);
            }
        }
    }

    /// Takes the evidence since the cohort was closed into the cohort, where that is as much as the
    /// gates need. The cohort grows by at least a share of itself each time.
    fn extend_cohort(&mut self, cohort: &RolloutEvidence, evidence: &[RolloutEvidence]) {
        let reports = &self.state.gate_reports;
        let epochs_after = self.count_epochs_after_cohort();
        let after: RolloutEvidence =
            evidence[evidence.len().saturating_sub(epochs_after)..].iter().sum();
        let needed = reports.iter().filter_map(|report| report.needed_outcomes).max();
        let lacks_copies = reports.iter().any(is_undecided_shadow_gate);
        let min_sync = self.effective_min_samples().sync_requests;
        let lacks_sync = cohort.sync_counts.total < min_sync;
        let grows = |new: u64, old: u64| new >= (old / COHORT_GROWTH_DIVISOR).max(1);
        let is_enough = after.canaried_requests() >= needed.unwrap_or_default()
            && grows(after.canaried_requests(), cohort.canaried_requests());
        if is_enough
            || (lacks_copies && grows(after.shadow_compared, cohort.shadow_compared))
            || (lacks_sync
                && after.canaried_requests() > 0
                && grows(after.sync_counts.total, cohort.sync_counts.total))
        {
            self.close_cohort();
        }
    }

    /// The number of epochs after the cohort.
    fn count_epochs_after_cohort(&self) -> usize {
        usize::try_from(self.state.epoch - self.state.cohort.to_epoch).unwrap_or(usize::MAX)
    }

    /// Adds to the waiting time; pauses once `max_wait` is over.
    fn accumulate_wait(&mut self, elapsed: Duration) {
        let max = self.plan.config.max_step_wait;
        self.state.phase_waited += elapsed;
        if self.state.phase_waited > max {
            let undecided =
                self.state.gate_reports.iter().find(|report| report.verdict != Verdict::Pass);
            let why = undecided
                .map_or("there are too few requests", |report| report.explanation.as_str());
            let why = format!("undecided for {}: {why}", format_exact_span(max));
            self.pause_automatically(PauseReason::Inconclusive, &why);
        }
    }

    /// The step's gates have passed.
    fn complete_step(&mut self) {
        let (weight, config) = (self.state.weight, self.plan.config);
        let Some(next) = config.next_weight_after(weight) else {
            let why = format!("percent, {weight}, is reached, and its gates have passed");
            return self.enter_healthy(RolloutEventKind::Step, &Actor::Controller, &why);
        };
        if config.step_at(weight).is_some_and(|step| step.needs_approval) {
            let why = format!("the gates of {weight} have passed, and the step needs approval");
            self.pause_automatically(PauseReason::AwaitingApproval, &why);
        } else if self.is_raise_allowed() {
            self.climb_to(next, &format!("the gates of {weight} have passed"));
        } else {
            let why = format!("the gates of {weight} have passed, and no window is open");
            self.set_reason(&Actor::Controller, &why);
        }
    }

    /// Begins a new epoch of a healthy rollout once the current one is long enough, and moves the
    /// cohort to the last few epochs.
    fn rotate_healthy_epochs(&mut self, elapsed: Duration) {
        let length = self.healthy_epoch_length();
        let kept = HEALTHY_EPOCHS_JUDGED.max(self.epochs_to_deadline() + 1);
        let state = &mut self.state;
        state.phase_waited += elapsed;
        if state.phase_waited >= length {
            state.phase_waited = Duration::ZERO;
            state.epoch += 1;
        }
        state.cohort.to_epoch = state.epoch;
        state.cohort.from_epoch =
            state.cohort.from_epoch.max((state.epoch + 1).saturating_sub(HEALTHY_EPOCHS_JUDGED));
        state.previous_step_epoch =
            state.previous_step_epoch.max(state.cohort.from_epoch.saturating_sub(kept));
    }

    /// How long an epoch of a healthy rollout lasts: with long tasks longer, so that at most a few
    /// dozen epochs have open tasks.
    fn healthy_epoch_length(&self) -> Duration {
        HEALTHY_EPOCH_LENGTH.max(self.plan.task_deadline / 24)
    }

    /// After how many epochs of a healthy rollout open tasks count as failed.
    pub(super) fn epochs_to_deadline(&self) -> u64 {
        (self.plan.task_deadline.as_secs() / self.healthy_epoch_length().as_secs()) + 1
    }
}

fn is_undecided_shadow_gate(report: &GateReport) -> bool {
    report.gate_kind == GateType::ShadowMismatch.into() && report.verdict == Verdict::Inconclusive
}
