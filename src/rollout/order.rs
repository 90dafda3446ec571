//! What an operator's order does. Abort > pause > set-weight > promote > automation, all under the file's `percent`.

use super::machine::Turn;
use super::state::{Pause, Phase, State};
use super::verb::{Action, Refusal, Verb};
use crate::cohort::Weight;

// === impl Turn ===

impl Turn<'_> {
    pub(super) fn ordered(&mut self, verb: &Verb) -> Result<(), Refusal> {
        match verb.action {
            Action::Abort => self.abort(verb),
            Action::Pause => self.pause_for(verb)?,
            Action::SetWeight(weight) => self.set_weight(weight, verb)?,
            Action::Promote { full } => self.promote(full, verb)?,
            Action::Resume => self.resume(verb)?,
            Action::Retry => self.retry(verb)?,
        }
        Ok(())
    }

    /// Valid in every state; said twice, it is done once.
    fn abort(&mut self, verb: &Verb) {
        if !matches!(self.state.phase, Phase::RollingBack | Phase::Degraded) {
            self.turn_back("abort", &verb.actor, &verb.reason);
        }
    }

    fn pause_for(&mut self, verb: &Verb) -> Result<(), Refusal> {
        self.refuse_degraded()?;
        if self.state.held {
            return Err(self.refusal("its weight was set by hand and stays already"));
        }
        if self.is_manual() {
            return Err(self.refusal("its mode is manual: nothing moves but by an edit of percent"));
        }
        let Some(then) = self.state.phase.progress() else {
            return Err(self.refusal(&format!("nothing is under way: raise {} first", self.percent_key())));
        };
        self.enter(Phase::Paused { why: Pause::Operator, then });
        self.tell("pause", &verb.actor, &verb.reason);
        Ok(())
    }

    fn set_weight(&mut self, weight: Weight, verb: &Verb) -> Result<(), Refusal> {
        self.refuse_degraded()?;
        if weight > self.percent() {
            return Err(self.refusal(&format!(
                "{weight} is over {}, {}: raise that in the file first",
                self.percent_key(),
                self.percent()
            )));
        }
        self.refuse_paused()?;
        self.state.held = true;
        if self.is_manual() {
            let from = self.state.weight;
            self.move_to(weight);
            self.begin_step();
            self.enter(Phase::Manual);
            self.tell_from(from, "set-weight", &verb.actor, &verb.reason);
        } else {
            self.shift(weight, "set-weight", &verb.actor, &verb.reason);
        }
        Ok(())
    }

    /// Overrides the gates of this step once.
    fn promote(&mut self, full: bool, verb: &Verb) -> Result<(), Refusal> {
        self.refuse_degraded()?;
        if self.is_manual() {
            return Err(self.refusal(&format!("its mode is manual: edit {}", self.percent_key())));
        }
        if self.state.held {
            return Err(self.refusal("its weight was set by hand: `omnidaemon rollout resume` first"));
        }
        self.refuse_paused()?;
        let next = self.plan.rollout.next_after(self.state.weight);
        if next.is_none() && matches!(self.state.phase, Phase::Paused { why: Pause::Inconclusive, .. }) {
            let reports = self.state.reports.clone();
            self.reach_percent("promote", &verb.actor, &verb.reason);
            if let Some(happened) = self.happened.last_mut() {
                happened.reports = reports; // what was overridden
            }
            return Ok(());
        }
        let Some(next) = next.map(|next| if full { self.percent() } else { next }) else {
            return Err(self.refusal(&format!(
                "it is at {}, {}: raise that in the file first",
                self.percent_key(),
                self.percent()
            )));
        };
        let reports = self.state.reports.clone();
        self.shift(next, "promote", &verb.actor, &verb.reason);
        if let Some(happened) = self.happened.last_mut() {
            happened.reports = reports; // what was overridden
        }
        Ok(())
    }

    fn resume(&mut self, verb: &Verb) -> Result<(), Refusal> {
        self.refuse_degraded()?;
        if std::mem::take(&mut self.state.held) {
            let (from, percent) = (self.state.weight, self.percent());
            if self.is_manual() {
                self.move_to(percent);
                self.begin_step();
                self.enter(Phase::Manual);
            } else if from == Weight::ZERO {
                self.enter(Phase::Idle);
                self.tell("resume", &verb.actor, &verb.reason);
                self.planned();
                return Ok(());
            } else {
                self.move_to(from.min(percent));
                self.enter(Phase::Shifting);
            }
            self.tell_from(from, "resume", &verb.actor, &verb.reason);
            return Ok(());
        }
        let Phase::Paused { then, .. } = self.state.phase else {
            return Err(self.refusal("it is not paused"));
        };
        self.enter(then.into());
        self.state.fails = 0;
        self.state.blind = std::time::Duration::ZERO;
        self.tell("resume", &verb.actor, &verb.reason);
        Ok(())
    }

    /// Begins again, with fresh counters and the same cohorts of clients.
    fn retry(&mut self, verb: &Verb) -> Result<(), Refusal> {
        if !matches!(self.state.phase, Phase::RollingBack | Phase::Degraded) {
            return Err(self.refusal("it was not turned back: there is nothing to try again"));
        }
        // what is still to come of the epochs before says nothing of what is tried now
        let (epoch, gates) = (self.state.epoch + 1, self.state.gates);
        self.state = State { epoch, first: epoch, prior: epoch, gates, ..State::fresh(self.now) };
        self.tell("retry", &verb.actor, &verb.reason);
        self.planned();
        Ok(())
    }

    fn refuse_degraded(&self) -> Result<(), Refusal> {
        match self.state.phase {
            Phase::RollingBack | Phase::Degraded => {
                Err(self
                    .refusal(&format!("it was turned back ({}): `omnidaemon rollout retry` first", self.state.reason)))
            }
            _ => Ok(()),
        }
    }

    fn refuse_paused(&self) -> Result<(), Refusal> {
        match self.state.phase {
            Phase::Paused { why: Pause::Operator, .. } => {
                let by = &self.state.by;
                Err(self.refusal(&format!("{by} has paused it: `omnidaemon rollout resume` first")))
            }
            _ => Ok(()),
        }
    }

    fn percent_key(&self) -> String {
        format!("routes.{}.rollout.percent", self.plan.route)
    }

    fn refusal(&self, why: &str) -> Refusal {
        Refusal(format!("{}: {why}", self.plan.route))
    }
}
