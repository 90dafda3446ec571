//! What a step that is going on waits for: its soak, its requests, its tasks' ends, its gates; in
//! that order.

use std::time::Duration;

use super::{ExplanationInput, NextAction, WaitReason, WaitingFor};
use crate::cohort::Weight;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::{GateReport, Verdict};
use crate::rollout::look::COHORT_GROWTH_DIVISOR;
use crate::rollout::words::{format_share, format_span};

// === impl Standing ===

impl ExplanationInput<'_> {
    pub(super) fn explain_soaking(&self) -> WaitReason {
        let soak = self.config.soak_at(self.state.weight);
        let left = soak.saturating_sub(self.state.soak_elapsed);
        if left > Duration::ZERO {
            let why = format!(
                "watched for {} of {}, {} to go",
                format_span(self.state.soak_elapsed),
                format_span(soak),
                format_span(left)
            );
            return WaitReason::new(WaitingFor::Soak, NextAction::NoAction, why)
                .with_countdown(Some(left));
        }
        let missing = match self.cohort_evidence {
            Some(evidence) => self.explain_missing_samples(evidence),
            None => Some(WaitReason::new(
                WaitingFor::Samples,
                NextAction::Promote,
                "watched long enough, and short of min_samples",
            )),
        };
        match missing {
            Some(because) => {
                because.with_pause_limit(self.config.max_step_wait, self.state.phase_waited)
            }
            None => WaitReason::new(
                WaitingFor::Soak,
                NextAction::NoAction,
                "watched long enough, its requests are about to be judged",
            ),
        }
    }

    /// The requests that a cohort needs before it can be judged.
    fn explain_missing_samples(&self, evidence: &RolloutEvidence) -> Option<WaitReason> {
        let least = self.config.min_samples;
        let (has, needs) = (evidence.canaried_requests(), least.async_requests);
        if has < needs {
            let why = format!(
                "{has} of {needs} canaried requests are in, {}",
                self.format_needed_requests(needs - has)
            );
            let because = WaitReason::new(WaitingFor::Samples, NextAction::Promote, why);
            return Some(because.with_countdown(self.estimate_arrival_time(needs - has)));
        }
        let (has, needs) = (evidence.sync_counts.total, least.sync_requests);
        // At 100 % nobody is sync.
        (has < needs && self.state.weight < Weight::FULL).then(|| {
            let why = format!(
                "{has} of {needs} sync requests to compare with are in, {} more needed",
                needs - has
            );
            WaitReason::new(WaitingFor::Samples, NextAction::Promote, why)
        })
    }

    /// What is missing, in the order in which it is asked for.
    pub(super) fn explain_gating(&self) -> WaitReason {
        let missing = self.explain_open_tasks().or_else(|| self.explain_undecided_gates());
        match missing {
            Some(because) => {
                because.with_pause_limit(self.config.max_step_wait, self.state.phase_waited)
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
        let why = format!("all gates pass, {passes} of {streak} times in a row");
        WaitReason::new(WaitingFor::Gates, NextAction::NoAction, why)
            .with_countdown(Some(self.config.evaluation_interval))
    }

    fn explain_open_tasks(&self) -> Option<WaitReason> {
        let (accepted, open) =
            (self.cohort_evidence?.accepted_tasks, self.cohort_evidence?.open_tasks());
        let ended = divide_counts(accepted.saturating_sub(open), accepted);
        (accepted > 0 && ended < self.config.min_ended_ratio).then(|| {
            let (ended, needed) = (format_share(ended), format_share(self.config.min_ended_ratio));
            let why = format!("{ended} of {accepted} tasks have ended, {needed} needed");
            WaitReason::new(WaitingFor::Maturity, NextAction::Promote, why)
        })
    }

    fn explain_undecided_gates(&self) -> Option<WaitReason> {
        let open: Vec<&GateReport> =
            self.configured_reports().filter(|report| report.verdict != Verdict::Pass).collect();
        let text = self.format_reports(|report| report.verdict != Verdict::Pass);
        if open.is_empty() {
            return self.configured_reports().next().is_none().then(|| {
                WaitReason::new(
                    WaitingFor::Gates,
                    NextAction::NoAction,
                    "the gates are about to be looked at for the first time",
                )
            });
        }
        if open.iter().any(|report| report.verdict == Verdict::Error) {
            return Some(WaitReason::new(WaitingFor::Metrics, NextAction::Promote, text));
        }
        let needs = open.iter().map(|report| report.needed_outcomes).collect::<Option<Vec<u64>>>();
        let most = needs.and_then(|needs| needs.into_iter().max());
        let waiting_for = if most.is_some() { WaitingFor::Samples } else { WaitingFor::Gates };
        // its cohort grows by no less
        let growth = self
            .cohort_evidence
            .map_or(0, |evidence| evidence.canaried_requests() / COHORT_GROWTH_DIVISOR);
        let countdown = most.and_then(|most| self.estimate_arrival_time(most.max(growth)));
        Some(WaitReason::new(waiting_for, NextAction::Promote, text).with_countdown(countdown))
    }

    /// `needs 125 more, about 6 min at this rate`
    fn format_needed_requests(&self, needs: u64) -> String {
        match (self.estimate_arrival_time(needs), self.requests_per_minute) {
            (Some(time), _) => {
                format!("needs {needs} more, about {} at this rate", format_span(time))
            }
            (None, Some(_)) => format!("needs {needs} more, and no canaried request came lately"),
            (None, None) => format!("needs {needs} more"),
        }
    }

    /// How long so many canaried requests take to come at this rate.
    pub(super) fn estimate_arrival_time(&self, requests: u64) -> Option<Duration> {
        let rate = self.requests_per_minute.filter(|rate| *rate > 0.0)?;
        #[allow(clippy::cast_precision_loss)] // an estimate
        let minutes = requests as f64 / rate;
        Duration::try_from_secs_f64(minutes * 60.0).ok()
    }
}

fn divide_counts(part: u64, whole: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
    let ratio = part as f64 / whole as f64;
    ratio
}
