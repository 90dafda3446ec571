//! What an operator's command does. Abort goes before pause, pause before set-weight, set-weight
//! before promote, promote before automation; all stay within the file's `percent`.

use std::time::Duration;

use super::transition::RolloutTransition;
use crate::cohort_hash::Weight;
use crate::rollout::actor::Actor;
use crate::rollout::command::{CommandRefusal, OperatorAction, OperatorCommand};
use crate::rollout::phase::{PauseReason, RolloutPhase};
use crate::rollout::state::RolloutState;

// === impl RolloutTransition ===

impl RolloutTransition<'_> {
    pub(super) fn apply_command(
        &mut self,
        command: &OperatorCommand,
    ) -> Result<(), CommandRefusal> {
        match command.action {
            OperatorAction::Abort => self.abort(command),
            OperatorAction::Pause => self.pause_by_operator(command)?,
            OperatorAction::SetWeight(weight) => self.set_weight(weight, command)?,
            OperatorAction::Promote { full } => self.promote(full, command)?,
            OperatorAction::Resume => self.resume(command)?,
            OperatorAction::Retry => self.retry(command)?,
        }
        Ok(())
    }

    /// Works in every state; a second abort changes nothing.
    fn abort(&mut self, command: &OperatorCommand) {
        if !self.state.phase.is_rolled_back() {
            let actor = Actor::Operator(command.actor.clone());
            self.roll_back(command.action.event_kind(), &actor, &command.reason);
        }
    }

    fn pause_by_operator(&mut self, command: &OperatorCommand) -> Result<(), CommandRefusal> {
        self.refuse_if_rolled_back()?;
        if self.state.manual_hold {
            return Err(self.build_refusal("its weight was set by hand and already stays"));
        }
        if self.is_manual_mode() {
            return Err(self
                .build_refusal("its mode is manual: only an edit of percent changes its weight"));
        }
        let Some(resume_to) = self.state.phase.as_pausable() else {
            let key = self.percent_config_key();
            return Err(self.build_refusal(&format!("it has not started: raise {key} first")));
        };
        self.enter_phase(RolloutPhase::Paused { reason: PauseReason::Operator, resume_to });
        self.record_command(command);
        Ok(())
    }

    fn set_weight(
        &mut self,
        weight: Weight,
        command: &OperatorCommand,
    ) -> Result<(), CommandRefusal> {
        self.refuse_if_rolled_back()?;
        if weight > self.allowed_percent() {
            return Err(self.build_refusal(&format!(
                "{weight} is over {}, {}: raise that in the file first",
                self.percent_config_key(),
                self.allowed_percent()
            )));
        }
        self.refuse_if_paused()?;
        self.state.manual_hold = true;
        if self.is_manual_mode() {
            let from = self.state.weight;
            self.enter_manual_weight(weight);
            self.record_command_from(from, command);
        } else {
            self.shift_by_command(weight, command);
        }
        Ok(())
    }

    /// Overrides the gates of this step once. At `percent`, a rollout that is paused because its
    /// gates are undecided becomes healthy.
    fn promote(&mut self, full: bool, command: &OperatorCommand) -> Result<(), CommandRefusal> {
        self.refuse_if_rolled_back()?;
        if self.is_manual_mode() {
            let key = self.percent_config_key();
            return Err(self.build_refusal(&format!("its mode is manual: edit {key}")));
        }
        if self.state.manual_hold {
            return Err(
                self.build_refusal("its weight was set by hand: `omnidaemon rollout resume` first")
            );
        }
        self.refuse_if_paused()?;
        let overridden = self.state.gate_reports.clone();
        match self.plan.config.next_weight_after(self.state.weight) {
            Some(next) => {
                let weight = if full { self.allowed_percent() } else { next };
                self.shift_by_command(weight, command);
            }
            None if self.state.phase.is_paused_for(PauseReason::Inconclusive) => {
                let actor = Actor::Operator(command.actor.clone());
                self.enter_healthy(command.action.event_kind(), &actor, &command.reason);
            }
            None => {
                return Err(self.build_refusal(&format!(
                    "it is at {}, {}: raise that in the file first",
                    self.percent_config_key(),
                    self.allowed_percent()
                )));
            }
        }
        self.attach_reports(overridden);
        Ok(())
    }

    fn resume(&mut self, command: &OperatorCommand) -> Result<(), CommandRefusal> {
        self.refuse_if_rolled_back()?;
        if std::mem::take(&mut self.state.manual_hold) {
            self.release_manual_hold(command);
            return Ok(());
        }
        let RolloutPhase::Paused { resume_to, .. } = self.state.phase else {
            return Err(self.build_refusal("it is not paused"));
        };
        self.enter_phase(resume_to.into());
        self.state.fail_streak = 0;
        self.state.sources_down_for = Duration::ZERO;
        self.record_command(command);
        Ok(())
    }

    /// Gives a weight that was set by hand back to the gates, or in manual mode to the file.
    fn release_manual_hold(&mut self, command: &OperatorCommand) {
        let (from, percent) = (self.state.weight, self.allowed_percent());
        if self.is_manual_mode() {
            self.enter_manual_weight(percent);
        } else if from == Weight::ZERO {
            self.enter_phase(RolloutPhase::Idle);
            self.record_command(command);
            return self.apply_config();
        } else {
            self.change_weight(from.min(percent));
            self.enter_phase(RolloutPhase::Shifting);
        }
        self.record_command_from(from, command);
    }

    /// Begins again, with fresh counters and the same clients in each bucket. Late outcomes of
    /// earlier epochs do not count.
    fn retry(&mut self, command: &OperatorCommand) -> Result<(), CommandRefusal> {
        if !self.state.phase.is_rolled_back() {
            return Err(self.build_refusal("it was not rolled back: there is nothing to try again"));
        }
        let epoch = self.state.epoch + 1;
        self.state = RolloutState {
            epoch,
            first_epoch: epoch,
            previous_step_epoch: epoch,
            gates_digest: self.state.gates_digest,
            legacy_gates_digest: self.state.legacy_gates_digest,
            ..RolloutState::new(self.now)
        };
        self.record_command(command);
        self.apply_config();
        Ok(())
    }

    fn shift_by_command(&mut self, weight: Weight, command: &OperatorCommand) {
        let actor = Actor::Operator(command.actor.clone());
        self.begin_shift(weight, command.action.event_kind(), &actor, &command.reason);
    }

    fn record_command(&mut self, command: &OperatorCommand) {
        self.record_command_from(self.state.weight, command);
    }

    fn record_command_from(&mut self, from: Weight, command: &OperatorCommand) {
        let actor = Actor::Operator(command.actor.clone());
        self.record_event_from(from, command.action.event_kind(), &actor, &command.reason);
    }

    fn refuse_if_rolled_back(&self) -> Result<(), CommandRefusal> {
        if self.state.phase.is_rolled_back() {
            return Err(self.build_refusal(&format!(
                "it was rolled back ({}): `omnidaemon rollout retry` first",
                self.state.reason
            )));
        }
        Ok(())
    }

    fn refuse_if_paused(&self) -> Result<(), CommandRefusal> {
        if self.state.phase.is_paused_for(PauseReason::Operator) {
            let actor = &self.state.actor;
            return Err(self.build_refusal(&format!(
                "{actor} has paused it: `omnidaemon rollout resume` first"
            )));
        }
        Ok(())
    }

    fn percent_config_key(&self) -> String {
        format!("routes.{}.rollout.percent", self.plan.route)
    }

    fn build_refusal(&self, why: &str) -> CommandRefusal {
        CommandRefusal(format!("{}: {why}", self.plan.route))
    }
}
