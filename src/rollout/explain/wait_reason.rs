//! What a rollout waits for, and what to do about it.

use std::time::Duration;

use crate::rollout::format::format_span;

/// What a rollout waits for; the words of `waiting_for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    /// Nothing: it is complete, or moves on at once.
    Nothing,
    /// Replicas that do not run the weight yet.
    Convergence,
    /// The soak time.
    Soak,
    /// More requests.
    Samples,
    /// Tasks of the cohort that have not ended.
    Maturity,
    /// Gates that do not pass.
    Gates,
    /// The hours in which a weight may be raised.
    Window,
    /// An operator's approval of the step.
    Approval,
    /// An operator's command: it was paused, its weight was set, or its gates failed.
    Operator,
    /// `retry`.
    Retry,
    /// A higher `percent`.
    Percent,
    /// The store.
    Store,
    /// A source of evidence.
    Metrics,
    /// Workers with free slots.
    Capacity,
    /// A split of the requests as the weight says.
    Split,
}

/// What moves a rollout on.
#[derive(Clone, Copy)]
pub(super) enum NextAction {
    /// Nothing: it moves on by itself, or is complete.
    NoAction,
    /// `promote`, where there is a next step.
    Promote,
    /// The command with that word.
    RunCommand(&'static str),
    /// A higher `percent` in the file.
    EditPercent,
    /// More workers, or more slots for each.
    AddSlots,
    /// A first worker.
    StartWorker,
    /// A look at the weights and files of the replicas.
    CompareReplicas,
}

/// Why a rollout waits: the middle part of an explanation.
pub(super) struct WaitReason {
    pub(super) waiting_for: WaitingFor,
    pub(super) text: String,
    pub(super) next_action: NextAction,
    pub(super) continues_in: Option<Duration>,
    pub(super) pauses_in: Option<Duration>,
}

// === impl WaitingFor ===

impl WaitingFor {
    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Convergence => "convergence",
            Self::Soak => "soak",
            Self::Samples => "samples",
            Self::Maturity => "maturity",
            Self::Gates => "gates",
            Self::Window => "window",
            Self::Approval => "approval",
            Self::Operator => "operator",
            Self::Retry => "retry",
            Self::Percent => "percent",
            Self::Store => "store",
            Self::Metrics => "metrics",
            Self::Capacity => "capacity",
            Self::Split => "split",
        }
    }
}

// === impl WaitReason ===

impl WaitReason {
    pub(super) fn new(
        waiting_for: WaitingFor,
        next_action: NextAction,
        text: impl Into<String>,
    ) -> Self {
        Self { waiting_for, text: text.into(), next_action, continues_in: None, pauses_in: None }
    }

    pub(super) fn with_countdown(self, continues_in: Option<Duration>) -> Self {
        Self { continues_in, ..self }
    }

    /// Adds when it pauses: after `limit`, of which `waited` has passed.
    pub(super) fn with_pause_limit(mut self, limit: Duration, waited: Duration) -> Self {
        let left = limit.saturating_sub(waited);
        self.text =
            format!("{}; it pauses in {} if that does not change", self.text, format_span(left));
        Self { pauses_in: Some(left), ..self }
    }

    /// The store does not answer.
    pub(super) fn store_down() -> Self {
        let text = "the store does not answer: calls are served sync, and the weight applies \
                    again by itself when it is back";
        Self::new(WaitingFor::Store, NextAction::NoAction, text)
    }
}
