//! The entry of the explanations: headline, wait reason and next action as one paragraph.

use std::time::Duration;

use super::input::ExplanationInput;
use super::wait_reason::{WaitReason, WaitingFor};

/// Why a rollout is in its phase and at its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutExplanation {
    /// What it waits for.
    pub waiting_for: WaitingFor,
    /// The paragraph, ending with `Next: ` and `next_action`.
    pub text: String,
    /// A command, an edit, or `nothing to do`.
    pub next_action: String,
    /// In how much time it moves on by itself, where that can be estimated.
    pub continues_in: Option<Duration>,
    /// In how much time it pauses if nothing changes.
    pub pauses_in: Option<Duration>,
}

/// Explains a rollout.
#[must_use]
pub fn explain_rollout(input: &ExplanationInput<'_>) -> RolloutExplanation {
    let reason = input.find_wait_reason();
    let next_action = input.format_next_action(reason.next_action);
    let text = format!(
        "{}: {}{}. Next: {next_action}",
        input.format_headline(),
        reason.text,
        input.format_evidence_notes(&reason.text)
    );
    let WaitReason { waiting_for, continues_in, pauses_in, .. } = reason;
    RolloutExplanation { waiting_for, text, next_action, continues_in, pauses_in }
}
