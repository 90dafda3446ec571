//! What follows when the file was loaded, and when the store has lost its data.

use super::transition::RolloutTransition;
use crate::cohort_hash::Weight;
use crate::rollout::actor::Actor;
use crate::rollout::blocked::BlockedReason;
use crate::rollout::event::RolloutEventKind;
use crate::rollout::phase::{PausablePhase, PauseReason, RolloutPhase};

// === impl RolloutTransition ===

impl RolloutTransition<'_> {
    pub(super) fn apply_config(&mut self) {
        if self.state.phase.is_rolled_back() {
            return; // only `retry` leaves a rollback, whatever the file says
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
            // the desired weight is kept; replicas run at most `percent`
            if self.state.phase.as_pausable().is_some() {
                self.state.blocked_reason = Some(BlockedReason::PercentZero);
            }
        } else if self.state.weight > percent {
            self.lower_weight(percent);
        } else if self.state.blocked_reason == Some(BlockedReason::PercentZero) {
            // all requests were sync meanwhile, which is no baseline for the step: it starts again
            let before = self.state.phase.clone();
            self.begin_shift(
                self.state.weight,
                RolloutEventKind::Resume,
                &Actor::ConfigFile,
                &format!("percent in the file is {percent} again"),
            );
            self.restore_operator_pause(&before);
        } else {
            self.start_climb();
        }
    }

    /// The file's `percent` is below the weight.
    fn lower_weight(&mut self, percent: Weight) {
        let before = self.state.phase.clone();
        self.begin_shift(
            percent,
            RolloutEventKind::Step,
            &Actor::ConfigFile,
            &format!("percent in the file is {percent} now"),
        );
        self.restore_operator_pause(&before);
    }

    /// A rollout that an operator paused stays paused after a shift that the file asked for.
    fn restore_operator_pause(&mut self, before: &RolloutPhase) {
        if before.is_paused_for(PauseReason::Operator) {
            self.enter_phase(RolloutPhase::Paused {
                reason: PauseReason::Operator,
                resume_to: PausablePhase::Shifting,
            });
        }
    }

    /// The step starts again at the weight that was reached: its evidence is lost.
    pub(super) fn restart_after_store_loss(&mut self) {
        self.start_step();
        let state = &mut self.state;
        (state.first_epoch, state.previous_step_epoch, state.seen_evidence) =
            (state.epoch, state.epoch, Vec::new());
        if state.phase == RolloutPhase::Gating {
            self.enter_phase(RolloutPhase::Soaking);
        } else if let RolloutPhase::Paused {
            resume_to: resume_to @ PausablePhase::Gating, ..
        } = &mut state.phase
        {
            *resume_to = PausablePhase::Soaking;
        }
        self.set_reason(&Actor::Controller, "the store lost its data: the soak starts again");
    }

    /// `mode: manual`: the weight is the file's `percent`.
    fn apply_manual_percent(&mut self) {
        let percent = self.allowed_percent();
        let from = self.state.weight;
        if from == percent && self.state.phase == RolloutPhase::Manual {
            return;
        }
        self.enter_manual_weight(percent);
        if from != percent {
            let why = format!("percent in the file is {percent}, mode is manual");
            self.record_event_from(from, RolloutEventKind::Step, &Actor::ConfigFile, &why);
        }
    }

    /// Takes the first step of a gated rollout at once, since there can be no evidence of the async
    /// path yet; takes over a rollout whose mode was manual; raises a healthy one.
    pub(super) fn start_climb(&mut self) {
        match self.state.phase {
            RolloutPhase::Idle => {
                if let Some(first) = self.plan.config.next_weight_after(Weight::ZERO) {
                    let why = format!("the first step on the way to {}", self.allowed_percent());
                    self.begin_shift(first, RolloutEventKind::Step, &Actor::Controller, &why);
                }
            }
            RolloutPhase::Manual if self.state.weight == Weight::ZERO => {
                self.enter_phase(RolloutPhase::Idle);
                self.start_climb();
            }
            RolloutPhase::Manual => {
                let (weight, why) = (self.state.weight, "mode in the file is gated now");
                self.begin_shift(weight, RolloutEventKind::Step, &Actor::ConfigFile, why);
            }
            RolloutPhase::Healthy => self.climb_from_healthy(),
            _ => {}
        }
    }

    /// An edit of the gates restarts the current soak, and nothing else.
    ///
    /// A digest that is absent or of another form was stored by another release: ours is adopted,
    /// and nothing restarts, since an upgrade edits no file.
    fn apply_gate_edits(&mut self) {
        let digest = self.plan.config.gates_digest();
        let stored = self.state.gates_digest.replace(digest);
        let is_edit = stored.is_some_and(|stored| stored.form == digest.form && stored != digest);
        if !is_edit {
            return;
        }
        match self.state.phase.as_pausable() {
            Some(PausablePhase::Soaking | PausablePhase::Gating) => {
                self.set_reason(&Actor::ConfigFile, "the gates were edited: the soak starts again");
                self.restart_soak();
            }
            Some(PausablePhase::Healthy) | None => self.state.gate_memory.clear(),
            Some(PausablePhase::Shifting) => {}
        }
    }
}
