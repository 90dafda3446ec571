//! Gates: what is asked of the async path, and what the evidence answers.
//!
//! [`judge`] is pure: the evidence comes in with what the gate remembers, a report goes out. It may be called as often as
//! one likes: PASS and FAIL rest on bounds that hold over all looks (`sequential.rs`), so that looking often costs
//! nothing. Two things make a gate fail, evidence from a fixed start (a step's cohort) and scores that restart (what came
//! lately); a healthy rollout has no start, and only the second counts. PASS always needs `min_samples` and a mature cohort.

mod ratio;
mod words;

use std::collections::BTreeMap;
use std::time::Duration;

use super::evidence::{Counts, Evidence};
use super::sequential::Scores;
use super::stats;
use super::words::exact;
use crate::config::{Breaker, Gate, GateKind, MinSamples, OnEmpty};

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
pub struct Report {
    /// The gate's name.
    pub gate: String,
    /// Its `type`.
    pub kind: &'static str,
    /// The answer.
    pub verdict: Verdict,
    /// Why, for people, such as `errors: 0 of 143 async failed, upper bound 2.4 % > 1 %, needs 204 more`.
    pub why: String,
    /// Async outcomes that it still needs, if all goes well; none where that cannot be said.
    pub needs: Option<u64>,
    /// The async path: how many of how many.
    pub asynchronous: Option<(u64, u64)>,
    /// The sync path: how many of how many.
    pub sync: Option<(u64, u64)>,
    /// The share or value that was looked at, and the interval around it where it has one.
    pub value: Option<f64>,
    /// Its bounds, which hold over all looks: PASS wants the upper one at `max` or below, FAIL the lower one above it.
    pub interval: Option<(f64, f64)>,
}

/// What a gate remembers between looks. A new one at each epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Async against sync since the epoch began, one log likelihood ratio per alternative: the sequential test.
    pub since_start: Scores,
    /// The same, never below 0 for long: the detector that a long health does not blind.
    pub since_worst: Scores,
    /// Async against its limit, as a detector; its test from the start needs no memory.
    pub over_limit: Scores,
}

/// What Prometheus answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
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
pub struct Late {
    /// What came of it since the last look.
    pub news: Evidence,
    /// All that is known of it.
    pub whole: Evidence,
}

/// What the gates look at.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The evidence that PASS rests on: that of the present epoch, or of the last hour once it is healthy.
    pub evidence: &'a Evidence,
    /// What came since the last look at the present weight: what the sequential tests see.
    pub news: &'a Evidence,
    /// What came of earlier epochs, whose weight may have been another.
    pub late: &'a [Late],
    /// The sync path of an earlier step, where the plan compares with that.
    pub baseline: Option<&'a Counts>,
    /// Whether enough of the cohort has an outcome for PASS.
    pub mature: bool,
    /// Whether the rollout has reached its percent: then nobody waits for PASS, and only the detectors decide.
    pub healthy: bool,
    /// Whether the weight is 100 %: there is no sync path then.
    pub full: bool,
    /// Answers of Prometheus by gate.
    pub samples: &'a BTreeMap<String, Sample>,
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
    pub fn number(self) -> f64 {
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
pub fn judge(gate: &Gate, min: MinSamples, memory: &mut Memory, look: &Look<'_>) -> Report {
    let (verdict, why, value) = match &gate.kind {
        GateKind::ErrorRatio(limits)
        | GateKind::ClientErrorRatio(limits)
        | GateKind::DeferredRatio(limits)
        | GateKind::ShadowMismatch(limits)
        | GateKind::SlowRatio { limits, .. } => return ratio::judge(gate, limits, min, memory, look),
        GateKind::QueueOldest { max } => oldest(*max, look),
        GateKind::QueueDepth { max } => depth(*max, look),
        GateKind::Prometheus { min, max, on_empty, .. } => value(look.samples.get(&gate.name), *min, *max, *on_empty),
    };
    let total = look.evidence.asynchronous.total;
    let waits = words::too_early(total, min, look).filter(|_| verdict == Verdict::Pass);
    let verdict = if waits.is_some() { Verdict::Inconclusive } else { verdict };
    let why = [Some(why), waits].into_iter().flatten().collect::<Vec<_>>().join(", ");
    Report {
        gate: gate.name.clone(),
        kind: gate.kind.as_str(),
        verdict,
        why: format!("{}: {why}", gate.name),
        needs: min.asynchronous.checked_sub(total).filter(|_| verdict == Verdict::Inconclusive),
        asynchronous: None,
        sync: None,
        value,
        interval: None,
    }
}

/// Whether so many requests of `window` failed that the rollout turns back at once. Held against all that came in, also
/// those whose outcome is to come: what fails at once ends before what succeeds.
#[must_use]
pub fn breaks(breaker: &Breaker, window: &Evidence) -> bool {
    let Counts { total, failed, client_errors, .. } = window.asynchronous;
    let of = total.max(window.canaried()).saturating_sub(client_errors);
    of >= breaker.min_requests.max(1) && stats::share(failed, of) >= breaker.max_error_ratio
}

type Reading = (Verdict, String, Option<f64>);

fn oldest(max: Duration, look: &Look<'_>) -> Reading {
    let oldest = match (look.queue_depth, look.queue_oldest) {
        (Some(0), None) => Duration::ZERO,
        (_, Some(oldest)) => oldest,
        (_, None) => return (Verdict::Error, "the age of the oldest waiting task is not known".into(), None),
    };
    let (is, sign) = at_most(oldest <= max);
    let why = format!("the oldest waiting task is {} old {sign} {}", exact(oldest), exact(max));
    (is, why, Some(oldest.as_secs_f64()))
}

fn depth(max: u64, look: &Look<'_>) -> Reading {
    let Some(depth) = look.queue_depth else {
        return (Verdict::Error, "the number of waiting tasks is not known".into(), None);
    };
    let (is, sign) = at_most(depth <= max);
    (is, format!("{} tasks wait {sign} {}", words::count(depth), words::count(max)), Some(stats::float(depth)))
}

fn value(sample: Option<&Sample>, min: Option<f64>, max: Option<f64>, on_empty: OnEmpty) -> Reading {
    let value = match sample {
        Some(Sample::Value(value)) if value.is_finite() => *value,
        Some(Sample::Value(_) | Sample::NotANumber) => {
            return (Verdict::Inconclusive, "the query's value is not a number".into(), None);
        }
        Some(Sample::Empty) => return empty(on_empty),
        Some(Sample::Unavailable(why)) => return (Verdict::Error, why.clone(), None),
        None => return (Verdict::Error, "the query was not asked yet".into(), None),
    };
    let under = min.filter(|min| value < *min).map(|min| format!("{value} < {min}"));
    let over = max.filter(|max| value > *max).map(|max| format!("{value} > {max}"));
    match under.or(over) {
        Some(broken) => (Verdict::Fail, broken, Some(value)),
        None => (Verdict::Pass, words::within(value, min, max), Some(value)),
    }
}

fn empty(on_empty: OnEmpty) -> Reading {
    match on_empty {
        OnEmpty::Inconclusive => (Verdict::Inconclusive, "the query found nothing".into(), None),
        OnEmpty::Pass => (Verdict::Pass, "the query found nothing, which passes (on_empty)".into(), None),
    }
}

fn at_most(holds: bool) -> (Verdict, &'static str) {
    if holds { (Verdict::Pass, "≤") } else { (Verdict::Fail, ">") }
}

#[cfg(test)]
mod tests;
