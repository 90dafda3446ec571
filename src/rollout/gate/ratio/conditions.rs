//! What makes a ratio gate fail, and what it needs to pass.

use super::counts::{RatioCounts, bad_by_client_group};
use super::evaluation::{RatioBaseline, RatioEvaluation};
use crate::rollout::gate::client_basis::{ClientBasis, NoisyGroup};
use crate::rollout::gate::format;
use crate::rollout::gate::input::GateMemory;
use crate::rollout::statistics::{
    self, BoundedShare, FALSE_PASS_CHANCE, SequentialScores, find_least, share_of,
};

/// A condition of PASS.
pub(super) struct PassCondition {
    pub(super) is_met: bool,
    /// The condition with its numbers, for people.
    pub(super) text: String,
    /// Further outcomes without a bad one until it is met; none where no number can be given.
    pub(super) needed_outcomes: Option<u64>,
}

// === impl RatioEvaluation ===

impl RatioEvaluation<'_> {
    /// What the gate fails by, for people; empty where it does not fail.
    pub(super) fn find_violations(&self, memory: &GateMemory) -> Vec<String> {
        let alpha = self.limits.alpha;
        let RatioCounts { async_bad, async_expected, async_uncounted, .. } = self.counts;
        let (async_bad, async_expected) =
            (async_bad - async_uncounted, async_expected - async_uncounted);
        let mut violations = Vec::new();
        if let Some(ceiling) = self.fail_ceiling {
            let log_e = statistics::log_e_against_at_most(ceiling, async_bad, async_expected);
            if self.rejects_from_start(log_e) {
                let lower = statistics::lower_bound(async_bad, async_expected, alpha);
                violations
                    .push(format!("lower bound {}", format::format_comparison(lower, ceiling)));
            } else if self.rejects_recently(&memory.ceiling_scores) {
                violations.push(format!("recently more than {}", format::format_percent(ceiling)));
            }
        }
        if self.fails_by_comparison() && matches!(self.baseline, RatioBaseline::LiveSync(..)) {
            let ratio = self.limits.tolerated_ratio;
            if self.rejects_from_start(statistics::log_e_value(&memory.scores_from_start)) {
                violations.push(format!("more than {ratio} times the sync path's share"));
            } else if self.rejects_recently(&memory.restarting_scores) {
                violations.push(format!("recently more than {ratio} times the sync path's share"));
            }
        }
        violations
    }

    /// Which client has most of the bad requests, where these do not count.
    pub(super) fn find_noisy_group(&self) -> Option<NoisyGroup> {
        let cohort = self.evaluation.cohort_evidence;
        let by_group = bad_by_client_group(&self.gate.kind, &cohort.async_counts)?;
        NoisyGroup::find(ClientBasis::from_evidence(cohort), self.counts.async_bad, by_group)
    }

    /// Whether evidence from the start of the step fails the gate; a healthy rollout has no start.
    fn rejects_from_start(&self, log_e: f64) -> bool {
        !self.evaluation.is_healthy && log_e >= statistics::rejection_threshold(self.limits.alpha)
    }

    fn rejects_recently(&self, scores: &SequentialScores) -> bool {
        statistics::log_e_value(scores) >= statistics::restarted_threshold(self.limits.alpha)
    }

    /// The conditions of PASS, met or not.
    pub(super) fn check_pass_conditions(&self) -> Vec<PassCondition> {
        if self.is_shadow_gate() && self.evaluation.is_full_weight {
            return vec![PassCondition::met("nothing to shadow at 100 %")];
        }
        let limit = self.effective_max().map(|max| self.check_max(max));
        let margin = match (self.baseline, self.limits.margin) {
            (
                RatioBaseline::LiveSync(bad, total) | RatioBaseline::FrozenSync(bad, total),
                Some(margin),
            ) => Some(self.check_margin(bad, total, margin)),
            (RatioBaseline::NoBaseline, _) => {
                Some(PassCondition::met("no baseline to compare with"))
            }
            _ => None,
        };
        let (samples, sync) = (self.check_async_samples(), self.check_sync_samples());
        limit.into_iter().chain(margin).chain(samples).chain(sync).collect()
    }

    fn check_max(&self, max: f64) -> PassCondition {
        let RatioCounts { async_bad, async_ended, .. } = self.counts;
        let needed =
            statistics::clean_events_needed(max, async_bad, async_ended, FALSE_PASS_CHANCE);
        let bound = statistics::upper_bound(async_bad, async_ended, FALSE_PASS_CHANCE);
        PassCondition {
            is_met: needed == Some(0),
            text: format!("upper bound {}", format::format_comparison(bound, max)),
            needed_outcomes: needed,
        }
    }

    fn check_margin(&self, sync_bad: u64, sync_total: u64, margin: f64) -> PassCondition {
        let sync = BoundedShare {
            observed: share_of(sync_bad, sync_total),
            lower: statistics::lower_bound(sync_bad, sync_total, FALSE_PASS_CHANCE),
            upper: 1.0,
        };
        let bound_after = |more: u64| {
            let (bad, ended) = (self.counts.async_bad, self.counts.async_ended + more);
            let asynchronous = BoundedShare {
                observed: share_of(bad, ended),
                lower: 0.0,
                upper: statistics::upper_bound(bad, ended, FALSE_PASS_CHANCE),
            };
            statistics::newcombe_upper_bound(asynchronous, sync)
        };
        let needed = find_least(0, |more| bound_after(more) <= margin);
        let comparison = format::format_comparison(bound_after(0), margin);
        PassCondition {
            is_met: needed == Some(0),
            text: format!("upper bound of the difference {comparison}"),
            needed_outcomes: needed,
        }
    }

    /// That there are `min_samples` outcomes and the cohort is mature; none where both hold. The
    /// gate of shadow traffic counts copies of sync requests: its bound alone asks for enough.
    fn check_async_samples(&self) -> Option<PassCondition> {
        if self.is_shadow_gate() {
            return None;
        }
        let (ended, min) = (self.counts.async_ended, self.min_samples.async_requests);
        let missing = min.saturating_sub(ended);
        let text = format::explain_too_early(ended, self.min_samples, self.evaluation)?;
        // the missing number itself is given once, at the end of the report
        let text =
            if missing > 0 { format!("min_samples {}", format::format_count(min)) } else { text };
        let needed_outcomes = Some(missing).filter(|missing| *missing > 0);
        Some(PassCondition { is_met: false, text, needed_outcomes })
    }

    fn check_sync_samples(&self) -> Option<PassCondition> {
        let RatioBaseline::LiveSync(_, total) = self.baseline else { return None };
        let min = self.min_samples.sync_requests;
        (total < min).then(|| PassCondition {
            is_met: false,
            text: format!(
                "{} of {} sync requests",
                format::format_count(total),
                format::format_count(min)
            ),
            needed_outcomes: None,
        })
    }
}

// === impl PassCondition ===

impl PassCondition {
    fn met(text: &str) -> Self {
        Self { is_met: true, text: text.to_owned(), needed_outcomes: None }
    }
}
