//! Event → next state: pure, so that a restart at any point changes nothing.
//!
//! An order goes before automation, abort before everything. Only the plan's steps are climbed to;
//! lowering is at once. Automation raises the weight in one place, `RolloutTransition::climb`, and
//! only on PASS; it turns back in one, `RolloutTransition::turn_back`. What nobody can judge (a
//! source is gone, replicas differ) stands still: soak and patience accumulate only while
//! somebody looks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::evidence::{EvidenceCounts, RolloutEvidence};
use super::gate::{GateReport, PrometheusSample, Verdict};
use super::state::{
    CONTROLLER_ACTOR, EpochRange, PausablePhase, PauseReason, RolloutPhase, RolloutState,
};
use super::verb::{CommandRefusal, OperatorCommand};
use super::words::format_exact_span;
use crate::cohort::Weight;
use crate::config::{RolloutConfig, RolloutMode, is_promotion_allowed};
use crate::task::UnixMs;

/// What the file says about a route.
#[derive(Clone, Copy, Debug)]
pub struct RolloutPlan<'a> {
    /// The route's name, for messages.
    pub route: &'a str,
    /// Its section.
    pub config: &'a RolloutConfig,
    /// How long after it was accepted a task may still end: what has not by then has failed.
    pub task_deadline: Duration,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum RolloutInput<'a> {
    /// The file was read: at start, or because it was edited.
    ConfigLoaded,
    /// About a second has passed.
    Tick(Tick<'a>),
    /// The gates are looked at.
    EvaluationDue(RolloutObservation<'a>),
    /// Somebody said so.
    Command(&'a OperatorCommand),
    /// The store has lost what it knew, evidence and all.
    StoreLost,
}

/// What the leader sees every second.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// Since the last one.
    pub elapsed: Duration,
    /// Live replicas that do not run the present epoch, or whose file differs.
    pub lagging_replicas: &'a [String],
    /// What came in the breaker's window.
    pub breaker_evidence: &'a RolloutEvidence,
}

/// What the leader sees every `interval`.
#[derive(Clone, Copy, Debug)]
pub struct RolloutObservation<'a> {
    /// Since the last one.
    pub elapsed: Duration,
    /// As in [`Tick`].
    pub lagging_replicas: &'a [String],
    /// The evidence of [`RolloutState::evidence_epochs`], in that order.
    pub epoch_evidence: &'a [RolloutEvidence],
    /// Answers of Prometheus by gate.
    pub prometheus_samples: &'a BTreeMap<String, PrometheusSample>,
    /// Waiting tasks of the topic; none where that is not known.
    pub queue_depth: Option<u64>,
    /// The age of the oldest of them.
    pub queue_oldest: Option<Duration>,
}

/// What is decided.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutDecision {
    /// The next state; the same when nothing changed.
    pub state: RolloutState,
    /// What the history is told.
    pub events: Vec<RolloutEvent>,
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutEvent {
    /// When.
    pub at: UnixMs,
    /// `step`, `rollback`, `abort`, `pause`, `resume`, `promote`, `set-weight` or `retry`.
    pub kind: &'static str,
    /// Who: an operator, `file` or [`CONTROLLER_ACTOR`].
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The weight before.
    pub from_weight: Weight,
    /// The weight after.
    pub to_weight: Weight,
    /// The epoch after.
    pub epoch: u64,
    /// The phase after.
    pub phase: RolloutPhase,
    /// What the gates said, where they were the reason.
    pub gate_reports: Vec<GateReport>,
}

/// Why everything stands still where the file allows nothing.
pub(super) const PERCENT_ZERO_REASON: &str = "percent in the file is 0";

/// Who edits the file.
pub(super) const FILE_ACTOR: &str = "file";

/// The state after `event`.
///
/// # Errors
/// For an order that cannot be followed now: why, and the way out.
pub fn decide(
    state: &RolloutState,
    plan: RolloutPlan<'_>,
    event: RolloutInput<'_>,
    now: UnixMs,
) -> Result<RolloutDecision, CommandRefusal> {
    let mut turn = RolloutTransition { state: state.clone(), plan, now, events: Vec::new() };
    match event {
        RolloutInput::ConfigLoaded => turn.apply_config(),
        RolloutInput::Tick(beat) => turn.handle_tick(beat),
        RolloutInput::EvaluationDue(observation) => turn.evaluate_gates(observation),
        RolloutInput::Command(verb) => turn.apply_command(verb)?,
        RolloutInput::StoreLost => turn.restart_after_store_loss(),
    }
    Ok(RolloutDecision { state: turn.state, events: turn.events })
}

/// What a replica runs: never more than its own file allows.
#[must_use]
pub fn running_weight(state: &RolloutState, percent: Weight) -> Weight {
    state.weight.min(percent)
}

/// Whether requests of the sync path may be copied to the async one: not once that was turned back.
#[must_use]
pub fn is_shadow_allowed(state: &RolloutState) -> bool {
    !matches!(state.phase, RolloutPhase::RollingBack | RolloutPhase::Degraded)
}

/// A decision in the making.
pub(super) struct RolloutTransition<'a> {
    pub(super) state: RolloutState,
    pub(super) plan: RolloutPlan<'a>,
    pub(super) now: UnixMs,
    pub(super) events: Vec<RolloutEvent>,
}

// === impl Turn ===

impl RolloutTransition<'_> {
    pub(super) fn allowed_percent(&self) -> Weight {
        self.plan.config.percent
    }

    pub(super) fn is_manual_mode(&self) -> bool {
        self.plan.config.mode == RolloutMode::Manual
    }

    /// Whether automation has no say: the mode is manual, somebody set the weight, or the file
    /// stops everything.
    pub(super) fn is_automation_off(&self) -> bool {
        self.is_manual_mode() || self.state.manual_hold || self.allowed_percent() == Weight::ZERO
    }

    /// Whether a weight may be raised now.
    pub(super) fn is_raise_allowed(&self) -> bool {
        let windows = &self.plan.config.promotion_windows;
        windows.is_empty()
            || jiff::Timestamp::from_millisecond(self.now.0.cast_signed())
                .is_ok_and(|now| is_promotion_allowed(windows, now))
    }

    pub(super) fn apply_config(&mut self) {
        if matches!(self.state.phase, RolloutPhase::RollingBack | RolloutPhase::Degraded) {
            return; // a rollout that turned back is left by `retry`, whatever the file says
        }
        self.apply_gate_edits();
        let percent = self.allowed_percent();
        if self.state.manual_hold {
            if self.state.weight > percent && percent > Weight::ZERO {
                self.lower_weight(percent);
            }
        } else if self.is_manual_mode() {
            self.apply_manual_percent();
        } else if percent == Weight::ZERO {
            // the running weight is 0 by the clamp, and what was reached is kept
            if self.state.phase.as_pausable().is_some() {
                self.state.blocked_reason = Some(PERCENT_ZERO_REASON.into());
            }
        } else if self.state.weight > percent {
            self.lower_weight(percent);
        } else if self.state.blocked_reason.as_deref() == Some(PERCENT_ZERO_REASON) {
            // all were served sync meanwhile: that is compared with nothing
            let then = self.state.phase.clone();
            self.begin_shift(
                self.state.weight,
                "resume",
                FILE_ACTOR,
                &format!("percent in the file is {percent} again"),
            );
            self.restore_operator_pause(&then);
        } else {
            self.start_climb();
        }
    }

    /// The file allows less.
    fn lower_weight(&mut self, percent: Weight) {
        let then = self.state.phase.clone();
        self.begin_shift(
            percent,
            "step",
            FILE_ACTOR,
            &format!("percent in the file is {percent} now"),
        );
        self.restore_operator_pause(&then);
    }

    /// What an operator paused stays so.
    fn restore_operator_pause(&mut self, before: &RolloutPhase) {
        if matches!(before, RolloutPhase::Paused { reason: PauseReason::Operator, .. }) {
            self.enter_phase(RolloutPhase::Paused {
                reason: PauseReason::Operator,
                resume_to: PausablePhase::Shifting,
            });
        }
    }

    /// What is counted begins anew, under the weight that was reached.
    fn restart_after_store_loss(&mut self) {
        self.start_step();
        let state = &mut self.state;
        (state.first_epoch, state.previous_step_epoch, state.seen_evidence) =
            (state.epoch, state.epoch, Vec::new());
        if state.phase == RolloutPhase::Gating {
            self.enter_phase(RolloutPhase::Soaking);
        } else if let RolloutPhase::Paused { resume_to: then @ PausablePhase::Gating, .. } =
            &mut state.phase
        {
            *then = PausablePhase::Soaking;
        }
        self.set_reason(CONTROLLER_ACTOR, "the store lost what it knew: the soak begins anew");
    }

    /// `mode: manual`: the weight is the file's.
    fn apply_manual_percent(&mut self) {
        let percent = self.allowed_percent();
        let from = self.state.weight;
        if from == percent && self.state.phase == RolloutPhase::Manual {
            return;
        }
        self.change_weight(percent);
        self.enter_phase(RolloutPhase::Manual);
        self.start_step();
        if from != percent {
            self.record_event_from(
                from,
                "step",
                FILE_ACTOR,
                &format!("percent in the file is {percent}, mode is manual"),
            );
        }
    }

    /// A gated rollout that has something to climb to and has not begun: the first step is taken at
    /// once, since there can be no evidence of the async path yet.
    fn start_climb(&mut self) {
        match self.state.phase {
            RolloutPhase::Idle => {
                if let Some(first) = self.plan.config.next_weight_after(Weight::ZERO) {
                    self.begin_shift(
                        first,
                        "step",
                        CONTROLLER_ACTOR,
                        &format!("the first step on the way to {}", self.allowed_percent()),
                    );
                }
            }
            RolloutPhase::Manual => {
                let reason = "mode in the file is gated now";
                if self.state.weight == Weight::ZERO {
                    self.enter_phase(RolloutPhase::Idle);
                    return self.start_climb();
                }
                self.begin_shift(self.state.weight, "step", FILE_ACTOR, reason);
            }
            RolloutPhase::Healthy => self.climb_from_healthy(),
            _ => {}
        }
    }

    /// An edit of the gates restarts the present soak, and nothing else.
    fn apply_gate_edits(&mut self) {
        let digest = self.plan.config.gates_digest();
        if std::mem::replace(&mut self.state.gates_digest, digest) == digest {
            return;
        }
        match self.state.phase.as_pausable() {
            Some(PausablePhase::Soaking | PausablePhase::Gating) => {
                self.start_step();
                self.set_reason(FILE_ACTOR, "the gates were edited: the soak begins anew");
                match &mut self.state.phase {
                    // it was the old gates that had passed
                    RolloutPhase::Paused { reason: PauseReason::AwaitingApproval, .. } => {
                        self.enter_phase(RolloutPhase::Soaking);
                    }
                    RolloutPhase::Paused { resume_to: then, .. } => *then = PausablePhase::Soaking,
                    _ => self.enter_phase(RolloutPhase::Soaking),
                }
            }
            Some(PausablePhase::Healthy) | None => self.state.gate_memory.clear(),
            Some(PausablePhase::Shifting) => {}
        }
    }

    fn handle_tick(&mut self, beat: Tick<'_>) {
        if self.allowed_percent() == Weight::ZERO && self.state.phase != RolloutPhase::RollingBack {
            return;
        }
        let settled = beat.lagging_replicas.is_empty();
        match self.state.phase {
            RolloutPhase::RollingBack if settled => self.enter_phase(RolloutPhase::Degraded),
            RolloutPhase::Shifting
            | RolloutPhase::Paused { reason: PauseReason::NotConverged, .. }
                if settled =>
            {
                if self.state.phase != RolloutPhase::Shifting {
                    self.record_event("resume", CONTROLLER_ACTOR, "all replicas run the weight");
                }
                self.enter_phase(RolloutPhase::Soaking);
                self.start_step();
                self.state.blocked_reason = None;
            }
            RolloutPhase::Shifting => {
                self.state.phase_waited += beat.elapsed;
                if self.state.phase_waited > self.plan.config.converge_timeout {
                    let who = beat.lagging_replicas.join(", ");
                    self.pause_automatically(
                        PauseReason::NotConverged,
                        &format!("not all replicas run {}: {who}", self.state.weight),
                    );
                }
            }
            RolloutPhase::Healthy if !self.is_automation_off() => self.climb_from_healthy(),
            _ => {}
        }
        let counts = self.state.phase.as_pausable().is_some() && !self.is_automation_off();
        if counts && super::gate::trips_breaker(&self.plan.config.breaker, beat.breaker_evidence) {
            let EvidenceCounts { failed, total, .. } = beat.breaker_evidence.async_counts;
            let window = format_exact_span(self.plan.config.breaker.window);
            self.apply_on_fail(&format!(
                "breaker: {failed} of {total} async failed within {window}"
            ));
        }
    }

    /// `percent` was raised over a weight that is healthy, and all who judge it can see.
    fn climb_from_healthy(&mut self) {
        let Some(next) = self.plan.config.next_weight_after(self.state.weight) else { return };
        let (state, weight) = (&self.state, self.state.weight);
        let in_doubt =
            |report: &GateReport| matches!(report.verdict, Verdict::Fail | Verdict::Error);
        if state.fail_streak > 0
            || state.blocked_reason.is_some()
            || state.gate_reports.iter().any(in_doubt)
            || !self.is_raise_allowed()
        {
            return;
        }
        if self.plan.config.step_at(weight).is_some_and(|step| step.needs_approval) {
            return self.pause_automatically(
                PauseReason::AwaitingApproval,
                &format!("{weight} is healthy, and the step asks for a person"),
            );
        }
        self.climb_to(
            next,
            &format!("{weight} is healthy, percent in the file is {}", self.allowed_percent()),
        );
    }

    /// Raises the weight on the evidence of the step before.
    pub(super) fn climb_to(&mut self, next: Weight, reason: &str) {
        let reports = self.state.gate_reports.clone();
        self.begin_shift(next, "step", CONTROLLER_ACTOR, reason);
        if let Some(step) = self.events.last_mut() {
            step.gate_reports = reports;
        }
    }

    /// FAIL, by gates or breaker: what `on_fail` says.
    pub(super) fn apply_on_fail(&mut self, reason: &str) {
        match self.plan.config.on_fail {
            crate::config::GateFailureAction::Rollback => {
                self.roll_back("rollback", CONTROLLER_ACTOR, reason);
            }
            // said once; and who paused it before need not be told to
            crate::config::GateFailureAction::Pause => match self.state.phase {
                RolloutPhase::Paused {
                    reason: PauseReason::GatesFailed | PauseReason::Operator,
                    ..
                } => return,
                _ => self.pause_automatically(PauseReason::GatesFailed, reason),
            },
        }
        if let Some(happened) = self.events.last_mut() {
            happened.gate_reports.clone_from(&self.state.gate_reports);
        }
    }

    /// To weight 0, until somebody says `retry`.
    pub(super) fn roll_back(&mut self, event: &'static str, by: &str, reason: &str) {
        let from = self.state.weight;
        self.state.manual_hold = false;
        self.change_weight(Weight::ZERO);
        self.enter_phase(RolloutPhase::RollingBack);
        self.record_event_from(from, event, by, reason);
    }

    pub(super) fn pause_automatically(&mut self, why: PauseReason, reason: &str) {
        let Some(then) = self.state.phase.as_pausable() else { return };
        self.enter_phase(RolloutPhase::Paused { reason: why, resume_to: then });
        self.record_event("pause", CONTROLLER_ACTOR, reason);
    }

    /// Another weight, which all replicas have to take up before anything is counted.
    pub(super) fn begin_shift(
        &mut self,
        weight: Weight,
        event: &'static str,
        by: &str,
        reason: &str,
    ) {
        let from = self.state.weight;
        let sync = self.state.seen_evidence.iter().sum::<RolloutEvidence>().sync_counts;
        if weight > from && sync.total > 0 {
            self.state.sync_baseline = Some(sync);
        }
        self.change_weight(weight);
        self.state.gate_reports.clear();
        self.enter_phase(RolloutPhase::Shifting);
        self.record_event_from(from, event, by, reason);
    }

    /// Another weight, and nothing else.
    pub(super) fn change_weight(&mut self, weight: Weight) {
        self.state.epoch += 1;
        self.state.weight = weight;
        self.state.weight_changed_at = self.now;
        self.state.pass_streak = 0;
        self.state.fail_streak = 0;
        self.state.soak_elapsed = Duration::ZERO;
        self.state.blocked_reason = None;
    }

    /// The weight is taken up everywhere: counters, soak and gates begin.
    pub(super) fn start_step(&mut self) {
        let state = &mut self.state;
        state.previous_step_epoch = state.previous_step_epoch.max(state.cohort.from_epoch);
        state.epoch += 1;
        state.cohort =
            EpochRange { from_epoch: state.epoch, to_epoch: state.epoch, closed_for: None };
        state.gate_memory.clear();
        (state.pass_streak, state.fail_streak) = (0, 0);
        (state.soak_elapsed, state.phase_waited, state.sources_down_for) =
            (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    }

    pub(super) fn enter_phase(&mut self, phase: RolloutPhase) {
        self.state.phase = phase;
        self.state.phase_since = self.now;
        self.state.phase_waited = Duration::ZERO;
    }

    /// Gives the reason for where it stands.
    pub(super) fn set_reason(&mut self, by: &str, reason: &str) {
        by.clone_into(&mut self.state.actor);
        reason.clone_into(&mut self.state.reason);
    }

    pub(super) fn record_event(&mut self, event: &'static str, by: &str, reason: &str) {
        self.record_event_from(self.state.weight, event, by, reason);
    }

    /// Gives the reason, here and in the history.
    pub(super) fn record_event_from(
        &mut self,
        from: Weight,
        event: &'static str,
        by: &str,
        reason: &str,
    ) {
        self.set_reason(by, reason);
        let RolloutState { weight, epoch, ref phase, .. } = self.state;
        self.events.push(RolloutEvent {
            at: self.now,
            kind: event,
            actor: by.to_owned(),
            reason: reason.to_owned(),
            from_weight: from,
            to_weight: weight,
            epoch,
            phase: phase.clone(),
            gate_reports: Vec::new(),
        });
    }
}
