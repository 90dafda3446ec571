//! Gates that ask for a share: failed, answered with a 4xx, deferred, slow; of copies, answered
//! otherwise.
//!
//! PASS is held against the requests that have an outcome, FAIL against all that were canaried:
//! tasks that fail at once end before those that succeed slowly, and to take what is out for lost
//! would turn a healthy canary back in its first seconds. 4xx are the clients' fault and are in
//! neither half of the error ratio: requests that were refused for what they are say nothing of the
//! path, and would only thin the failures out.

use std::time::Duration;

use super::{Evaluation, GateMemory, GateReport, LateEvidence, Verdict, words};
use crate::config::{GateConfig, GateKind, LatencyMeasure, MinSamples, RatioLimits};
use crate::rollout::evidence::{
    ClientGroupCounts, EvidenceCounts, RolloutEvidence, count_slower_than, estimate_clients,
};
use crate::rollout::sequential::{self, FALSE_PASS_CHANCE, SequentialScores};
use crate::rollout::stats::{self, BoundedShare};
use crate::rollout::words::format_exact_span;
use crate::task::DurationCounts;

/// How many requests' worth the evidence has in the async share of a look's news. A task's failure
/// ends in another look than its request came in, so that at little traffic a look's own share says
/// nothing of it.
const EVIDENCE_PRIOR_REQUESTS: f64 = 1_000.0;

/// What a gate counts.
#[derive(Clone, Copy, Debug, Default)]
struct RatioCounts {
    /// Async ones that were bad.
    async_bad: u64,
    /// Of those with an outcome.
    async_ended: u64,
    /// Of all that may still have one.
    async_expected: u64,
    /// Bad ones of the sync path, of how many.
    sync_bad_of_total: (u64, u64),
}

/// What the async path is compared with.
#[derive(Clone, Copy, Debug)]
enum RatioBaseline {
    /// Nothing, as the gate has no margin.
    NotCompared,
    /// Nothing, as there is nothing.
    NoBaseline,
    /// The sync path of the same time: bad ones, of how many.
    LiveSync(u64, u64),
    /// That of an earlier step.
    FrozenSync(u64, u64),
}

/// One of the things that a gate asks.
struct PassCondition {
    is_met: bool,
    text: String,
    needed_outcomes: Option<u64>,
}

/// Clients whose failures a look has counted, by path: a client that tries again and again is one
/// that fails.
#[derive(Default)]
struct CountedClients {
    asynchronous: ClientGroupCounts,
    sync: ClientGroupCounts,
}

/// All that a gate's answer comes of.
struct RatioEvaluation<'a> {
    gate: &'a GateConfig,
    limits: &'a RatioLimits,
    min_samples: MinSamples,
    evaluation: &'a Evaluation<'a>,
    counts: RatioCounts,
    baseline: RatioBaseline,
    /// The share above which it fails; `max`, or what the frozen baseline and `margin` come to.
    fail_ceiling: Option<f64>,
}

pub(super) fn evaluate_ratio(
    gate: &GateConfig,
    limits: &RatioLimits,
    min: MinSamples,
    memory: &mut GateMemory,
    look: &Evaluation<'_>,
) -> GateReport {
    let case = RatioEvaluation::new(gate, limits, min, look);
    case.update_memory(memory);
    let broken = case.find_violations(memory);
    let asked = case.check_pass_conditions();
    let verdict = match () {
        () if !broken.is_empty() => Verdict::Fail,
        () if asked.iter().all(|finding| finding.is_met) => Verdict::Pass,
        () => Verdict::Inconclusive,
    };
    let needs = asked.iter().filter_map(|finding| finding.needed_outcomes).max();
    let needs = needs.filter(|needs| *needs > 0 && verdict == Verdict::Inconclusive);
    case.build_report(
        verdict,
        needs,
        if broken.is_empty() { asked.into_iter().map(|f| f.text).collect() } else { broken },
    )
}

// === impl Case ===

impl<'a> RatioEvaluation<'a> {
    fn new(
        gate: &'a GateConfig,
        limits: &'a RatioLimits,
        min: MinSamples,
        look: &'a Evaluation<'a>,
    ) -> Self {
        let evidence = RatioCounts::from_evidence(&gate.kind, look.cohort_evidence);
        let against = match (limits.margin, look.frozen_baseline) {
            (None, _) => RatioBaseline::NotCompared,
            _ if is_deferred_gate(&gate.kind) => RatioBaseline::NotCompared,
            (_, Some(baseline)) => match count_bad_on_path(&gate.kind, baseline) {
                (_, 0) => RatioBaseline::NoBaseline,
                (bad, of) => RatioBaseline::FrozenSync(bad, of),
            },
            _ if min.sync_requests == 0 => RatioBaseline::NoBaseline,
            _ => {
                RatioBaseline::LiveSync(evidence.sync_bad_of_total.0, evidence.sync_bad_of_total.1)
            }
        };
        let mut case = Self {
            gate,
            limits,
            min_samples: min,
            evaluation: look,
            counts: evidence,
            baseline: against,
            fail_ceiling: None,
        };
        case.fail_ceiling =
            case.effective_max().into_iter().chain(case.frozen_ceiling()).reduce(f64::min);
        case
    }

    /// The highest share that passes. The sync path defers nobody: a margin over that is a limit.
    fn effective_max(&self) -> Option<f64> {
        let over_none = self.limits.margin.filter(|_| is_deferred_gate(&self.gate.kind));
        self.limits.max.into_iter().chain(over_none).reduce(f64::min)
    }

    fn frozen_ceiling(&self) -> Option<f64> {
        let (RatioBaseline::FrozenSync(bad, of), Some(margin)) =
            (self.baseline, self.limits.margin)
        else {
            return None;
        };
        Some((stats::wilson_interval(bad, of, stats::Z_95_ONE_SIDED).1 + margin).min(1.0))
    }

    fn update_memory(&self, memory: &mut GateMemory) {
        let Evaluation { new_evidence: news, late_evidence: late, .. } = *self.evaluation;
        if matches!(self.baseline, RatioBaseline::LiveSync(..)) {
            let now = self.estimate_async_share(&RatioCounts::from_evidence(&self.gate.kind, news));
            let mut told = CountedClients::default();
            let mut more = self.score_failures(news, now, &mut told);
            for LateEvidence { new_evidence: news, total_evidence: whole } in late.iter().rev() {
                // Its share is known. At a higher one now, the sync failures that these are met by
                // are few.
                let whole = RatioCounts::from_evidence(&self.gate.kind, whole);
                let share = stats::share_of(
                    whole.async_expected,
                    whole.async_expected + whole.sync_bad_of_total.1,
                )
                .max(now);
                sequential::add_scores(&mut more, &self.score_failures(news, share, &mut told));
            }
            sequential::add_scores(&mut memory.scores_from_start, &more);
            sequential::add_restarted_scores(&mut memory.restarting_scores, &more);
        }
        if let Some(ceiling) = self.fail_ceiling {
            let all: RolloutEvidence =
                late.iter().map(|late| &late.new_evidence).chain([news]).sum();
            let RatioCounts { async_bad: bad, async_expected: all, .. } =
                RatioCounts::from_evidence(&self.gate.kind, &all);
            sequential::add_restarted_scores(
                &mut memory.ceiling_scores,
                &sequential::score_events(bad, all, ceiling, 1.0),
            );
        }
    }

    /// What the failures of both paths say, where that share of the requests was async: all of
    /// them, or one of each client, whichever speaks less against the async path. So a client
    /// that tries again and again turns nothing back, and neither does one that has most of the
    /// sync path's requests, which the share is of.
    fn score_failures(
        &self,
        news: &RolloutEvidence,
        share: f64,
        told: &mut CountedClients,
    ) -> SequentialScores {
        let RatioCounts { async_bad: bad, sync_bad_of_total: sync, .. } =
            RatioCounts::from_evidence(&self.gate.kind, news);
        let scored = |bad, sync| {
            sequential::score_events(bad, bad + sync, share, self.limits.tolerated_ratio)
        };
        let of_all = scored(bad, sync.0);
        let by = bad_by_client_group(&self.gate.kind, &news.async_counts)
            .zip(bad_by_client_group(&self.gate.kind, &news.sync_counts));
        let once = by.and_then(|(of_async, of_sync)| {
            Some((
                count_once_per_client(&mut told.asynchronous, bad, of_async)?,
                count_once_per_client(&mut told.sync, sync.0, of_sync)?,
            ))
        });
        let Some((bad, sync)) = once else { return of_all };
        let of_each = scored(bad, sync);
        std::array::from_fn(|at| of_all[at].min(of_each[at]))
    }

    /// Which share of the news' requests was async.
    fn estimate_async_share(&self, news: &RatioCounts) -> f64 {
        let (asynchronous, sync) = (
            stats::count_as_float(news.async_expected),
            stats::count_as_float(news.sync_bad_of_total.1),
        );
        match self.counts.async_expected + self.counts.sync_bad_of_total.1 {
            0 => {
                stats::share_of(news.async_expected, news.async_expected + news.sync_bad_of_total.1)
            }
            both => {
                (asynchronous
                    + EVIDENCE_PRIOR_REQUESTS * stats::share_of(self.counts.async_expected, both))
                    / (asynchronous + sync + EVIDENCE_PRIOR_REQUESTS)
            }
        }
    }

    /// What it fails by.
    fn find_violations(&self, memory: &GateMemory) -> Vec<String> {
        let (alpha, RatioCounts { async_bad: bad, async_expected: all, .. }) =
            (self.limits.alpha, self.counts);
        let from_start = |log_e: f64| {
            !self.evaluation.is_healthy && log_e >= sequential::rejection_threshold(alpha)
        };
        let lately =
            |scores| sequential::log_e_value(scores) >= sequential::restarted_threshold(alpha);
        let mut broken = Vec::new();
        if let Some(ceiling) = self.fail_ceiling {
            if from_start(sequential::log_e_against_at_most(ceiling, bad, all)) {
                let lower = sequential::lower_bound(bad, all, alpha);
                broken.push(format!("lower bound {}", words::format_comparison(lower, ceiling)));
            } else if lately(&memory.ceiling_scores) {
                broken.push(format!("lately more than {}", words::format_percent(ceiling)));
            }
        }
        if matches!(self.baseline, RatioBaseline::LiveSync(..)) {
            let ratio = self.limits.tolerated_ratio;
            if from_start(sequential::log_e_value(&memory.scores_from_start)) {
                broken.push(format!("more than {ratio} times the sync path's share"));
            } else if lately(&memory.restarting_scores) {
                broken.push(format!("lately more than {ratio} times the sync path's share"));
            }
        }
        broken
    }

    /// What PASS asks.
    fn check_pass_conditions(&self) -> Vec<PassCondition> {
        if is_shadow_gate(&self.gate.kind) && self.evaluation.is_full_weight {
            return vec![PassCondition {
                is_met: true,
                text: "nothing to shadow at 100 %".into(),
                needed_outcomes: None,
            }];
        }
        let limit = self.effective_max().map(|max| self.check_max(max));
        let margin = match (self.baseline, self.limits.margin) {
            (
                RatioBaseline::LiveSync(bad, of) | RatioBaseline::FrozenSync(bad, of),
                Some(margin),
            ) => Some(self.check_margin(bad, of, margin)),
            (RatioBaseline::NoBaseline, _) => Some(PassCondition {
                is_met: true,
                text: "compared with nothing".into(),
                needed_outcomes: None,
            }),
            _ => None,
        };
        let (samples, sync) = (self.check_async_samples(), self.check_sync_samples());
        limit.into_iter().chain(margin).chain(samples).chain(sync).collect()
    }

    fn check_max(&self, max: f64) -> PassCondition {
        let RatioCounts { async_bad: bad, async_ended: ended, .. } = self.counts;
        let needs = sequential::clean_events_needed(max, bad, ended, FALSE_PASS_CHANCE);
        let bound = sequential::upper_bound(bad, ended, FALSE_PASS_CHANCE);
        PassCondition {
            is_met: needs == Some(0),
            text: format!("upper bound {}", words::format_comparison(bound, max)),
            needed_outcomes: needs,
        }
    }

    fn check_margin(&self, bad: u64, of: u64, margin: f64) -> PassCondition {
        let lower = sequential::lower_bound(bad, of, FALSE_PASS_CHANCE);
        let sync = BoundedShare { observed: stats::share_of(bad, of), lower, upper: 1.0 };
        let bound = |more: u64| {
            let (bad, ended) = (self.counts.async_bad, self.counts.async_ended + more);
            let (share, upper) = (
                stats::share_of(bad, ended),
                sequential::upper_bound(bad, ended, FALSE_PASS_CHANCE),
            );
            stats::newcombe_upper_bound(BoundedShare { observed: share, lower: 0.0, upper }, sync)
        };
        let needs = stats::find_least(0, |more| bound(more) <= margin);
        let text =
            format!("upper bound of the difference {}", words::format_comparison(bound(0), margin));
        PassCondition { is_met: needs == Some(0), text, needed_outcomes: needs }
    }

    /// That there are enough outcomes, and not too many to come; nothing where all is well.
    fn check_async_samples(&self) -> Option<PassCondition> {
        if is_shadow_gate(&self.gate.kind) {
            return None; // they are requests of the other path: the bound alone asks for enough
        }
        let ended = self.counts.async_ended;
        let missing = self.min_samples.async_requests.saturating_sub(ended);
        let text = words::explain_too_early(ended, self.min_samples, self.evaluation)?;
        // The count itself is told once, at the end.
        let text = if missing > 0 {
            format!("min_samples {}", words::format_count(self.min_samples.async_requests))
        } else {
            text
        };
        Some(PassCondition {
            is_met: false,
            text,
            needed_outcomes: Some(missing).filter(|missing| *missing > 0),
        })
    }

    fn check_sync_samples(&self) -> Option<PassCondition> {
        let RatioBaseline::LiveSync(_, of) = self.baseline else { return None };
        let min = self.min_samples.sync_requests;
        (of < min).then(|| {
            let text = format!(
                "{} of {} sync requests",
                words::format_count(of),
                words::format_count(min)
            );
            PassCondition { is_met: false, text, needed_outcomes: None }
        })
    }

    fn build_report(
        &self,
        verdict: Verdict,
        needs: Option<u64>,
        findings: Vec<String>,
    ) -> GateReport {
        let RatioCounts { async_bad: bad, async_ended: ended, async_expected: all, .. } =
            self.counts;
        let sync = match self.baseline {
            RatioBaseline::LiveSync(bad, of) | RatioBaseline::FrozenSync(bad, of) => {
                Some((bad, of))
            }
            RatioBaseline::NotCompared | RatioBaseline::NoBaseline => None,
        };
        let beside = sync.map(|(bad, of)| {
            let frozen =
                if matches!(self.baseline, RatioBaseline::FrozenSync(..)) { " before" } else { "" };
            format!("{} of {} sync{frozen}", words::format_count(bad), words::format_count(of))
        });
        let who = if is_shadow_gate(&self.gate.kind) { "copies" } else { "async" };
        let told = format!(
            "{} of {} {who} {}",
            words::format_count(bad),
            words::format_count(ended),
            describe_bad_outcome(&self.gate.kind)
        );
        let missing = needs.map(|needs| format!("needs {} more", words::format_count(needs)));
        let parts: Vec<String> =
            [told].into_iter().chain(beside).chain(findings).chain(missing).collect();
        GateReport {
            gate_name: self.gate.name.clone(),
            gate_kind: self.gate.kind.as_str(),
            verdict,
            explanation: format!("{}: {}", self.gate.name, parts.join(", ")),
            // What it needs are copies, and nobody is to wait for as many canaried requests.
            needed_outcomes: needs.filter(|_| !is_shadow_gate(&self.gate.kind)),
            async_bad_of_total: Some((bad, ended)),
            sync_bad_of_total: sync,
            value: (ended > 0).then(|| stats::share_of(bad, ended)),
            interval: Some((
                sequential::lower_bound(bad, all, self.limits.alpha),
                sequential::upper_bound(bad, ended, FALSE_PASS_CHANCE),
            )),
        }
    }
}

// === impl Counted ===

impl RatioCounts {
    fn from_evidence(kind: &GateKind, evidence: &RolloutEvidence) -> Self {
        let RolloutEvidence {
            async_counts: asynchronous,
            accepted_tasks: accepted,
            cancelled_tasks: cancelled,
            ..
        } = evidence;
        let bad_of = count_bad_on_path(kind, asynchronous);
        // What came in and may have an outcome; more outcomes than that are late ones of earlier
        // requests.
        let due = evidence.canaried_requests().saturating_sub(*cancelled);
        let (async_bad, ended, all) = match kind {
            GateKind::DeferredRatio(_) => (evidence.deferred_requests, *accepted, *accepted),
            GateKind::ShadowMismatch(_) => {
                (evidence.shadow_mismatched, evidence.shadow_compared, evidence.shadow_copied)
            }
            GateKind::SlowRatio { threshold, measure: LatencyMeasure::Acknowledgement, .. } => {
                let (bad, of) = count_slow(&evidence.acknowledgement_times, *threshold);
                (bad, of, of)
            }
            GateKind::ErrorRatio(_) => {
                (bad_of.0, bad_of.1, due.saturating_sub(asynchronous.client_errors))
            }
            _ => (bad_of.0, bad_of.1, due),
        };
        Self {
            async_bad,
            async_ended: ended.max(async_bad),
            async_expected: all.max(ended).max(async_bad),
            sync_bad_of_total: count_bad_on_path(kind, &evidence.sync_counts),
        }
    }
}

/// How many of a path's outcomes were bad, of how many.
fn count_bad_on_path(kind: &GateKind, counts: &EvidenceCounts) -> (u64, u64) {
    match kind {
        GateKind::ErrorRatio(_) => {
            (counts.failed, counts.total.saturating_sub(counts.client_errors))
        }
        GateKind::ClientErrorRatio(_) => (counts.client_errors, counts.total),
        GateKind::SlowRatio { threshold, .. } => count_slow(&counts.durations, *threshold),
        _ => (0, 0),
    }
}

/// Of `bad` requests, those of clients that nothing tells apart, and one of every other client that
/// was not `told` of yet. None where those are too many to be told apart.
fn count_once_per_client(
    told: &mut ClientGroupCounts,
    bad: u64,
    by: &ClientGroupCounts,
) -> Option<u64> {
    let before = estimate_clients(told)?;
    for (told, more) in told.iter_mut().zip(by) {
        *told += more;
    }
    let (grouped, new) = (by.iter().sum(), estimate_clients(told)? - before);
    Some(bad.saturating_sub(grouped) + new.min(grouped))
}

/// Which clients they were of, where a client's next request is likely to go the same way.
fn bad_by_client_group<'a>(
    kind: &GateKind,
    counts: &'a EvidenceCounts,
) -> Option<&'a ClientGroupCounts> {
    match kind {
        GateKind::ErrorRatio(_) => Some(&counts.failed_by_group),
        GateKind::ClientErrorRatio(_) => Some(&counts.client_errors_by_group),
        _ => None,
    }
}

fn count_slow(took: &DurationCounts, threshold: Duration) -> (u64, u64) {
    (count_slower_than(took, threshold.as_secs_f64()), took.iter().sum())
}

fn is_deferred_gate(kind: &GateKind) -> bool {
    matches!(kind, GateKind::DeferredRatio(_))
}

fn is_shadow_gate(kind: &GateKind) -> bool {
    matches!(kind, GateKind::ShadowMismatch(_))
}

fn describe_bad_outcome(kind: &GateKind) -> String {
    match kind {
        GateKind::ClientErrorRatio(_) => "got a 4xx".into(),
        GateKind::DeferredRatio(_) => "were deferred".into(),
        GateKind::ShadowMismatch(_) => "were answered otherwise".into(),
        GateKind::SlowRatio { threshold, measure: LatencyMeasure::EndToEnd, .. } => {
            format!("took over {}", format_exact_span(*threshold))
        }
        GateKind::SlowRatio { threshold, measure: LatencyMeasure::Acknowledgement, .. } => {
            format!("were answered after {}", format_exact_span(*threshold))
        }
        _ => "failed".into(),
    }
}
