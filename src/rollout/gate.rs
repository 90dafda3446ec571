//! Gates: what is asked of the async path, and what the evidence answers.
//!
//! [`evaluate_gate`] is pure: the evidence comes in with what the gate remembers, a report goes
//! out. It may be called as often as one likes: PASS and FAIL rest on bounds that hold over all
//! looks (`sequential.rs`), so that looking often costs nothing. Two things make a gate fail,
//! evidence from a fixed start (a step's cohort) and scores that restart (what came lately); a
//! healthy rollout has no start, and only the second counts. PASS always needs `min_samples` and a
//! mature cohort.

mod ratio;
mod words;

use std::collections::BTreeMap;
use std::time::Duration;

use super::evidence::{EvidenceCounts, RolloutEvidence};
use super::sequential::SequentialScores;
use super::stats;
use super::words::format_exact_span;
use crate::config::{BreakerConfig, EmptyResultPolicy, GateConfig, GateKind, MinSamples};

/// What a gate answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds, and the evidence is enough to say so.
    Pass,
    /// It is broken, and the evidence is enough to say so.
    Fail,
    /// The evidence is not enough for either.
    Inconclusive,
    /// Its source is gone, stale, or answers nonsense.
    Error,
}

/// A gate's answer, with what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct GateReport {
    /// The gate's name.
    pub gate_name: String,
    /// Its `type`.
    pub gate_kind: &'static str,
    /// The answer.
    pub verdict: Verdict,
    /// Why, for people, such as `errors: 0 of 143 async failed, upper bound 2.4 % > 1 %, needs 204
    /// more`.
    pub explanation: String,
    /// Async outcomes that it still needs, if all goes well; none where that cannot be said.
    pub needed_outcomes: Option<u64>,
    /// The async path: how many of how many.
    pub async_bad_of_total: Option<(u64, u64)>,
    /// The sync path: how many of how many.
    pub sync_bad_of_total: Option<(u64, u64)>,
    /// The share or value that was looked at, and the interval around it where it has one.
    pub value: Option<f64>,
    /// Its bounds, which hold over all looks: PASS wants the upper one at `max` or below, FAIL the
    /// lower one above it.
    pub interval: Option<(f64, f64)>,
}

/// What a gate remembers between looks. A new one at each epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GateMemory {
    /// Async against sync since the epoch began, one log likelihood ratio per alternative: the
    /// sequential test.
    pub scores_from_start: SequentialScores,
    /// The same, never below 0 for long: the detector that a long health does not blind.
    pub restarting_scores: SequentialScores,
    /// Async against its limit, as a detector; its test from the start needs no memory.
    pub ceiling_scores: SequentialScores,
}

/// What Prometheus answered.
#[derive(Clone, Debug, PartialEq)]
pub enum PrometheusSample {
    /// A number that is none of the below.
    Value(f64),
    /// Nothing matched.
    Empty,
    /// Not a number, or infinite.
    NotANumber,
    /// It is gone, too slow, or its newest sample too old: why.
    Unavailable(String),
}

/// An epoch before the step that is judged, with outcomes that come late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LateEvidence {
    /// What came of it since the last look.
    pub new_evidence: RolloutEvidence,
    /// All that is known of it.
    pub total_evidence: RolloutEvidence,
}

/// What the gates look at.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a> {
    /// The evidence that PASS rests on: that of the present epoch, or of the last hour once it is
    /// healthy.
    pub cohort_evidence: &'a RolloutEvidence,
    /// What came since the last look at the present weight: what the sequential tests see.
    pub new_evidence: &'a RolloutEvidence,
    /// What came of earlier epochs, whose weight may have been another.
    pub late_evidence: &'a [LateEvidence],
    /// The sync path of an earlier step, where the plan compares with that.
    pub frozen_baseline: Option<&'a EvidenceCounts>,
    /// Whether enough of the cohort has an outcome for PASS.
    pub is_mature: bool,
    /// Whether the rollout has reached its percent: then nobody waits for PASS, and only the
    /// detectors decide.
    pub is_healthy: bool,
    /// Whether the weight is 100 %: there is no sync path then.
    pub is_full_weight: bool,
    /// Answers of Prometheus by gate.
    pub prometheus_samples: &'a BTreeMap<String, PrometheusSample>,
    /// Waiting tasks of the topic; none while that is not known.
    pub queue_depth: Option<u64>,
    /// Age of the oldest of them.
    pub queue_oldest: Option<Duration>,
}

// === impl Verdict ===

impl Verdict {
    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Error => "error",
        }
    }

    /// The number in the metric.
    #[must_use]
    pub fn as_metric(self) -> f64 {
        match self {
            Self::Pass => 1.0,
            Self::Inconclusive => 0.0,
            Self::Fail => -1.0,
            Self::Error => f64::NAN,
        }
    }
}

/// What `gate` says of `look`. To be called once for every `news`, which it adds to `memory`.
#[must_use]
pub fn evaluate_gate(
    gate: &GateConfig,
    min: MinSamples,
    memory: &mut GateMemory,
    look: &Evaluation<'_>,
) -> GateReport {
    let (verdict, why, value) = match &gate.kind {
        GateKind::ErrorRatio(limits)
        | GateKind::ClientErrorRatio(limits)
        | GateKind::DeferredRatio(limits)
        | GateKind::ShadowMismatch(limits)
        | GateKind::SlowRatio { limits, .. } => {
            return ratio::evaluate_ratio(gate, limits, min, memory, look);
        }
        GateKind::QueueOldest { max } => read_queue_oldest(*max, look),
        GateKind::QueueDepth { max } => read_queue_depth(*max, look),
        GateKind::PrometheusQuery { min, max, on_empty_result: on_empty, .. } => {
            read_prometheus_sample(look.prometheus_samples.get(&gate.name), *min, *max, *on_empty)
        }
    };
    let total = look.cohort_evidence.async_counts.total;
    let waits = words::explain_too_early(total, min, look).filter(|_| verdict == Verdict::Pass);
    let verdict = if waits.is_some() { Verdict::Inconclusive } else { verdict };
    let why = [Some(why), waits].into_iter().flatten().collect::<Vec<_>>().join(", ");
    GateReport {
        gate_name: gate.name.clone(),
        gate_kind: gate.kind.as_str(),
        verdict,
        explanation: format!("{}: {why}", gate.name),
        needed_outcomes: min
            .async_requests
            .checked_sub(total)
            .filter(|_| verdict == Verdict::Inconclusive),
        async_bad_of_total: None,
        sync_bad_of_total: None,
        value,
        interval: None,
    }
}

/// Whether so many requests of `window` failed that the rollout turns back at once. Held against
/// all that came in, also those whose outcome is to come: what fails at once ends before what
/// succeeds.
#[must_use]
pub fn trips_breaker(breaker: &BreakerConfig, window: &RolloutEvidence) -> bool {
    let EvidenceCounts { total, failed, client_errors, .. } = window.async_counts;
    let of = total.max(window.canaried_requests()).saturating_sub(client_errors);
    of >= breaker.min_requests.max(1) && stats::share_of(failed, of) >= breaker.max_error_ratio
}

type GateReading = (Verdict, String, Option<f64>);

fn read_queue_oldest(max: Duration, look: &Evaluation<'_>) -> GateReading {
    let oldest = match (look.queue_depth, look.queue_oldest) {
        (Some(0), None) => Duration::ZERO,
        (_, Some(oldest)) => oldest,
        (_, None) => {
            return (
                Verdict::Error,
                "the age of the oldest waiting task is not known".into(),
                None,
            );
        }
    };
    let (is, sign) = verdict_at_most(oldest <= max);
    let why = format!(
        "the oldest waiting task is {} old {sign} {}",
        format_exact_span(oldest),
        format_exact_span(max)
    );
    (is, why, Some(oldest.as_secs_f64()))
}

fn read_queue_depth(max: u64, look: &Evaluation<'_>) -> GateReading {
    let Some(depth) = look.queue_depth else {
        return (Verdict::Error, "the number of waiting tasks is not known".into(), None);
    };
    let (is, sign) = verdict_at_most(depth <= max);
    (
        is,
        format!("{} tasks wait {sign} {}", words::format_count(depth), words::format_count(max)),
        Some(stats::count_as_float(depth)),
    )
}

fn read_prometheus_sample(
    sample: Option<&PrometheusSample>,
    min: Option<f64>,
    max: Option<f64>,
    on_empty: EmptyResultPolicy,
) -> GateReading {
    let value = match sample {
        Some(PrometheusSample::Value(value)) if value.is_finite() => *value,
        Some(PrometheusSample::Value(_) | PrometheusSample::NotANumber) => {
            return (Verdict::Inconclusive, "the query's value is not a number".into(), None);
        }
        Some(PrometheusSample::Empty) => return read_empty_sample(on_empty),
        Some(PrometheusSample::Unavailable(why)) => return (Verdict::Error, why.clone(), None),
        None => return (Verdict::Error, "the query was not asked yet".into(), None),
    };
    let under = min.filter(|min| value < *min).map(|min| format!("{value} < {min}"));
    let over = max.filter(|max| value > *max).map(|max| format!("{value} > {max}"));
    match under.or(over) {
        Some(broken) => (Verdict::Fail, broken, Some(value)),
        None => (Verdict::Pass, words::format_range(value, min, max), Some(value)),
    }
}

fn read_empty_sample(on_empty: EmptyResultPolicy) -> GateReading {
    match on_empty {
        EmptyResultPolicy::Inconclusive => {
            (Verdict::Inconclusive, "the query found nothing".into(), None)
        }
        EmptyResultPolicy::Pass => {
            (Verdict::Pass, "the query found nothing, which passes (on_empty)".into(), None)
        }
    }
}

fn verdict_at_most(holds: bool) -> (Verdict, &'static str) {
    if holds { (Verdict::Pass, "≤") } else { (Verdict::Fail, ">") }
}

#[cfg(test)]
mod tests;
