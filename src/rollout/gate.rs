//! Gates: what is asked of the async path, and what the evidence answers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::evidence::{Counts, Evidence};

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
    /// Why, for people, such as `errors: 0 of 143 async failed, upper bound 1.9 % > 1 %`.
    pub why: String,
    /// Async outcomes that it still needs, if all goes well; none where that cannot be said.
    pub needs: Option<u64>,
    /// The async path: how many of how many.
    pub asynchronous: Option<(u64, u64)>,
    /// The sync path: how many of how many.
    pub sync: Option<(u64, u64)>,
    /// The share or value that was looked at, and the interval around it where it has one.
    pub value: Option<f64>,
    /// Its bounds.
    pub interval: Option<(f64, f64)>,
}

/// What a gate remembers between looks. A new one at each epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Log likelihood ratios since the epoch began, one per alternative: the sequential test.
    pub since_start: [f64; 3],
    /// The same, never below 0 for long: the detector that a long health does not blind.
    pub since_worst: [f64; 3],
    /// Async outcomes at which PASS is looked at next; 0 is at `min_samples`.
    pub next_look: u64,
    /// What the last such look said.
    pub passed: bool,
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

/// What the gates look at.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The evidence that PASS rests on: that of the present epoch, or of the last hour once it is healthy.
    pub evidence: &'a Evidence,
    /// What came since the last look, outcomes of earlier epochs included: what the sequential tests see.
    pub news: &'a Evidence,
    /// The sync path of an earlier step, where the plan compares with that.
    pub baseline: Option<&'a Counts>,
    /// Whether enough of the cohort has an outcome for PASS.
    pub mature: bool,
    /// Whether the rollout has reached its percent: then nobody waits for PASS, and only the detector decides.
    pub healthy: bool,
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
