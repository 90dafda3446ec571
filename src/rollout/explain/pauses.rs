//! Why a paused rollout is paused, and what ends the pause.

use super::format::{format_names, format_reason_clause};
use super::input::ExplanationInput;
use super::wait_reason::{NextAction, WaitReason, WaitingFor};
use crate::rollout::format::format_span;
use crate::rollout::gate::Verdict;
use crate::rollout::limits::UP_STREAK_TO_RESUME;
use crate::rollout::phase::PauseReason;

// === impl ExplanationInput ===

impl ExplanationInput<'_> {
    pub(super) fn explain_paused(&self, pause_reason: PauseReason) -> WaitReason {
        let gates = self.format_reports(|report| report.verdict != Verdict::Pass);
        let gates = if gates.is_empty() { String::new() } else { format!(" ({gates})") };
        match pause_reason {
            PauseReason::Operator => {
                let reason = format_reason_clause(&self.state.reason);
                let text = format!("{} paused it{reason}", self.state.actor);
                WaitReason::new(WaitingFor::Operator, NextAction::RunCommand("resume"), text)
            }
            PauseReason::AwaitingApproval => {
                let text = "its gates have passed, and the step needs approval (approval: manual)";
                WaitReason::new(WaitingFor::Approval, NextAction::Promote, text)
            }
            PauseReason::NotConverged => self.explain_not_converged(),
            PauseReason::Inconclusive => {
                let waited = format_span(self.config.max_step_wait);
                let text = format!(
                    "its gates were undecided for {waited}{gates}: resume waits again, promote \
                     goes on without them once"
                );
                WaitReason::new(WaitingFor::Gates, NextAction::Promote, text)
            }
            PauseReason::MetricsUnavailable => {
                let (streak, reason) = (self.state.sources_up_streak, &self.state.reason);
                let text = format!(
                    "{reason}{gates}; it resumes by itself after {UP_STREAK_TO_RESUME} \
                     evaluations in a row with all sources up ({streak} so far)"
                );
                WaitReason::new(WaitingFor::Metrics, NextAction::NoAction, text)
            }
            PauseReason::GatesFailed => {
                let text = format!(
                    "its gates fail{gates}, and on_fail is pause: abort rolls back, resume \
                     continues"
                );
                WaitReason::new(WaitingFor::Operator, NextAction::RunCommand("abort"), text)
            }
        }
    }

    fn explain_not_converged(&self) -> WaitReason {
        let names = if self.lagging_replicas.is_empty() {
            "a replica".to_owned()
        } else {
            format_names(self.lagging_replicas)
        };
        let timeout = format_span(self.config.converge_timeout);
        let text = format!(
            "{names} did not take up the weight within {timeout}: correct that, then resume"
        );
        WaitReason::new(WaitingFor::Convergence, NextAction::RunCommand("resume"), text)
    }
}
