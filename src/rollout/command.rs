//! What an operator can tell a rollout to do.

use super::event::RolloutEventKind;
use crate::cohort_hash::Weight;

/// A command, with the operator who gives it and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorCommand {
    /// What to do.
    pub action: OperatorAction,
    /// The operator's name; never one of [`super::RESERVED_ACTOR_NAMES`].
    pub actor: String,
    /// Why, for the history; may be empty.
    pub reason: String,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorAction {
    /// Go to the next step, whatever the gates of this one say; with `full`, to `percent`.
    Promote {
        /// Whether all steps between are left out.
        full: bool,
    },
    /// Stay at the current weight.
    Pause,
    /// Continue; a weight that was set by hand is given back to the gates.
    Resume,
    /// Go to weight 0, until `retry`.
    Abort,
    /// Begin again after a rollback or an abort.
    Retry,
    /// Go to this weight, until `resume`.
    SetWeight(Weight),
}

/// Why a command was refused and what to do instead, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommandRefusal(pub String);

// === impl OperatorAction ===

impl OperatorAction {
    /// The words of all actions, for error messages.
    pub const WORDS: [&str; 6] = [
        RolloutEventKind::Promote.as_str(),
        RolloutEventKind::Pause.as_str(),
        RolloutEventKind::Resume.as_str(),
        RolloutEventKind::Abort.as_str(),
        RolloutEventKind::Retry.as_str(),
        RolloutEventKind::SetWeight.as_str(),
    ];

    /// The kind of the history line that this action writes.
    #[must_use]
    pub const fn event_kind(self) -> RolloutEventKind {
        match self {
            Self::Promote { .. } => RolloutEventKind::Promote,
            Self::Pause => RolloutEventKind::Pause,
            Self::Resume => RolloutEventKind::Resume,
            Self::Abort => RolloutEventKind::Abort,
            Self::Retry => RolloutEventKind::Retry,
            Self::SetWeight(_) => RolloutEventKind::SetWeight,
        }
    }

    /// The word on the command line, in the API and in the history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.event_kind().as_str()
    }
}
