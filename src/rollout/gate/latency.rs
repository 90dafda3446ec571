//! The gate that compares the async path with the sync path's own p95: `threshold: sync_p95`.
//!
//! The p95 of the sync path, taken before the step and rounded up to a bucket bound, is the
//! threshold for the whole step. At most 5 % of the sync requests of that time were slower, so that
//! the gate fails if more than `max` plus `margin` of the async ones are. If more than 5 % of the
//! sync path of the same time are slower by now, its share takes the place of `max`: traffic that
//! becomes slower on both paths is no regression. PASS also wants the difference of the shares to
//! be at most `margin`. A multiple of the sync path's share never fails the gate: the queue adds a
//! few milliseconds to each call, and where hardly any sync call exceeds the threshold, some more
//! async ones do no harm.

use std::time::Duration;

use super::input::{Evaluation, GateMemory};
use super::latency_threshold::{LatencyThreshold, is_slower_than_p95};
use super::ratio::evaluate_ratio;
use super::report::{GateReport, Verdict};
use crate::config::{GateConfig, GateKind, LatencyMeasure, MinSamples, RatioLimits};
use crate::rollout::evidence::count_slower_than;
use crate::rollout::format::format_exact_span;
use crate::rollout::statistics::{FALSE_PASS_CHANCE, upper_bound};

/// The report of a gate with `threshold: sync_p95`.
pub(super) fn evaluate_sync_p95(
    gate: &GateConfig,
    limits: &RatioLimits,
    min_samples: MinSamples,
    memory: &mut GateMemory,
    evaluation: &Evaluation<'_>,
) -> GateReport {
    let Some(LatencyThreshold { threshold, epoch }) = evaluation.latency_threshold else {
        return report_without_threshold(gate, evaluation);
    };
    let limits = resolve_limits(limits, threshold, evaluation);
    let kind = GateKind::SlowRatio { threshold, measure: LatencyMeasure::EndToEnd, limits };
    let resolved = GateConfig { name: gate.name.clone(), kind };
    let mut report = evaluate_ratio(&resolved, &limits, min_samples, memory, evaluation);
    report.explanation = format!(
        "{} ({} is the bound of the sync path's p95, of epoch {epoch})",
        report.explanation,
        format_exact_span(threshold)
    );
    report
}

/// The limits with `margin` added to `max`, or to the sync path's share if that is higher now, and
/// without a ratio that fails.
fn resolve_limits(
    limits: &RatioLimits,
    threshold: Duration,
    evaluation: &Evaluation<'_>,
) -> RatioLimits {
    let sync = &evaluation.cohort_evidence.sync_counts.durations;
    let (slow, total) =
        (count_slower_than(sync, threshold.as_secs_f64()), sync.iter().sum::<u64>());
    let max = limits.max.unwrap_or_default();
    let base = if is_slower_than_p95(slow, total) {
        upper_bound(slow, total, FALSE_PASS_CHANCE).max(max)
    } else {
        max
    };
    let highest = (base + limits.margin.unwrap_or_default()).min(1.0);
    RatioLimits { max: Some(highest), tolerated_ratio: f64::INFINITY, ..*limits }
}

fn report_without_threshold(gate: &GateConfig, evaluation: &Evaluation<'_>) -> GateReport {
    let needed = evaluation.min_p95_requests;
    let (verdict, why) = if needed == 0 {
        (Verdict::Pass, "nothing to compare with, since min_samples.sync is 0".to_owned())
    } else {
        let text = format!("the sync path's p95 is not known, which takes {needed} sync requests");
        (Verdict::Inconclusive, text)
    };
    GateReport {
        gate_name: gate.name.clone(),
        gate_kind: gate.kind.gate_type().into(),
        verdict,
        explanation: format!("{}: {why}", gate.name),
        needed_outcomes: None,
        async_bad_of_total: None,
        sync_bad_of_total: None,
        value: None,
        interval: None,
    }
}
