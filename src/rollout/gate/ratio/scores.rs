//! The sequential scores of a ratio gate: what new evidence adds to its memory.

use super::counts::{
    CountedClients, RatioCounts, bad_by_client_group, count_new_bad, count_once_per_client,
};
use super::evaluation::{RatioBaseline, RatioEvaluation};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::input::{Evaluation, GateMemory, LateEvidence};
use crate::rollout::statistics::{self, SequentialScores, count_as_float, share_of};

/// The weight of the cohort's async share in the async share of new evidence, as a number of
/// requests. A task's failure ends in a later evaluation than its request came in, so that with
/// little traffic the new evidence alone gives no usable share.
const EVIDENCE_PRIOR_REQUESTS: f64 = 1_000.0;

// === impl RatioEvaluation ===

impl RatioEvaluation<'_> {
    /// Adds the new evidence to the gate's memory.
    pub(super) fn update_memory(&self, memory: &mut GateMemory) {
        if self.fails_by_comparison() && matches!(self.baseline, RatioBaseline::LiveSync(..)) {
            let more = self.score_against_sync();
            statistics::add_scores(&mut memory.scores_from_start, &more);
            statistics::add_restarted_scores(&mut memory.restarting_scores, &more);
        }
        if let Some(ceiling) = self.fail_ceiling {
            let Evaluation { new_evidence, late_evidence, step_evidence, .. } = *self.evaluation;
            let kind = &self.gate.kind;
            let late = late_evidence.iter().map(|late| (&late.new_evidence, &late.total_evidence));
            let bad: f64 = late
                .chain([(new_evidence, step_evidence)])
                .map(|(new, total)| count_new_bad(kind, new, total))
                .sum();
            let late = late_evidence.iter().map(|late| &late.new_evidence);
            let new: RolloutEvidence = late.chain([new_evidence]).sum();
            let RatioCounts { async_bad, async_expected, .. } =
                RatioCounts::from_evidence(kind, &new);
            let expected = count_as_float(async_expected) - (count_as_float(async_bad) - bad);
            let more = statistics::score_weighted_events(bad, expected, ceiling, 1.0);
            statistics::add_restarted_scores(&mut memory.ceiling_scores, &more);
        }
    }

    /// The scores of all new failures against those of the sync path, late ones included.
    fn score_against_sync(&self) -> SequentialScores {
        let Evaluation { new_evidence, late_evidence, step_evidence, .. } = *self.evaluation;
        let share_now =
            self.estimate_async_share(&RatioCounts::from_evidence(&self.gate.kind, new_evidence));
        let mut counted = CountedClients::default();
        let mut scores = self.score_failures(new_evidence, step_evidence, share_now, &mut counted);
        for LateEvidence { new_evidence, total_evidence } in late_evidence.iter().rev() {
            // The async share of that epoch is known. Where it is higher now, late async failures
            // meet fewer sync failures, so the higher share counts.
            let total = RatioCounts::from_evidence(&self.gate.kind, total_evidence);
            let share =
                share_of(total.async_expected, total.async_expected + total.sync_bad_of_total.1)
                    .max(share_now);
            let more = self.score_failures(new_evidence, total_evidence, share, &mut counted);
            statistics::add_scores(&mut scores, &more);
        }
        scores
    }

    /// The scores of the new failures of both paths, where `share` of the requests was async: of
    /// those that count, or of one per client, whichever is lower. So a client that retries again
    /// and again rolls nothing back, and neither does a client that makes most of the sync path's
    /// requests, which the share is of.
    fn score_failures(
        &self,
        new_evidence: &RolloutEvidence,
        total_evidence: &RolloutEvidence,
        share: f64,
        counted: &mut CountedClients,
    ) -> SequentialScores {
        let RatioCounts { async_bad, sync_bad_of_total: (sync_bad, _), .. } =
            RatioCounts::from_evidence(&self.gate.kind, new_evidence);
        let score = |async_bad: f64, sync_bad: u64| {
            let (of, tolerated) =
                (async_bad + count_as_float(sync_bad), self.limits.tolerated_ratio);
            statistics::score_weighted_events(async_bad, of, share, tolerated)
        };
        let counted_bad = count_new_bad(&self.gate.kind, new_evidence, total_evidence);
        let scores_of_all = score(counted_bad, sync_bad);
        let by_group = bad_by_client_group(&self.gate.kind, &new_evidence.async_counts)
            .zip(bad_by_client_group(&self.gate.kind, &new_evidence.sync_counts));
        let once_per_client = by_group.and_then(|(async_by_group, sync_by_group)| {
            Some((
                count_once_per_client(&mut counted.async_clients, async_bad, async_by_group)?,
                count_once_per_client(&mut counted.sync_clients, sync_bad, sync_by_group)?,
            ))
        });
        let Some((async_bad, sync_bad)) = once_per_client else { return scores_of_all };
        let scores_of_clients = score(count_as_float(async_bad), sync_bad);
        std::array::from_fn(|at| scores_of_all[at].min(scores_of_clients[at]))
    }

    /// The async share of the requests of new evidence, drawn towards the share of the cohort.
    fn estimate_async_share(&self, new: &RatioCounts) -> f64 {
        let (async_requests, sync_requests) = (new.async_expected, new.sync_bad_of_total.1);
        match self.counts.async_expected + self.counts.sync_bad_of_total.1 {
            0 => share_of(async_requests, async_requests + sync_requests),
            cohort => {
                let prior = share_of(self.counts.async_expected, cohort);
                (count_as_float(async_requests) + EVIDENCE_PRIOR_REQUESTS * prior)
                    / (count_as_float(async_requests)
                        + count_as_float(sync_requests)
                        + EVIDENCE_PRIOR_REQUESTS)
            }
        }
    }
}
