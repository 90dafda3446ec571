//! Evaluates one gate: dispatches by its type, and turns a guardrail's reading into a report.

use super::format;
use super::guardrail::{read_prometheus_sample, read_queue_depth, read_queue_oldest};
use super::input::{Evaluation, GateMemory};
use super::latency::evaluate_sync_p95;
use super::ratio::evaluate_ratio;
use super::report::{GateReport, Verdict};
use crate::config::{GateConfig, GateKind, MinSamples};

/// The report of `gate` on `evaluation`. Call it once for each piece of new evidence, which it adds
/// to `memory`.
#[must_use]
pub fn evaluate_gate(
    gate: &GateConfig,
    min_samples: MinSamples,
    memory: &mut GateMemory,
    evaluation: &Evaluation<'_>,
) -> GateReport {
    let (verdict, why, value) = match &gate.kind {
        GateKind::ErrorRatio(limits)
        | GateKind::ClientErrorRatio(limits)
        | GateKind::DeferredRatio(limits)
        | GateKind::ShadowMismatch(limits)
        | GateKind::SlowRatio { limits, .. } => {
            return evaluate_ratio(gate, limits, min_samples, memory, evaluation);
        }
        GateKind::SlowerThanSync(limits) => {
            return evaluate_sync_p95(gate, limits, min_samples, memory, evaluation);
        }
        GateKind::QueueOldest { max } => read_queue_oldest(*max, evaluation),
        GateKind::QueueDepth { max } => read_queue_depth(*max, evaluation),
        GateKind::PrometheusQuery { min, max, on_empty_result, .. } => {
            let sample = evaluation.prometheus_samples.get(&gate.name);
            read_prometheus_sample(sample, *min, *max, *on_empty_result)
        }
    };
    let ended = evaluation.cohort_evidence.async_counts.total;
    let too_early = format::explain_too_early(ended, min_samples, evaluation)
        .filter(|_| verdict == Verdict::Pass);
    let verdict = if too_early.is_some() { Verdict::Inconclusive } else { verdict };
    let why = [Some(why), too_early].into_iter().flatten().collect::<Vec<_>>().join(", ");
    GateReport {
        gate_name: gate.name.clone(),
        gate_kind: gate.kind.gate_type().into(),
        verdict,
        explanation: format!("{}: {why}", gate.name),
        needed_outcomes: min_samples
            .async_requests
            .checked_sub(ended)
            .filter(|_| verdict == Verdict::Inconclusive),
        async_bad_of_total: None,
        sync_bad_of_total: None,
        value,
        interval: None,
    }
}
