//! What a gate is evaluated on: evidence, samples, and its memory of earlier evaluations.

use std::collections::BTreeMap;
use std::time::Duration;

use super::latency_threshold::LatencyThreshold;
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::statistics::SequentialScores;

/// The evidence of one evaluation of the gates.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a> {
    /// The evidence that PASS rests on: that of the step's cohort, or of the last hour of a healthy
    /// rollout.
    pub cohort_evidence: &'a RolloutEvidence,
    /// All evidence of the current weight, that of `new_evidence` included; of a healthy rollout,
    /// of its last hour.
    pub step_evidence: &'a RolloutEvidence,
    /// New evidence of the current weight since the last evaluation, for the sequential tests.
    pub new_evidence: &'a RolloutEvidence,
    /// New evidence of earlier epochs, which may have had another weight.
    pub late_evidence: &'a [LateEvidence],
    /// The sync path of an earlier step, for a step with `baseline: frozen`.
    pub frozen_baseline: Option<&'a EvidenceCounts>,
    /// What is slow for a gate with `threshold: sync_p95`; none while too few sync requests are
    /// known.
    pub latency_threshold: Option<LatencyThreshold>,
    /// How many sync requests that threshold takes; 0 asks for no comparison.
    pub min_p95_requests: u64,
    /// Whether enough of the cohort's tasks have ended for PASS.
    pub is_mature: bool,
    /// Whether the rollout is healthy: then no step waits for PASS, and only scores that restart
    /// can fail a gate.
    pub is_healthy: bool,
    /// Whether the weight is 100 %: then there is no sync path.
    pub is_full_weight: bool,
    /// Samples of Prometheus by gate name.
    pub prometheus_samples: &'a BTreeMap<String, PrometheusSample>,
    /// Waiting tasks of the route's topic; none where the number is unknown.
    pub queue_depth: Option<u64>,
    /// Age of the oldest waiting task; none where there is none or it is unknown.
    pub queue_oldest: Option<Duration>,
}

/// The evidence of an epoch before the current step whose tasks may end late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LateEvidence {
    /// New evidence since the last evaluation.
    pub new_evidence: RolloutEvidence,
    /// All evidence of the epoch.
    pub total_evidence: RolloutEvidence,
}

/// What a gate remembers between evaluations; empty at the start of each step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GateMemory {
    /// Async against sync failures since the step began, from a fixed start.
    pub scores_from_start: SequentialScores,
    /// Async against sync failures, restarting: detects a failure after a long healthy time.
    pub restarting_scores: SequentialScores,
    /// Async failures against the ceiling, restarting. The test of the ceiling from a fixed start
    /// needs no memory.
    pub ceiling_scores: SequentialScores,
}

/// The answer of Prometheus to a gate's query.
#[derive(Clone, Debug, PartialEq)]
pub enum PrometheusSample {
    /// A finite number.
    Value(f64),
    /// The result was empty.
    Empty,
    /// Not a number, or infinite.
    NotANumber,
    /// Prometheus did not answer, was too slow, or its newest sample was too old; with the cause.
    Unavailable(String),
}
