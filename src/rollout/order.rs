//! What an operator's order does. Abort > pause > set-weight > promote > automation, all under the
//! file's `percent`.

use super::machine::RolloutTransition;
use super::state::{PauseReason, RolloutPhase, RolloutState};
use super::verb::{CommandRefusal, OperatorAction, OperatorCommand};
use crate::cohort::Weight;

// === impl Turn ===

impl RolloutTransition<'_> {
    pub(super) fn apply_command(&mut self, verb: &OperatorCommand) -> Result<(), CommandRefusal> {
        match verb.action {
            OperatorAction::Abort => self.abort(verb),
            OperatorAction::Pause => self.pause_by_operator(verb)?,
            OperatorAction::SetWeight(weight) => self.set_weight(weight, verb)?,
            OperatorAction::Promote { full } => self.promote(full, verb)?,
            OperatorAction::Resume => self.resume(verb)?,
            OperatorAction::Retry => self.retry(verb)?,
        }
        Ok(())
    }

    /// Valid in every state; said twice, it is done once.
    fn abort(&mut self, verb: &OperatorCommand) {
        if !matches!(self.state.phase, RolloutPhase::RollingBack | RolloutPhase::Degraded) {
            self.roll_back("abort", &verb.actor, &verb.reason);
        }
    }

    fn pause_by_operator(&mut self, verb: &OperatorCommand) -> Result<(), CommandRefusal> {
        self.refuse_if_rolled_back()?;
        if self.state.manual_hold {
            return Err(self.build_refusal("its weight was set by hand and stays already"));
        }
        if self.is_manual_mode() {
            return Err(
                self.build_refusal("its mode is manual: nothing moves but by an edit of percent")
            );
        }
        let Some(then) = self.state.phase.as_pausable() else {
            return Err(self.build_refusal(&format!(
                "nothing is under way: raise {} first",
                self.percent_config_key()
            )));
        };
        self.enter_phase(RolloutPhase::Paused { reason: PauseReason::Operator, resume_to: then });
        self.record_event("pause", &verb.actor, &verb.reason);
        Ok(())
    }

    fn set_weight(&mut self, weight: Weight, verb: &OperatorCommand) -> Result<(), CommandRefusal> {
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
            self.change_weight(weight);
            self.start_step();
            self.enter_phase(RolloutPhase::Manual);
            self.record_event_from(from, "set-weight", &verb.actor, &verb.reason);
        } else {
            self.begin_shift(weight, "set-weight", &verb.actor, &verb.reason);
        }
        Ok(())
    }

    /// Overrides the gates of this step once.
    fn promote(&mut self, full: bool, verb: &OperatorCommand) -> Result<(), CommandRefusal> {
        self.refuse_if_rolled_back()?;
        if self.is_manual_mode() {
            return Err(self.build_refusal(&format!(
                "its mode is manual: edit {}",
                self.percent_config_key()
            )));
        }
        if self.state.manual_hold {
            return Err(
                self.build_refusal("its weight was set by hand: `omnidaemon rollout resume` first")
            );
        }
        self.refuse_if_paused()?;
        let next = self.plan.config.next_weight_after(self.state.weight);
        if next.is_none()
            && matches!(
                self.state.phase,
                RolloutPhase::Paused { reason: PauseReason::Inconclusive, .. }
            )
        {
            let reports = self.state.gate_reports.clone();
            self.enter_healthy("promote", &verb.actor, &verb.reason);
            if let Some(happened) = self.events.last_mut() {
                happened.gate_reports = reports; // what was overridden
            }
            return Ok(());
        }
        let Some(next) = next.map(|next| if full { self.allowed_percent() } else { next }) else {
            return Err(self.build_refusal(&format!(
                "it is at {}, {}: raise that in the file first",
                self.percent_config_key(),
                self.allowed_percent()
            )));
        };
        let reports = self.state.gate_reports.clone();
        self.begin_shift(next, "promote", &verb.actor, &verb.reason);
        if let Some(happened) = self.events.last_mut() {
            happened.gate_reports = reports; // what was overridden
        }
        Ok(())
    }

    fn resume(&mut self, verb: &OperatorCommand) -> Result<(), CommandRefusal> {
        self.refuse_if_rolled_back()?;
        if std::mem::take(&mut self.state.manual_hold) {
            let (from, percent) = (self.state.weight, self.allowed_percent());
            if self.is_manual_mode() {
                self.change_weight(percent);
                self.start_step();
                self.enter_phase(RolloutPhase::Manual);
            } else if from == Weight::ZERO {
                self.enter_phase(RolloutPhase::Idle);
                self.record_event("resume", &verb.actor, &verb.reason);
                self.apply_config();
                return Ok(());
            } else {
                self.change_weight(from.min(percent));
                self.enter_phase(RolloutPhase::Shifting);
            }
            self.record_event_from(from, "resume", &verb.actor, &verb.reason);
            return Ok(());
        }
        let RolloutPhase::Paused { resume_to: then, .. } = self.state.phase else {
            return Err(self.build_refusal("it is not paused"));
        };
        self.enter_phase(then.into());
        self.state.fail_streak = 0;
        self.state.sources_down_for = std::time::Duration::ZERO;
        self.record_event("resume", &verb.actor, &verb.reason);
        Ok(())
    }

    /// Begins again, with fresh counters and the same cohorts of clients.
    fn retry(&mut self, verb: &OperatorCommand) -> Result<(), CommandRefusal> {
        if !matches!(self.state.phase, RolloutPhase::RollingBack | RolloutPhase::Degraded) {
            return Err(self.build_refusal("it was not turned back: there is nothing to try again"));
        }
        // what is still to come of the epochs before says nothing of what is tried now
        let (epoch, gates) = (self.state.epoch + 1, self.state.gates_digest);
        self.state = RolloutState {
            epoch,
            first_epoch: epoch,
            previous_step_epoch: epoch,
            gates_digest: gates,
            ..RolloutState::new(self.now)
        };
        self.record_event("retry", &verb.actor, &verb.reason);
        self.apply_config();
        Ok(())
    }

    fn refuse_if_rolled_back(&self) -> Result<(), CommandRefusal> {
        match self.state.phase {
            RolloutPhase::RollingBack | RolloutPhase::Degraded => {
                Err(self.build_refusal(&format!(
                    "it was turned back ({}): `omnidaemon rollout retry` first",
                    self.state.reason
                )))
            }
            _ => Ok(()),
        }
    }

    fn refuse_if_paused(&self) -> Result<(), CommandRefusal> {
        match self.state.phase {
            RolloutPhase::Paused { reason: PauseReason::Operator, .. } => {
                let by = &self.state.actor;
                Err(self.build_refusal(&format!(
                    "{by} has paused it: `omnidaemon rollout resume` first"
                )))
            }
            _ => Ok(()),
        }
    }

    fn percent_config_key(&self) -> String {
        format!("routes.{}.rollout.percent", self.plan.route)
    }

    fn build_refusal(&self, why: &str) -> CommandRefusal {
        CommandRefusal(format!("{}: {why}", self.plan.route))
    }
}
