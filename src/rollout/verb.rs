//! What an operator can say to a rollout.

use crate::cohort::Weight;

/// An order, with who gives it and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorCommand {
    /// What to do.
    pub action: OperatorAction,
    /// Who says so.
    pub actor: String,
    /// Why; may be empty.
    pub reason: String,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorAction {
    /// To the next step, whatever its gates say; with `full`, to `percent`.
    Promote {
        /// Whether all steps between are left out.
        full: bool,
    },
    /// Stays where it is.
    Pause,
    /// Goes on, and gives a weight that was set back to the gates.
    Resume,
    /// To weight 0, until `retry`.
    Abort,
    /// Begins again after a rollback or an abort.
    Retry,
    /// To this weight, until `resume`.
    SetWeight(Weight),
}

/// Why an order was not followed, with the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommandRefusal(pub String);

// === impl Action ===

impl OperatorAction {
    /// The word on the command line, in the API and in the history.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote { .. } => "promote",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Retry => "retry",
            Self::SetWeight(_) => "set-weight",
        }
    }
}
