//! A ratio gate with its counts, its baseline and its ceiling.

use super::counts::{RatioCounts, count_bad_on_path};
use crate::config::{GateConfig, GateType, MinSamples, RatioLimits};
use crate::rollout::gate::input::Evaluation;
use crate::rollout::statistics::{Z_95_ONE_SIDED, wilson_interval};

/// What the async share is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) enum RatioBaseline {
    /// Not compared: the gate has no margin.
    NotCompared,
    /// There is a margin, and no sync path to compare with.
    NoBaseline,
    /// The sync path of the same time: bad outcomes, of how many.
    LiveSync(u64, u64),
    /// The sync path of an earlier step: bad outcomes, of how many.
    FrozenSync(u64, u64),
}

/// A ratio gate, with all that its verdict rests on.
pub(super) struct RatioEvaluation<'a> {
    pub(super) gate: &'a GateConfig,
    pub(super) limits: &'a RatioLimits,
    pub(super) min_samples: MinSamples,
    pub(super) evaluation: &'a Evaluation<'a>,
    pub(super) counts: RatioCounts,
    pub(super) baseline: RatioBaseline,
    /// The share above which the gate fails: the lower of `max` and of the frozen baseline's upper
    /// bound plus `margin`; none where the gate has neither.
    pub(super) fail_ceiling: Option<f64>,
}

// === impl RatioEvaluation ===

impl<'a> RatioEvaluation<'a> {
    pub(super) fn new(
        gate: &'a GateConfig,
        limits: &'a RatioLimits,
        min_samples: MinSamples,
        evaluation: &'a Evaluation<'a>,
    ) -> Self {
        let counts = RatioCounts::from_evidence(&gate.kind, evaluation.cohort_evidence);
        let (sync_bad, sync_total) = counts.sync_bad_of_total;
        let baseline = match (limits.margin, evaluation.frozen_baseline) {
            (None, _) => RatioBaseline::NotCompared,
            _ if gate.kind.gate_type() == GateType::DeferredRatio => RatioBaseline::NotCompared,
            (_, Some(frozen)) => match count_bad_on_path(&gate.kind, frozen) {
                (_, 0) => RatioBaseline::NoBaseline,
                (bad, total) => RatioBaseline::FrozenSync(bad, total),
            },
            _ if min_samples.sync_requests == 0 => RatioBaseline::NoBaseline,
            _ => RatioBaseline::LiveSync(sync_bad, sync_total),
        };
        let mut ratio =
            Self { gate, limits, min_samples, evaluation, counts, baseline, fail_ceiling: None };
        ratio.fail_ceiling =
            ratio.effective_max().into_iter().chain(ratio.frozen_ceiling()).reduce(f64::min);
        ratio
    }

    /// Whether it is the gate of shadow traffic, which judges copies of sync requests.
    pub(super) fn is_shadow_gate(&self) -> bool {
        self.gate.kind.gate_type() == GateType::ShadowMismatch
    }

    /// The highest share that passes. The sync path defers no request, so that the margin of a
    /// `deferred_ratio` is a limit like `max`.
    pub(super) fn effective_max(&self) -> Option<f64> {
        let is_deferred = self.gate.kind.gate_type() == GateType::DeferredRatio;
        let margin_as_max = self.limits.margin.filter(|_| is_deferred);
        self.limits.max.into_iter().chain(margin_as_max).reduce(f64::min)
    }

    /// Whether the comparison with the sync path can fail the gate. Without a ratio that is
    /// tolerated it is a condition of PASS alone.
    pub(super) fn fails_by_comparison(&self) -> bool {
        self.limits.tolerated_ratio.is_finite()
    }

    fn frozen_ceiling(&self) -> Option<f64> {
        if !self.fails_by_comparison() {
            return None;
        }
        let (RatioBaseline::FrozenSync(bad, total), Some(margin)) =
            (self.baseline, self.limits.margin)
        else {
            return None;
        };
        Some((wilson_interval(bad, total, Z_95_ONE_SIDED).1 + margin).min(1.0))
    }
}
