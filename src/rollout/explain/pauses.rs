//! Why a paused rollout is paused, and what ends the pause.

use super::format::{format_names, format_reason_clause};
use super::input::ExplanationInput;
use super::wait_reason::{NextAction, WaitReason, WaitingFor};
use crate::config::GateFailureAction;
use crate::rollout::format::format_span;
use crate::rollout::gate::Verdict;
use crate::rollout::limits::{MAX_LATENCY_BASELINE_AGE, UP_STREAK_TO_RESUME};
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
                let why = if self.was_paused_for_old_baseline() {
                    let age = format_span(MAX_LATENCY_BASELINE_AGE);
                    format!("the latency that they are compared with is more than {age} old")
                } else {
                    "on_fail is pause".to_owned()
                };
                let text =
                    format!("its gates fail{gates}, and {why}: abort rolls back, resume continues");
                WaitReason::new(WaitingFor::Operator, NextAction::RunCommand("abort"), text)
            }
        }
    }

    /// Whether a failed gate paused the rollout although `on_fail` is `rollback`.
    fn was_paused_for_old_baseline(&self) -> bool {
        let age = self.state.sync_baseline_at.map(|taken| self.state.phase_since.since(taken));
        self.config.on_fail == GateFailureAction::Rollback
            && age.is_some_and(|age| age > MAX_LATENCY_BASELINE_AGE)
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
