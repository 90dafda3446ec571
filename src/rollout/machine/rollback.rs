//! The reactions to failed gates or a tripped breaker, and the rollback itself.

use super::transition::RolloutTransition;
use crate::cohort_hash::Weight;
use crate::config::GateFailureAction;
use crate::rollout::actor::Actor;
use crate::rollout::event::RolloutEventKind;
use crate::rollout::phase::{PauseReason, RolloutPhase};

// === impl RolloutTransition ===

impl RolloutTransition<'_> {
    /// Does what `on_fail` says after the gates or the breaker have failed. A rollout that is
    /// already paused for failed gates or by an operator is not paused again.
    pub(super) fn apply_on_fail(&mut self, reason: &str) {
        let phase = &self.state.phase;
        match self.plan.config.on_fail {
            GateFailureAction::Rollback => {
                self.roll_back(RolloutEventKind::Rollback, &Actor::Controller, reason);
            }
            GateFailureAction::Pause
                if phase.is_paused_for(PauseReason::GatesFailed)
                    || phase.is_paused_for(PauseReason::Operator) =>
            {
                return;
            }
            GateFailureAction::Pause => self.pause_automatically(PauseReason::GatesFailed, reason),
        }
        let reports = self.state.gate_reports.clone();
        self.attach_reports(reports);
    }

    /// Lowers the weight to 0, where it stays until an operator's `retry`.
    pub(super) fn roll_back(&mut self, kind: RolloutEventKind, actor: &Actor, reason: &str) {
        let from = self.state.weight;
        self.state.manual_hold = false;
        self.change_weight(Weight::ZERO);
        self.enter_phase(RolloutPhase::RollingBack);
        self.record_event_from(from, kind, actor, reason);
    }
}
