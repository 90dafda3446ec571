//! Every `interval`: evaluates the gates on the evidence, and updates streaks and block.
//!
//! A step is judged by a closed cohort: the requests that were accepted from its shift to the end
//! of its soak, once nearly all of them have an outcome. A healthy rollout is judged by the last
//! hour, in epochs of a quarter of an hour (longer where tasks take long).

use std::time::Duration;

use super::input::RolloutObservation;
use super::transition::RolloutTransition;
use crate::cohort_hash::Weight;
use crate::config::{BaselineMode, GateConfig};
use crate::rollout::actor::Actor;
use crate::rollout::assignments::AssignmentCounts;
use crate::rollout::blocked::BlockedReason;
use crate::rollout::capacity_window::CapacityCounts;
use crate::rollout::event::RolloutEventKind;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::{Evaluation, GateReport, LateEvidence, Verdict, evaluate_gate};
use crate::rollout::limits::{UP_STREAK_TO_RESUME, source_grace};
use crate::rollout::phase::{PausablePhase, PauseReason, RolloutPhase};
use crate::rollout::sample_ratio::find_sample_ratio_mismatch;
use crate::rollout::state::{EpochRange, RolloutState};

// === impl RolloutTransition ===

impl RolloutTransition<'_> {
    pub(super) fn evaluate_gates(&mut self, observation: RolloutObservation<'_>) {
        if self.state.weight == Weight::ZERO
            || !self.is_phase_evaluated()
            || observation.epoch_evidence.is_empty()
        {
            return;
        }
        let aged = self.fail_overdue_tasks(observation.epoch_evidence);
        let observation = RolloutObservation { epoch_evidence: &aged, ..observation };
        let new_by_epoch = self.new_evidence_by_epoch(observation.epoch_evidence);
        let new: RolloutEvidence = new_by_epoch.iter().sum();
        let cohort = self.cohort_evidence(observation.epoch_evidence, observation.elapsed);
        let reports = self.report_on_gates(&cohort, &new_by_epoch, &observation);
        let sample_ratio = self.find_sample_ratio_mismatch(&observation, &new_by_epoch);
        self.record_calls(&new_by_epoch, observation.elapsed);
        self.record_seen_evidence(&observation);
        let verdict = combine_verdicts(&reports);
        self.state.gate_reports = reports;
        self.state.unread_gate_reports.clear();
        self.state.blocked_reason = self
            .find_blocked_reason(&observation, &new, verdict)
            .or(sample_ratio)
            .or_else(|| self.state.capacity_window.find_blocked_reason());
        if self.is_automation_off() {
            return;
        }
        self.update_streaks(verdict, new.store_unavailable > 0, observation.elapsed);
        self.pause_or_resume_for_sources();
        self.advance_step(&cohort, verdict, &observation);
    }

    /// Whether requests are counted for gates in this phase.
    fn is_phase_evaluated(&self) -> bool {
        use RolloutPhase::{Degraded, Idle, Paused, RollingBack, Shifting};
        !matches!(
            self.state.phase,
            Idle | Shifting
                | Paused { resume_to: PausablePhase::Shifting, .. }
                | RollingBack
                | Degraded
        )
    }

    /// A healthy rollout closes no cohorts: tasks without an outcome in epochs past the deadline
    /// count as failed. Epochs of the climb keep their counts, and count late failures as they
    /// come.
    fn fail_overdue_tasks(&self, evidence: &[RolloutEvidence]) -> Vec<RolloutEvidence> {
        let mut aged = evidence.to_vec();
        if self.state.phase == RolloutPhase::Healthy {
            let RolloutState { first_epoch, healthy_since_epoch, epoch, .. } = self.state;
            let overdue = healthy_since_epoch..epoch.saturating_sub(self.epochs_to_deadline());
            (first_epoch..)
                .zip(&mut aged)
                .filter(|(epoch, _)| overdue.contains(epoch))
                .for_each(|(_, evidence)| evidence.fail_open_tasks());
        }
        aged
    }

    /// The evidence since the last evaluation, by epoch.
    fn new_evidence_by_epoch(&self, evidence: &[RolloutEvidence]) -> Vec<RolloutEvidence> {
        let seen = self.state.seen_evidence.iter().copied();
        let seen = seen.chain(std::iter::repeat(RolloutEvidence::default()));
        evidence.iter().zip(seen).map(|(now, seen)| now.delta_since(&seen)).collect()
    }

    /// The sum of the epochs that began with the step or later.
    fn sum_step_epochs(&self, by_epoch: &[RolloutEvidence]) -> RolloutEvidence {
        let step = self.epoch_index(self.state.cohort.from_epoch).min(by_epoch.len());
        by_epoch[step..].iter().sum()
    }

    /// Why the step does not climb, if its requests are not split as its weight says. The random
    /// split is tested in a step alone: a healthy rollout has no start from which its error rate
    /// would hold.
    fn find_sample_ratio_mismatch(
        &self,
        observation: &RolloutObservation<'_>,
        new_by_epoch: &[RolloutEvidence],
    ) -> Option<BlockedReason> {
        let new = self.sum_step_epochs(new_by_epoch).assignments;
        let step = match self.state.phase {
            RolloutPhase::Healthy => AssignmentCounts::default(),
            _ => self.sum_step_epochs(observation.epoch_evidence).assignments,
        };
        find_sample_ratio_mismatch(&step, &new, self.state.weight)
    }

    /// Adds the step's new calls to the window that shows whether the workers keep up with them.
    fn record_calls(&mut self, new_by_epoch: &[RolloutEvidence], elapsed: Duration) {
        let new = self.sum_step_epochs(new_by_epoch);
        let soak = self.plan.config.soak_at(self.state.weight);
        self.state.capacity_window.record_calls(CapacityCounts::from(&new), elapsed, soak);
    }

    /// The index of an epoch in the evidence.
    fn epoch_index(&self, epoch: u64) -> usize {
        usize::try_from(epoch.saturating_sub(self.state.first_epoch)).unwrap_or(usize::MAX)
    }

    /// The evidence of the cohort. Past its deadline, tasks without an outcome count as failed.
    fn cohort_evidence(
        &mut self,
        evidence: &[RolloutEvidence],
        elapsed: Duration,
    ) -> RolloutEvidence {
        let EpochRange { from_epoch, to_epoch, .. } = self.state.cohort;
        let end = self.epoch_index(to_epoch).saturating_add(1).min(evidence.len());
        let epochs = evidence.get(self.epoch_index(from_epoch)..end).unwrap_or_default();
        let mut cohort: RolloutEvidence = epochs.iter().sum();
        if let Some(closed_for) = &mut self.state.cohort.closed_for {
            *closed_for += elapsed;
            if *closed_for > self.plan.task_deadline {
                cohort.fail_open_tasks();
            }
        }
        cohort
    }

    fn report_on_gates(
        &mut self,
        cohort: &RolloutEvidence,
        new_by_epoch: &[RolloutEvidence],
        observation: &RolloutObservation<'_>,
    ) -> Vec<GateReport> {
        let config = self.plan.config;
        // all epochs since the shift have the current weight
        let shift = self.epoch_index(self.state.cohort.from_epoch).min(new_by_epoch.len());
        let (earlier, current) = new_by_epoch.split_at(shift);
        let late: Vec<LateEvidence> = earlier
            .iter()
            .zip(observation.epoch_evidence)
            .map(|(new, total)| LateEvidence { new_evidence: *new, total_evidence: *total })
            .collect();
        let step_evidence: RolloutEvidence =
            observation.epoch_evidence.get(shift..).unwrap_or_default().iter().sum();
        if self.state.latency_threshold.is_none() {
            // the step before had too few sync requests: the first of this step are taken
            self.freeze_latency_threshold(&step_evidence.sync_counts);
        }
        let is_frozen = config.baseline_at(self.state.weight) == BaselineMode::Frozen;
        let evaluation = Evaluation {
            cohort_evidence: cohort,
            step_evidence: &step_evidence,
            new_evidence: &current.iter().sum(),
            late_evidence: &late,
            frozen_baseline: self.state.sync_baseline.as_ref().filter(|_| is_frozen),
            latency_threshold: self.state.latency_threshold,
            min_p95_requests: config.min_samples.sync_requests,
            is_mature: cohort.is_mature(config.min_ended_ratio),
            is_healthy: self.state.phase == RolloutPhase::Healthy,
            is_full_weight: self.state.weight == Weight::FULL,
            prometheus_samples: observation.prometheus_samples,
            queue_depth: observation.queue_depth,
            queue_oldest: observation.queue_oldest,
        };
        let has_latency_gate = self.state.has_latency_gate;
        let (min_samples, memory) = (self.gate_min_samples(), &mut self.state.gate_memory);
        let evaluate = |gate: &GateConfig| {
            let memory = memory.entry(gate.name.clone()).or_default();
            evaluate_gate(gate, min_samples, memory, &evaluation)
        };
        config.judging_gates(has_latency_gate).map(evaluate).collect()
    }

    /// Keeps the evidence for the next evaluation, and drops epochs whose tasks have all ended.
    fn record_seen_evidence(&mut self, observation: &RolloutObservation<'_>) {
        let state = &mut self.state;
        let first = state.previous_step_epoch.clamp(state.first_epoch, state.epoch);
        let dropped = usize::try_from(first - state.first_epoch).unwrap_or(usize::MAX);
        state.seen_evidence =
            observation.epoch_evidence.get(dropped..).unwrap_or_default().to_vec();
        state.first_epoch = first;
    }

    /// Why soak time and gates stand still, if they do.
    fn find_blocked_reason(
        &self,
        observation: &RolloutObservation<'_>,
        new: &RolloutEvidence,
        verdict: Verdict,
    ) -> Option<BlockedReason> {
        if self.allowed_percent() == Weight::ZERO {
            return Some(BlockedReason::PercentZero);
        }
        if new.store_unavailable > 0 {
            return Some(BlockedReason::StoreUnavailable { requests: new.store_unavailable });
        }
        if !observation.lagging_replicas.is_empty() {
            let replicas = observation.lagging_replicas.to_vec();
            return Some(BlockedReason::ReplicasLagging { replicas });
        }
        let erring = self.state.gate_reports.iter().find(|report| report.verdict == Verdict::Error);
        let source_error = |report: &GateReport| BlockedReason::SourceError {
            gate: report.gate_name.clone(),
            explanation: report.explanation.clone(),
        };
        erring.filter(|_| verdict == Verdict::Error).map(source_error)
    }

    /// Counts verdicts in a row, and how long a source has been down.
    fn update_streaks(&mut self, verdict: Verdict, store_was_down: bool, elapsed: Duration) {
        let state = &mut self.state;
        if verdict == Verdict::Error || store_was_down {
            state.sources_up_streak = 0;
            state.sources_down_for += elapsed;
        } else {
            state.sources_up_streak = state.sources_up_streak.saturating_add(1);
            state.sources_down_for = Duration::ZERO;
        }
        match verdict {
            _ if store_was_down => {}
            Verdict::Fail => (state.fail_streak, state.pass_streak) = (state.fail_streak + 1, 0),
            Verdict::Pass
                if state.blocked_reason.is_none() && state.phase == RolloutPhase::Gating =>
            {
                (state.fail_streak, state.pass_streak) = (0, state.pass_streak + 1);
            }
            Verdict::Pass | Verdict::Inconclusive => {
                (state.fail_streak, state.pass_streak) = (0, 0);
            }
            Verdict::Error => state.pass_streak = 0,
        }
    }

    /// Pauses a step whose source has been down for longer than its grace, and resumes it once all
    /// sources have been up for some evaluations.
    fn pause_or_resume_for_sources(&mut self) {
        let grace = source_grace(self.plan.config);
        let state = &self.state;
        match state.phase {
            RolloutPhase::Soaking | RolloutPhase::Gating if state.sources_down_for > grace => {
                let why = state.blocked_text().unwrap_or_default();
                self.pause_automatically(PauseReason::MetricsUnavailable, &why);
            }
            RolloutPhase::Paused { reason: PauseReason::MetricsUnavailable, resume_to }
                if state.sources_up_streak >= UP_STREAK_TO_RESUME =>
            {
                self.enter_phase(resume_to.into());
                let why = "all sources answer again";
                self.record_event(RolloutEventKind::Resume, &Actor::Controller, why);
            }
            _ => {}
        }
    }
}

/// FAIL goes before ERROR, ERROR before INCONCLUSIVE; PASS where all gates pass.
fn combine_verdicts(reports: &[GateReport]) -> Verdict {
    let has = |verdict| reports.iter().any(|report| report.verdict == verdict);
    [Verdict::Fail, Verdict::Error, Verdict::Inconclusive]
        .into_iter()
        .find(|verdict| has(*verdict))
        .unwrap_or(Verdict::Pass)
}
