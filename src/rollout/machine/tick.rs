//! Every second: whether all replicas run the weight, and the breaker.

use super::input::Tick;
use super::transition::RolloutTransition;
use crate::cohort_hash::Weight;
use crate::rollout::actor::Actor;
use crate::rollout::event::RolloutEventKind;
use crate::rollout::evidence::EvidenceCounts;
use crate::rollout::format::format_exact_span;
use crate::rollout::gate::trips_breaker;
use crate::rollout::phase::{PauseReason, RolloutPhase};

// === impl RolloutTransition ===

impl RolloutTransition<'_> {
    pub(super) fn handle_tick(&mut self, tick: Tick<'_>) {
        if self.allowed_percent() == Weight::ZERO && self.state.phase != RolloutPhase::RollingBack {
            return;
        }
        let is_converged = tick.lagging_replicas.is_empty();
        match self.state.phase {
            RolloutPhase::RollingBack if is_converged => self.enter_phase(RolloutPhase::Degraded),
            RolloutPhase::Shifting
            | RolloutPhase::Paused { reason: PauseReason::NotConverged, .. }
                if is_converged =>
            {
                self.start_soak();
            }
            RolloutPhase::Shifting => self.await_convergence(&tick),
            RolloutPhase::Healthy if !self.is_automation_off() => self.climb_from_healthy(),
            _ => {}
        }
        self.check_breaker(&tick);
    }

    /// All replicas run the weight.
    fn start_soak(&mut self) {
        if self.state.phase != RolloutPhase::Shifting {
            let why = "all replicas run the weight";
            self.record_event(RolloutEventKind::Resume, &Actor::Controller, why);
        }
        self.enter_phase(RolloutPhase::Soaking);
        self.start_step();
        self.state.blocked_reason = None;
    }

    fn await_convergence(&mut self, tick: &Tick<'_>) {
        self.state.phase_waited += tick.elapsed;
        if self.state.phase_waited > self.plan.config.converge_timeout {
            let replicas = tick.lagging_replicas.join(", ");
            let why = format!("not all replicas run {}: {replicas}", self.state.weight);
            self.pause_automatically(PauseReason::NotConverged, &why);
        }
    }

    fn check_breaker(&mut self, tick: &Tick<'_>) {
        let is_armed = self.state.phase.as_pausable().is_some() && !self.is_automation_off();
        let breaker = &self.plan.config.breaker;
        if is_armed && trips_breaker(breaker, tick.breaker_evidence) {
            let EvidenceCounts { failed, total, .. } = tick.breaker_evidence.async_counts;
            let window = format_exact_span(breaker.window);
            let why = format!("breaker: {failed} of {total} async failed within {window}");
            self.apply_on_fail(&why);
        }
    }
}
