//! What a step whose cohort is closed waits for: the ends of its tasks, then its gates.

use super::input::ExplanationInput;
use super::wait_reason::{NextAction, WaitReason, WaitingFor};
use crate::rollout::format::format_share;
use crate::rollout::gate::{GateReport, Verdict};
use crate::rollout::limits::COHORT_GROWTH_DIVISOR;
use crate::rollout::statistics::share_of;

// === impl ExplanationInput ===

impl ExplanationInput<'_> {
    pub(super) fn explain_gating(&self) -> WaitReason {
        let missing = self.explain_open_tasks().or_else(|| self.explain_undecided_gates());
        match missing {
            Some(reason) => {
                reason.with_pause_limit(self.config.max_step_wait, self.state.phase_waited)
            }
            None => self.explain_passing(),
        }
    }

    fn explain_passing(&self) -> WaitReason {
        let (passes, streak) = (self.state.pass_streak, self.config.success_streak);
        if passes >= streak
            && self.next_weight.is_some()
            && let Some(closed) = self.explain_closed_window()
        {
            return closed;
        }
        let text = format!("all gates pass, {passes} of {streak} times in a row");
        WaitReason::new(WaitingFor::Gates, NextAction::NoAction, text)
            .with_countdown(Some(self.config.evaluation_interval))
    }

    fn explain_open_tasks(&self) -> Option<WaitReason> {
        let (evidence, min_ended) = (self.cohort_evidence?, self.config.min_ended_ratio);
        let (accepted, open) = (evidence.accepted_tasks, evidence.open_tasks());
        (accepted > 0 && !evidence.is_mature(min_ended)).then(|| {
            let ended = format_share(share_of(accepted.saturating_sub(open), accepted));
            let needed = format_share(min_ended);
            let text = format!("{ended} of {accepted} tasks have ended, {needed} needed");
            WaitReason::new(WaitingFor::Maturity, NextAction::Promote, text)
        })
    }

    fn explain_undecided_gates(&self) -> Option<WaitReason> {
        let undecided: Vec<&GateReport> =
            self.configured_reports().filter(|report| report.verdict != Verdict::Pass).collect();
        if undecided.is_empty() {
            return self.configured_reports().next().is_none().then(|| {
                let text = "the gates are about to be evaluated for the first time";
                WaitReason::new(WaitingFor::Gates, NextAction::NoAction, text)
            });
        }
        let text = self.format_reports(|report| report.verdict != Verdict::Pass);
        if undecided.iter().any(|report| report.verdict == Verdict::Error) {
            return Some(WaitReason::new(WaitingFor::Metrics, NextAction::Promote, text));
        }
        let needed: Option<Vec<u64>> =
            undecided.iter().map(|report| report.needed_outcomes).collect();
        let most = needed.and_then(|needed| needed.into_iter().max());
        let waiting_for = if most.is_some() { WaitingFor::Samples } else { WaitingFor::Gates };
        // the closed cohort is extended by no less than this
        let growth = self
            .cohort_evidence
            .map_or(0, |evidence| evidence.canaried_requests() / COHORT_GROWTH_DIVISOR);
        let countdown = most.and_then(|most| self.estimate_arrival_time(most.max(growth)));
        Some(WaitReason::new(waiting_for, NextAction::Promote, text).with_countdown(countdown))
    }
}
