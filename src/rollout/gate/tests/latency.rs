//! The gate whose threshold is the sync path's p95.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fixture::{USUAL_MIN_SAMPLES, make_evaluation, make_evidence, named_gate};
use crate::config::{GateKind, MinSamples, RatioLimits};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::{
    Evaluation, GateMemory, GateReport, LatencyThreshold, Verdict, evaluate_gate,
};
use crate::task::duration_bucket;

/// So many of 10,000 async and of 10,000 sync requests took 900 ms, all others 400 ms.
fn slow_evidence(async_slow: u64, sync_slow: u64) -> RolloutEvidence {
    let mut evidence = make_evidence((0, 10_000), (0, 10_000));
    let at = |millis| duration_bucket(Duration::from_millis(millis));
    evidence.async_counts.durations[at(400)] = 10_000 - async_slow;
    evidence.async_counts.durations[at(900)] = async_slow;
    evidence.sync_counts.durations[at(400)] = 10_000 - sync_slow;
    evidence.sync_counts.durations[at(900)] = sync_slow;
    evidence
}

fn report(
    evidence: &RolloutEvidence,
    threshold: Option<LatencyThreshold>,
    min_samples: MinSamples,
) -> GateReport {
    let gate = named_gate("latency", GateKind::SlowerThanSync(RatioLimits::SYNC_P95));
    let samples = BTreeMap::new();
    let evaluation = Evaluation {
        latency_threshold: threshold,
        min_p95_requests: min_samples.sync_requests,
        ..make_evaluation(evidence, evidence, &samples)
    };
    evaluate_gate(&gate, min_samples, &mut GateMemory::default(), &evaluation)
}

const HALF_A_SECOND: LatencyThreshold =
    LatencyThreshold { threshold: Duration::from_millis(500), epoch: 4 };

#[test]
fn a_slower_path_fails_and_a_path_that_is_as_slow_passes() {
    for (async_slow, sync_slow, verdict) in [
        (0, 0, Verdict::Pass),
        (490, 490, Verdict::Pass),
        (450, 400, Verdict::Pass),
        (400, 100, Verdict::Inconclusive),
        (640, 400, Verdict::Inconclusive),
        (1_000, 400, Verdict::Fail),
        (1_000, 0, Verdict::Fail),
    ] {
        let report =
            report(&slow_evidence(async_slow, sync_slow), Some(HALF_A_SECOND), USUAL_MIN_SAMPLES);
        assert_eq!(report.verdict, verdict, "{async_slow} {sync_slow}: {}", report.explanation);
    }
}

#[test]
fn some_more_slow_calls_than_hardly_any_fail_nothing() {
    let report = report(&slow_evidence(120, 2), Some(HALF_A_SECOND), USUAL_MIN_SAMPLES);
    assert_eq!(report.verdict, Verdict::Pass, "{}", report.explanation);
}

#[test]
fn traffic_that_becomes_slower_on_both_paths_is_no_regression() {
    let both = report(&slow_evidence(2_000, 2_000), Some(HALF_A_SECOND), USUAL_MIN_SAMPLES);
    assert_eq!(both.verdict, Verdict::Pass, "{}", both.explanation);
    let one = report(&slow_evidence(2_600, 2_000), Some(HALF_A_SECOND), USUAL_MIN_SAMPLES);
    assert_eq!(one.verdict, Verdict::Fail, "{}", one.explanation);
}

#[test]
fn the_report_names_threshold_and_epoch() {
    let report = report(&slow_evidence(100, 90), Some(HALF_A_SECOND), USUAL_MIN_SAMPLES);
    let text = &report.explanation;
    assert!(
        text.starts_with("latency: 100 of 10,000 async took over 500 ms, 90 of 10,000 sync, "),
        "{text}"
    );
    assert!(text.ends_with("(500 ms is the bound of the sync path's p95, of epoch 4)"), "{text}");
}

#[test]
fn without_enough_sync_requests_it_is_undecided_and_without_a_comparison_it_passes() {
    let evidence = slow_evidence(5_000, 0);
    let unknown = report(&evidence, None, USUAL_MIN_SAMPLES);
    assert_eq!(unknown.verdict, Verdict::Inconclusive);
    assert!(unknown.explanation.contains("takes 300 sync requests"), "{}", unknown.explanation);
    let unasked = report(&evidence, None, MinSamples { sync_requests: 0, ..USUAL_MIN_SAMPLES });
    assert_eq!(unasked.verdict, Verdict::Pass, "{}", unasked.explanation);
}
