//! A look at the gates: what the evidence says, and what follows from it.
//!
//! A step is judged by a closed cohort: the requests that were accepted from its shift to the end
//! of its soak, once nearly all of them have an outcome. Where that leaves it undecided, the cohort
//! is extended by what came since, as soon as that is as much as the gates need. A healthy rollout
//! is judged by the last hour, in epochs of a quarter of it.

use std::time::Duration;

use super::evidence::RolloutEvidence;
use super::gate::{Evaluation, GateReport, LateEvidence, Verdict, evaluate_gate};
use super::machine::{PERCENT_ZERO_REASON, RolloutObservation, RolloutTransition};
use super::state::{
    CONTROLLER_ACTOR, EpochRange, PausablePhase, PauseReason, RolloutPhase, RolloutState,
};
use super::words::format_exact_span;
use crate::cohort::Weight;
use crate::config::{BaselineMode, GateConfig, MinSamples, SHADOW_MISMATCH_GATE};

/// How long an epoch of a healthy rollout lasts.
const HEALTHY_EPOCH_LENGTH: Duration = Duration::from_mins(15);
/// How many of them are judged together: an hour, and the one that is under way.
const HEALTHY_EPOCHS_JUDGED: u64 = 5;
/// By which part of itself at least a closed cohort is extended.
pub(super) const COHORT_GROWTH_DIVISOR: u64 = 8;
/// Good evaluations after which a rollout that was blind goes on.
const UP_STREAK_TO_RESUME: u32 = 3;
/// How long evidence may be gone where no Prometheus has a grace of its own.
const DEFAULT_SOURCE_GRACE: Duration = Duration::from_mins(10);

// === impl Turn ===

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
        let came = self.new_evidence_by_epoch(observation.epoch_evidence);
        let news = sum_evidence(&came);
        let judged = self.cohort_evidence(observation.epoch_evidence, observation.elapsed);
        let reports = self.report_on_gates(&judged, &came, &observation);
        self.record_seen_evidence(&observation);
        let verdict = combine_verdicts(&reports);
        self.state.gate_reports = reports;
        self.state.blocked_reason = self.find_blocked_reason(&observation, &news, verdict);
        if self.is_automation_off() {
            return;
        }
        self.update_streaks(verdict, news.store_unavailable > 0, observation.elapsed);
        match self.state.phase {
            _ if self.state.fail_streak >= self.plan.config.failure_limit => {
                let why = self.join_failure_reasons();
                self.apply_on_fail(&why);
            }
            RolloutPhase::Soaking => self.advance_soak(&judged, observation.elapsed),
            RolloutPhase::Gating => self.advance_gating(&judged, verdict, &observation),
            RolloutPhase::Healthy => self.rotate_healthy_epochs(observation.elapsed),
            _ => {}
        }
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

    /// How long an epoch of a healthy rollout lasts: so that those in which a task may be open are
    /// a few dozen at most.
    fn healthy_epoch_length(&self) -> Duration {
        HEALTHY_EPOCH_LENGTH.max(self.plan.task_deadline / 24)
    }

    /// How many epochs of a healthy rollout pass until what is open in one has failed.
    fn epochs_to_deadline(&self) -> u64 {
        (self.plan.task_deadline.as_secs() / self.healthy_epoch_length().as_secs()) + 1
    }

    /// A healthy rollout closes no cohorts: what is open in epochs that are past the deadline has
    /// failed.
    fn fail_overdue_tasks(&self, evidence: &[RolloutEvidence]) -> Vec<RolloutEvidence> {
        let mut aged = evidence.to_vec();
        if self.state.phase == RolloutPhase::Healthy {
            let RolloutState { first_epoch: first, healthy_since_epoch: healthy, epoch, .. } =
                self.state;
            let old = epoch.saturating_sub(self.epochs_to_deadline());
            // those of the climb last as they come, and their late failures count by themselves
            let numbered =
                (first..).zip(&mut aged).filter(|(epoch, _)| (healthy..old).contains(epoch));
            numbered.for_each(|(_, evidence)| fail_open_tasks(evidence));
        }
        aged
    }

    /// What came since the last look, by epoch.
    fn new_evidence_by_epoch(&self, evidence: &[RolloutEvidence]) -> Vec<RolloutEvidence> {
        let seen = self
            .state
            .seen_evidence
            .iter()
            .copied()
            .chain(std::iter::repeat(RolloutEvidence::default()));
        evidence.iter().zip(seen).map(|(now, seen)| now.delta_since(&seen)).collect()
    }

    /// The place of an epoch in the evidence.
    fn epoch_index(&self, epoch: u64) -> usize {
        usize::try_from(epoch.saturating_sub(self.state.first_epoch)).unwrap_or(usize::MAX)
    }

    /// The evidence of the cohort. Past its deadline, what has no outcome has failed.
    fn cohort_evidence(
        &mut self,
        evidence: &[RolloutEvidence],
        elapsed: Duration,
    ) -> RolloutEvidence {
        let EpochRange { from_epoch: from, to_epoch: to, .. } = self.state.cohort;
        let end = self.epoch_index(to).saturating_add(1).min(evidence.len());
        let mut judged =
            sum_evidence(evidence.get(self.epoch_index(from)..end).unwrap_or_default());
        if let Some(closed) = &mut self.state.cohort.closed_for {
            *closed += elapsed;
            if *closed > self.plan.task_deadline {
                fail_open_tasks(&mut judged);
            }
        }
        judged
    }

    fn report_on_gates(
        &mut self,
        judged: &RolloutEvidence,
        came: &[RolloutEvidence],
        observation: &RolloutObservation<'_>,
    ) -> Vec<GateReport> {
        let rollout = self.plan.config;
        // all since the shift are of one weight
        let (earlier, now) =
            came.split_at(self.epoch_index(self.state.cohort.from_epoch).min(came.len()));
        let late: Vec<LateEvidence> = earlier
            .iter()
            .zip(observation.epoch_evidence)
            .map(|(news, whole)| LateEvidence { new_evidence: *news, total_evidence: *whole })
            .collect();
        let frozen = rollout.baseline_at(self.state.weight) == BaselineMode::Frozen;
        let look = Evaluation {
            cohort_evidence: judged,
            new_evidence: &sum_evidence(now),
            late_evidence: &late,
            frozen_baseline: self.state.sync_baseline.as_ref().filter(|_| frozen),
            is_mature: is_cohort_mature(judged, rollout.min_ended_ratio),
            is_healthy: self.state.phase == RolloutPhase::Healthy,
            is_full_weight: self.state.weight == Weight::FULL,
            prometheus_samples: observation.prometheus_samples,
            queue_depth: observation.queue_depth,
            queue_oldest: observation.queue_oldest,
        };
        let (min, memory) = (self.gate_min_samples(), &mut self.state.gate_memory);
        let judge = |gate: &GateConfig| {
            evaluate_gate(gate, min, memory.entry(gate.name.clone()).or_default(), &look)
        };
        rollout.gates.iter().map(judge).collect()
    }

    /// Remembers what was seen, and forgets what can bring nothing any more.
    fn record_seen_evidence(&mut self, observation: &RolloutObservation<'_>) {
        let state = &mut self.state;
        let first = state.previous_step_epoch.clamp(state.first_epoch, state.epoch);
        let past = usize::try_from(first - state.first_epoch).unwrap_or(usize::MAX);
        state.seen_evidence = observation.epoch_evidence.get(past..).unwrap_or_default().to_vec();
        state.first_epoch = first;
    }

    /// Why soak and gates stand still.
    fn find_blocked_reason(
        &self,
        observation: &RolloutObservation<'_>,
        news: &RolloutEvidence,
        verdict: Verdict,
    ) -> Option<String> {
        if self.allowed_percent() == Weight::ZERO {
            return Some(PERCENT_ZERO_REASON.into());
        }
        if news.store_unavailable > 0 {
            return Some(format!(
                "the store was gone for {} requests since the last look",
                news.store_unavailable
            ));
        }
        if !observation.lagging_replicas.is_empty() {
            let who = observation.lagging_replicas.join(", ");
            return Some(format!("not all replicas run {}: {who}", self.state.weight));
        }
        let erring = self.state.gate_reports.iter().find(|report| report.verdict == Verdict::Error);
        erring.filter(|_| verdict == Verdict::Error).map(|report| report.explanation.clone())
    }

    /// Counts verdicts in a row, and how long it has been blind.
    fn update_streaks(&mut self, verdict: Verdict, store_was_gone: bool, elapsed: Duration) {
        let rollout = self.plan.config;
        let state = &mut self.state;
        let blind = verdict == Verdict::Error || store_was_gone;
        state.sources_up_streak = if blind { 0 } else { state.sources_up_streak.saturating_add(1) };
        state.sources_down_for =
            if blind { state.sources_down_for + elapsed } else { Duration::ZERO };
        match verdict {
            _ if store_was_gone => {}
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
        let grace = rollout
            .prometheus
            .as_ref()
            .map_or(DEFAULT_SOURCE_GRACE, |prometheus| prometheus.unavailable_grace);
        match state.phase {
            RolloutPhase::Soaking | RolloutPhase::Gating if state.sources_down_for > grace => {
                let why = state.blocked_reason.clone().unwrap_or_default();
                self.pause_automatically(PauseReason::MetricsUnavailable, &why);
            }
            RolloutPhase::Paused { reason: PauseReason::MetricsUnavailable, resume_to: then }
                if state.sources_up_streak >= UP_STREAK_TO_RESUME =>
            {
                self.enter_phase(then.into());
                self.record_event("resume", CONTROLLER_ACTOR, "all sources answer again");
            }
            _ => {}
        }
    }

    fn join_failure_reasons(&self) -> String {
        let failed =
            self.state.gate_reports.iter().filter(|report| report.verdict == Verdict::Fail);
        failed.map(|report| report.explanation.as_str()).collect::<Vec<_>>().join("; ")
    }

    /// Watches the step; once it was watched long enough and has enough requests, its cohort is
    /// closed.
    fn advance_soak(&mut self, judged: &RolloutEvidence, elapsed: Duration) {
        if self.state.blocked_reason.is_some() {
            return;
        }
        let (rollout, min) = (self.plan.config, self.effective_min_samples());
        self.state.soak_elapsed += elapsed;
        if self.state.soak_elapsed < rollout.soak_at(self.state.weight) {
            return;
        }
        if judged.canaried_requests() >= min.async_requests
            && judged.sync_counts.total >= min.sync_requests
        {
            self.close_cohort();
            self.enter_phase(RolloutPhase::Gating);
        } else {
            self.accumulate_wait(elapsed);
        }
    }

    /// What can be waited for: nothing of the sync path where all traffic is async.
    fn effective_min_samples(&self) -> MinSamples {
        let min = self.plan.config.min_samples;
        if self.state.weight == Weight::FULL { MinSamples { sync_requests: 0, ..min } } else { min }
    }

    /// What a gate asks for: where a baseline is to be compared with and there is none, it cannot
    /// pass.
    fn gate_min_samples(&self) -> MinSamples {
        let rollout = self.plan.config;
        let lacks = rollout.baseline_at(self.state.weight) == BaselineMode::Frozen
            && self.state.sync_baseline.is_none();
        if lacks { rollout.min_samples } else { self.effective_min_samples() }
    }

    /// What comes from now on is counted for itself.
    fn close_cohort(&mut self) {
        self.state.cohort.to_epoch = self.state.epoch;
        self.state.cohort.closed_for = Some(Duration::ZERO);
        self.state.epoch += 1;
    }

    fn advance_gating(
        &mut self,
        judged: &RolloutEvidence,
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
                && is_cohort_mature(judged, self.plan.config.min_ended_ratio)
            {
                self.extend_cohort(judged, observation.epoch_evidence);
            }
        }
    }

    /// Takes what came since the cohort was closed into it, where that is as much as the gates
    /// need.
    fn extend_cohort(&mut self, judged: &RolloutEvidence, evidence: &[RolloutEvidence]) {
        let since = sum_evidence(
            &evidence[evidence.len().saturating_sub(self.count_epochs_after_cohort())..],
        );
        let needed =
            self.state.gate_reports.iter().filter_map(|report| report.needed_outcomes).max();
        let lacks_copies = self.state.gate_reports.iter().any(|report| {
            report.gate_kind == SHADOW_MISMATCH_GATE && report.verdict == Verdict::Inconclusive
        });
        let lacks_sync = judged.sync_counts.total < self.effective_min_samples().sync_requests;
        // by a share of what there is, so that a long doubt makes dozens of epochs and not
        // thousands
        let grows = |new: u64, old: u64| new >= (old / COHORT_GROWTH_DIVISOR).max(1);
        let enough = since.canaried_requests() >= needed.unwrap_or_default()
            && grows(since.canaried_requests(), judged.canaried_requests());
        if enough
            || (lacks_copies && grows(since.shadow_compared, judged.shadow_compared))
            || (lacks_sync
                && since.canaried_requests() > 0
                && grows(since.sync_counts.total, judged.sync_counts.total))
        {
            self.close_cohort();
        }
    }

    /// Epochs that are newer than the cohort.
    fn count_epochs_after_cohort(&self) -> usize {
        usize::try_from(self.state.epoch - self.state.cohort.to_epoch).unwrap_or(usize::MAX)
    }

    fn accumulate_wait(&mut self, elapsed: Duration) {
        let max = self.plan.config.max_step_wait;
        self.state.phase_waited += elapsed;
        if self.state.phase_waited > max {
            let why = self.state.gate_reports.iter().find(|report| report.verdict != Verdict::Pass);
            let why = why
                .map_or("there are too few requests", |report| report.explanation.as_str())
                .to_owned();
            self.pause_automatically(
                PauseReason::Inconclusive,
                &format!("undecided for {}: {why}", format_exact_span(max)),
            );
        }
    }

    /// The step's gates have passed.
    fn complete_step(&mut self) {
        let (weight, rollout) = (self.state.weight, self.plan.config);
        let Some(next) = rollout.next_weight_after(weight) else {
            let why = format!("percent, {weight}, is reached, and its gates have passed");
            return self.enter_healthy("step", CONTROLLER_ACTOR, &why);
        };
        if rollout.step_at(weight).is_some_and(|step| step.needs_approval) {
            self.pause_automatically(
                PauseReason::AwaitingApproval,
                &format!("the gates of {weight} have passed, and the step asks for a person"),
            );
        } else if self.is_raise_allowed() {
            self.climb_to(next, &format!("the gates of {weight} have passed"));
        } else {
            self.set_reason(
                CONTROLLER_ACTOR,
                &format!("the gates of {weight} have passed, and no window is open"),
            );
        }
    }

    pub(super) fn enter_healthy(&mut self, event: &'static str, by: &str, reason: &str) {
        self.enter_phase(RolloutPhase::Healthy);
        self.state.healthy_since_epoch = self.state.epoch;
        self.state.cohort = EpochRange {
            from_epoch: self.state.epoch,
            to_epoch: self.state.epoch,
            closed_for: None,
        };
        self.record_event(event, by, reason);
    }

    /// A healthy rollout begins another epoch now and then, and judges the last few.
    fn rotate_healthy_epochs(&mut self, elapsed: Duration) {
        let (length, kept) =
            (self.healthy_epoch_length(), HEALTHY_EPOCHS_JUDGED.max(self.epochs_to_deadline() + 1));
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
}

/// What has no outcome has failed.
fn fail_open_tasks(evidence: &mut RolloutEvidence) {
    let open = evidence.open_tasks();
    evidence.async_counts.failed += open;
    evidence.async_counts.total += open;
}

fn sum_evidence(evidence: &[RolloutEvidence]) -> RolloutEvidence {
    evidence.iter().sum()
}

/// Whether enough of a cohort's tasks have an outcome.
fn is_cohort_mature(judged: &RolloutEvidence, maturity: f64) -> bool {
    #[allow(clippy::cast_precision_loss)] // counts of requests
    let (open, accepted) = (judged.open_tasks() as f64, judged.accepted_tasks as f64);
    open <= (1.0 - maturity) * accepted
}

/// FAIL wins, then a source that is gone, then doubt.
fn combine_verdicts(reports: &[GateReport]) -> Verdict {
    let has = |verdict| reports.iter().any(|report| report.verdict == verdict);
    [Verdict::Fail, Verdict::Error, Verdict::Inconclusive]
        .into_iter()
        .find(|verdict| has(*verdict))
        .unwrap_or(Verdict::Pass)
}
