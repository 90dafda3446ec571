//! The decision that is being made: the new state so far and its history lines, with the changes
//! of the state that several inputs share.

use std::time::Duration;

use super::input::RolloutPlan;
use crate::cohort_hash::Weight;
use crate::config::{RolloutMode, is_promotion_allowed};
use crate::rollout::actor::Actor;
use crate::rollout::capacity_window::CapacityWindow;
use crate::rollout::event::{RolloutEvent, RolloutEventKind};
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::gate::{GateReport, LatencyThreshold};
use crate::rollout::phase::{PausablePhase, PauseReason, RolloutPhase};
use crate::rollout::state::{EpochRange, RolloutState};
use crate::task::UnixMs;

/// The decision that is being made on one input.
pub(super) struct RolloutTransition<'a> {
    pub(super) state: RolloutState,
    pub(super) plan: RolloutPlan<'a>,
    pub(super) now: UnixMs,
    pub(super) events: Vec<RolloutEvent>,
}

// === impl RolloutTransition ===

impl RolloutTransition<'_> {
    pub(super) fn allowed_percent(&self) -> Weight {
        self.plan.config.percent
    }

    pub(super) fn is_manual_mode(&self) -> bool {
        self.plan.config.mode == RolloutMode::Manual
    }

    /// Whether the controller must not change the weight by itself: the mode is manual, an operator
    /// set the weight, or `percent` is 0.
    pub(super) fn is_automation_off(&self) -> bool {
        self.is_manual_mode() || self.state.manual_hold || self.allowed_percent() == Weight::ZERO
    }

    /// Whether a promotion window is open now.
    pub(super) fn is_raise_allowed(&self) -> bool {
        let windows = &self.plan.config.promotion_windows;
        windows.is_empty()
            || jiff::Timestamp::from_millisecond(self.now.0.cast_signed())
                .is_ok_and(|now| is_promotion_allowed(windows, now))
    }

    /// Goes on to the next step after the file has raised `percent` above a healthy weight, unless
    /// something speaks against it ([`Self::is_in_doubt`]) or no promotion window is open.
    pub(super) fn climb_from_healthy(&mut self) {
        let Some(next) = self.plan.config.next_weight_after(self.state.weight) else { return };
        let weight = self.state.weight;
        if self.is_in_doubt() || !self.is_raise_allowed() {
            return;
        }
        if self.plan.config.step_at(weight).is_some_and(|step| step.needs_approval) {
            let why = format!("{weight} is healthy, and the step needs approval");
            return self.pause_automatically(PauseReason::AwaitingApproval, &why);
        }
        let percent = self.allowed_percent();
        self.climb_to(next, &format!("{weight} is healthy, percent in the file is {percent}"));
    }

    /// Whether a healthy weight must not be raised now: an evaluation has failed, the rollout is
    /// blocked, or the last verdict of a gate is bad. A stored report that this release cannot read
    /// counts as bad.
    fn is_in_doubt(&self) -> bool {
        let state = &self.state;
        state.fail_streak > 0
            || state.blocked_reason.is_some()
            || state.gate_reports.iter().any(GateReport::is_bad)
            || !state.unread_gate_reports.is_empty()
    }

    /// Raises the weight to `next`. The history line gets the gate reports of the present step.
    pub(super) fn climb_to(&mut self, next: Weight, reason: &str) {
        let reports = self.state.gate_reports.clone();
        self.begin_shift(next, RolloutEventKind::Step, &Actor::Controller, reason);
        self.attach_reports(reports);
    }

    pub(super) fn pause_automatically(&mut self, why: PauseReason, reason: &str) {
        let Some(resume_to) = self.state.phase.as_pausable() else { return };
        self.enter_phase(RolloutPhase::Paused { reason: why, resume_to });
        self.record_event(RolloutEventKind::Pause, &Actor::Controller, reason);
    }

    pub(super) fn enter_healthy(&mut self, kind: RolloutEventKind, actor: &Actor, reason: &str) {
        self.enter_phase(RolloutPhase::Healthy);
        self.state.healthy_since_epoch = self.state.epoch;
        self.open_cohort();
        self.record_event(kind, actor, reason);
    }

    /// Changes the weight and enters the phase in which all replicas have to adopt it. Before a
    /// raise, the counts of the sync path so far are kept as the frozen baseline.
    pub(super) fn begin_shift(
        &mut self,
        weight: Weight,
        kind: RolloutEventKind,
        actor: &Actor,
        reason: &str,
    ) {
        let from = self.state.weight;
        let sync = self.state.seen_evidence.iter().sum::<RolloutEvidence>().sync_counts;
        if weight > from && sync.total > 0 {
            (self.state.sync_baseline, self.state.sync_baseline_at) = (Some(sync), Some(self.now));
        }
        self.state.has_latency_gate |= from == Weight::ZERO;
        let threshold_before = self.state.latency_threshold;
        self.change_weight(weight);
        self.freeze_latency_threshold(&sync);
        if weight == Weight::FULL {
            // this step has no sync requests of its own to take one from
            let threshold = &mut self.state.latency_threshold;
            *threshold = threshold.or(threshold_before);
        }
        self.state.gate_reports.clear();
        self.state.unread_gate_reports.clear();
        self.enter_phase(RolloutPhase::Shifting);
        self.record_event_from(from, kind, actor, reason);
    }

    /// Sets the weight, begins an epoch, and resets streaks, soak time and the blocked reason. The
    /// phase does not change.
    pub(super) fn change_weight(&mut self, weight: Weight) {
        self.state.epoch += 1;
        self.state.weight = weight;
        self.state.weight_changed_at = self.now;
        self.state.pass_streak = 0;
        self.state.fail_streak = 0;
        self.state.soak_elapsed = Duration::ZERO;
        self.state.blocked_reason = None;
        self.state.latency_threshold = None;
    }

    /// Takes the step's latency threshold from these sync requests, if they are enough.
    pub(super) fn freeze_latency_threshold(&mut self, sync: &EvidenceCounts) {
        let needed = self.plan.config.min_samples.sync_requests;
        self.state.latency_threshold =
            LatencyThreshold::from_sync_counts(sync, needed, self.state.epoch);
    }

    /// Changes the weight of a rollout whose mode is manual.
    pub(super) fn enter_manual_weight(&mut self, weight: Weight) {
        self.change_weight(weight);
        self.start_step();
        self.enter_phase(RolloutPhase::Manual);
    }

    /// Begins the evidence of a step, once all replicas run its weight: a new epoch and cohort,
    /// without soak time, streaks and gate memory.
    pub(super) fn start_step(&mut self) {
        let state = &mut self.state;
        state.previous_step_epoch = state.previous_step_epoch.max(state.cohort.from_epoch);
        state.epoch += 1;
        state.gate_memory.clear();
        state.capacity_window = CapacityWindow::default();
        (state.pass_streak, state.fail_streak) = (0, 0);
        (state.soak_elapsed, state.phase_waited, state.sources_down_for) =
            (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        self.open_cohort();
    }

    /// Begins a cohort that contains only the current epoch and is not closed.
    fn open_cohort(&mut self) {
        let epoch = self.state.epoch;
        self.state.cohort = EpochRange { from_epoch: epoch, to_epoch: epoch, closed_for: None };
    }

    /// Starts the soak of the current step again, without its evidence so far. A pause that waits
    /// for an approval ends, because the approval would rest on the discarded evidence.
    pub(super) fn restart_soak(&mut self) {
        self.start_step();
        match &mut self.state.phase {
            RolloutPhase::Paused { reason: PauseReason::AwaitingApproval, .. } => {
                self.enter_phase(RolloutPhase::Soaking);
            }
            RolloutPhase::Paused { resume_to, .. } => *resume_to = PausablePhase::Soaking,
            _ => self.enter_phase(RolloutPhase::Soaking),
        }
    }

    pub(super) fn enter_phase(&mut self, phase: RolloutPhase) {
        self.state.phase = phase;
        self.state.phase_since = self.now;
        self.state.phase_waited = Duration::ZERO;
    }

    /// Sets the actor and the reason of the last change, without a history line.
    pub(super) fn set_reason(&mut self, actor: &Actor, reason: &str) {
        self.state.actor = actor.clone();
        reason.clone_into(&mut self.state.reason);
    }

    /// Sets the actor and the reason, and adds a history line for a change that keeps the weight.
    pub(super) fn record_event(&mut self, kind: RolloutEventKind, actor: &Actor, reason: &str) {
        self.record_event_from(self.state.weight, kind, actor, reason);
    }

    /// Like [`Self::record_event`], for a change of the weight from `from`.
    pub(super) fn record_event_from(
        &mut self,
        from: Weight,
        kind: RolloutEventKind,
        actor: &Actor,
        reason: &str,
    ) {
        self.set_reason(actor, reason);
        let RolloutState { weight, epoch, ref phase, .. } = self.state;
        self.events.push(RolloutEvent {
            at: self.now,
            kind,
            actor: actor.clone(),
            reason: reason.to_owned(),
            from_weight: from,
            to_weight: weight,
            epoch,
            phase: phase.clone(),
            gate_reports: Vec::new(),
        });
    }

    /// Adds gate reports to the last history line: those that the change is based on, or that an
    /// operator's command overrides.
    pub(super) fn attach_reports(&mut self, reports: Vec<GateReport>) {
        if let Some(event) = self.events.last_mut() {
            event.gate_reports = reports;
        }
    }
}
