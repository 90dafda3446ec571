//! Gates and evidence for tests.

use std::collections::BTreeMap;

use crate::config::{GateConfig, GateKind, MinSamples, RatioLimits};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::{Evaluation, GateMemory, GateReport, PrometheusSample, evaluate_gate};

pub(super) const USUAL_MIN_SAMPLES: MinSamples =
    MinSamples { async_requests: 300, sync_requests: 300 };

pub(super) const SMALL_MIN_SAMPLES: MinSamples =
    MinSamples { async_requests: 100, sync_requests: 0 };

pub(super) fn error_gate(max: Option<f64>, margin: Option<f64>) -> GateConfig {
    named_gate(
        "errors",
        GateKind::ErrorRatio(RatioLimits { max, margin, ..RatioLimits::default() }),
    )
}

pub(super) fn named_gate(name: &str, kind: GateKind) -> GateConfig {
    GateConfig { name: name.into(), kind }
}

/// `failed` of `total` async requests, and `sync_failed` of `sync` sync requests; all have ended.
pub(super) fn make_evidence(
    (failed, total): (u64, u64),
    (sync_failed, sync): (u64, u64),
) -> RolloutEvidence {
    let mut evidence = RolloutEvidence { accepted_tasks: total, ..RolloutEvidence::default() };
    (evidence.async_counts.failed, evidence.async_counts.total) = (failed, total);
    (evidence.sync_counts.failed, evidence.sync_counts.total) = (sync_failed, sync);
    evidence
}

pub(super) fn make_evaluation<'a>(
    cohort: &'a RolloutEvidence,
    new: &'a RolloutEvidence,
    samples: &'a BTreeMap<String, PrometheusSample>,
) -> Evaluation<'a> {
    Evaluation {
        cohort_evidence: cohort,
        step_evidence: cohort,
        new_evidence: new,
        late_evidence: &[],
        frozen_baseline: None,
        latency_threshold: None,
        min_p95_requests: 300,
        is_mature: true,
        is_healthy: false,
        is_full_weight: false,
        prometheus_samples: samples,
        queue_depth: None,
        queue_oldest: None,
    }
}

/// A first evaluation of evidence that came all at once.
pub(super) fn evaluate_fresh(
    gate: &GateConfig,
    min_samples: MinSamples,
    evidence: &RolloutEvidence,
) -> GateReport {
    evaluate_gate(
        gate,
        min_samples,
        &mut GateMemory::default(),
        &make_evaluation(evidence, evidence, &BTreeMap::new()),
    )
}
