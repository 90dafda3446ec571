//! What a soaking step waits for: its soak time, then its requests.

use std::time::Duration;

use super::input::ExplanationInput;
use super::wait_reason::{NextAction, WaitReason, WaitingFor};
use crate::cohort_hash::Weight;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::format::format_span;

// === impl ExplanationInput ===

impl ExplanationInput<'_> {
    pub(super) fn explain_soaking(&self) -> WaitReason {
        let soak = self.config.soak_at(self.state.weight);
        let left = soak.saturating_sub(self.state.soak_elapsed);
        if left > Duration::ZERO {
            let text = format!(
                "soaked for {} of {}, {} to go",
                format_span(self.state.soak_elapsed),
                format_span(soak),
                format_span(left)
            );
            return WaitReason::new(WaitingFor::Soak, NextAction::NoAction, text)
                .with_countdown(Some(left));
        }
        let missing = if let Some(evidence) = self.cohort_evidence {
            self.explain_missing_samples(evidence)
        } else {
            let text = "the soak is over, and the step is short of min_samples";
            Some(WaitReason::new(WaitingFor::Samples, NextAction::Promote, text))
        };
        if let Some(reason) = missing {
            reason.with_pause_limit(self.config.max_step_wait, self.state.phase_waited)
        } else {
            let text = "the soak is over, and its requests are about to be judged";
            WaitReason::new(WaitingFor::Soak, NextAction::NoAction, text)
        }
    }

    /// The requests that a cohort still needs before it is judged.
    fn explain_missing_samples(&self, evidence: &RolloutEvidence) -> Option<WaitReason> {
        let min = self.config.min_samples;
        let (has, needs) = (evidence.canaried_requests(), min.async_requests);
        if has < needs {
            let missing = self.format_needed_requests(needs - has);
            let text = format!("{has} of {needs} canaried requests are in, {missing}");
            let reason = WaitReason::new(WaitingFor::Samples, NextAction::Promote, text);
            return Some(reason.with_countdown(self.estimate_arrival_time(needs - has)));
        }
        let (has, needs) = (evidence.sync_counts.total, min.sync_requests);
        // at 100 % there are no sync requests
        (has < needs && self.state.weight < Weight::FULL).then(|| {
            let text = format!(
                "{has} of {needs} sync requests to compare with are in, {} more needed",
                needs - has
            );
            WaitReason::new(WaitingFor::Samples, NextAction::Promote, text)
        })
    }
}
