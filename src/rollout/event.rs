//! The history lines of a rollout.
//!
//! [`RolloutEventKind`] is the one place that spells the events; history, notifications, admin API
//! and command line use its words.

use std::fmt;

use super::actor::Actor;
use super::gate::GateReport;
use super::phase::RolloutPhase;
use crate::cohort_hash::Weight;
use crate::config::NotificationTrigger;
use crate::task::UnixMs;

/// A line of the history: one change of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutEvent {
    /// When it was decided, on the store's clock.
    pub at: UnixMs,
    /// What happened.
    pub kind: RolloutEventKind,
    /// Who decided it.
    pub actor: Actor,
    /// Why, for people.
    pub reason: String,
    /// The weight before.
    pub from_weight: Weight,
    /// The weight after.
    pub to_weight: Weight,
    /// The epoch after.
    pub epoch: u64,
    /// The phase after.
    pub phase: RolloutPhase,
    /// The gate reports that the decision rests on, or overrides; empty for all others.
    pub gate_reports: Vec<GateReport>,
}

/// What happened to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutEventKind {
    /// The controller or the file moved it: to another weight, or to healthy.
    Step,
    /// Gates or breaker failed: it went to weight 0.
    Rollback,
    /// An operator sent it to weight 0.
    Abort,
    /// The controller or an operator paused it.
    Pause,
    /// It continued: by an operator, by the file, or because what it waited for is there.
    Resume,
    /// An operator moved it to the next step, or to healthy.
    Promote,
    /// An operator set the weight.
    SetWeight,
    /// An operator started it again after a rollback or an abort.
    Retry,
}

// === impl RolloutEvent ===

impl RolloutEvent {
    /// Which `notify.on` trigger this event fires; none where nobody is notified.
    #[must_use]
    pub fn notification_trigger(&self) -> Option<NotificationTrigger> {
        let is_healthy = self.phase == RolloutPhase::Healthy;
        match self.kind {
            RolloutEventKind::Rollback | RolloutEventKind::Abort => {
                Some(NotificationTrigger::RolledBack)
            }
            RolloutEventKind::Pause => Some(NotificationTrigger::Paused),
            RolloutEventKind::Step | RolloutEventKind::Promote if is_healthy => {
                Some(NotificationTrigger::TargetReached)
            }
            // an edit of the file also lowers a weight: that completes no step
            RolloutEventKind::Step | RolloutEventKind::Promote => {
                (self.to_weight > self.from_weight).then_some(NotificationTrigger::StepCompleted)
            }
            RolloutEventKind::Resume | RolloutEventKind::SetWeight | RolloutEventKind::Retry => {
                None
            }
        }
    }
}

// === impl RolloutEventKind ===

impl RolloutEventKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Step,
        Self::Rollback,
        Self::Abort,
        Self::Pause,
        Self::Resume,
        Self::Promote,
        Self::SetWeight,
        Self::Retry,
    ];

    /// The word in the history, in notifications, in the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Rollback => "rollback",
            Self::Abort => "abort",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::SetWeight => "set-weight",
            Self::Retry => "retry",
        }
    }

    /// The kind of a word; none for a word that is no event.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for RolloutEventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: RolloutEventKind, from: u16, to: u16, phase: RolloutPhase) -> RolloutEvent {
        RolloutEvent {
            at: UnixMs(1),
            kind,
            actor: Actor::Controller,
            reason: String::new(),
            from_weight: Weight::from_basis_points(from),
            to_weight: Weight::from_basis_points(to),
            epoch: 1,
            phase,
            gate_reports: Vec::new(),
        }
    }

    #[test]
    fn a_promote_to_healthy_notifies_healthy_and_a_lowered_percent_completes_no_step() {
        use NotificationTrigger::{Paused, RolledBack, StepCompleted, TargetReached};
        use RolloutEventKind::{Abort, Pause, Promote, Resume, Retry, Rollback, SetWeight, Step};
        let shifting = RolloutPhase::Shifting;
        for (kind, from, to, phase, expected) in [
            (Step, 10, 25, shifting.clone(), Some(StepCompleted)),
            (Step, 25, 10, shifting.clone(), None),
            (Step, 25, 25, RolloutPhase::Healthy, Some(TargetReached)),
            (Promote, 10, 25, shifting.clone(), Some(StepCompleted)),
            (Promote, 25, 25, RolloutPhase::Healthy, Some(TargetReached)),
            (Rollback, 25, 0, RolloutPhase::RollingBack, Some(RolledBack)),
            (Abort, 25, 0, RolloutPhase::RollingBack, Some(RolledBack)),
            (Pause, 25, 25, RolloutPhase::Soaking, Some(Paused)),
            (Resume, 25, 25, shifting.clone(), None),
            (SetWeight, 10, 25, shifting.clone(), None),
            (Retry, 0, 0, RolloutPhase::Idle, None),
        ] {
            let event = event(kind, from, to, phase);
            assert_eq!(event.notification_trigger(), expected, "{event:?}");
        }
    }

    #[test]
    fn every_event_word_is_read_back_and_documented() {
        for kind in RolloutEventKind::ALL {
            assert_eq!(RolloutEventKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(RolloutEventKind::parse("turn"), None);
        let docs = include_str!("../../docs/rollouts.md");
        for kind in RolloutEventKind::ALL {
            assert!(docs.contains(&format!("`{}`", kind.as_str())), "{kind:?} is not in the docs");
        }
    }
}
