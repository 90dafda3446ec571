//! Verdicts and explanations of ratio gates.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fixture::{
    SMALL_MIN_SAMPLES, USUAL_MIN_SAMPLES, error_gate, evaluate_fresh, make_evaluation,
    make_evidence, named_gate,
};
use crate::config::{GateKind, LatencyMeasure, MinSamples, RatioLimits};
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::gate::{Evaluation, GateMemory, Verdict, evaluate_gate};
use crate::task::duration_bucket;

#[test]
fn an_undecided_gate_explains_what_it_needs() {
    let gate = error_gate(Some(0.01), None);
    let waits = evaluate_fresh(&gate, SMALL_MIN_SAMPLES, &make_evidence((0, 143), (0, 0)));
    assert_eq!(
        waits.explanation,
        "errors: 0 of 143 async failed, upper bound 2.4 % > 1 %, needs 204 more"
    );
    assert_eq!((waits.verdict, waits.needed_outcomes), (Verdict::Inconclusive, Some(204)));
    let enough = evaluate_fresh(&gate, SMALL_MIN_SAMPLES, &make_evidence((0, 143 + 204), (0, 0)));
    assert_eq!(enough.explanation, "errors: 0 of 347 async failed, upper bound 0.9998 % ≤ 1 %");
    assert_eq!(enough.verdict, Verdict::Pass);
    assert_eq!(
        evaluate_fresh(&gate, SMALL_MIN_SAMPLES, &make_evidence((0, 346), (0, 0))).needed_outcomes,
        Some(1)
    );

    let patient = MinSamples { async_requests: 500, sync_requests: 0 };
    let waits = evaluate_fresh(&gate, patient, &make_evidence((0, 400), (0, 0)));
    assert_eq!(
        waits.explanation,
        "errors: 0 of 400 async failed, upper bound 0.87 % ≤ 1 %, min_samples 500, needs 100 more"
    );

    let compares = error_gate(None, Some(0.005));
    let waits = evaluate_fresh(&compares, USUAL_MIN_SAMPLES, &make_evidence((0, 1_000), (0, 120)));
    assert_eq!(
        waits.explanation,
        "errors: 0 of 1,000 async failed, 0 of 120 sync, upper bound of the difference \
         0.35 % ≤ 0.5 %, 120 of 300 sync requests"
    );
}

#[test]
fn copies_are_judged_apart_and_at_100_percent_there_are_none() {
    let gate = named_gate(
        "shadow_mismatch",
        GateKind::ShadowMismatch(RatioLimits { max: Some(0.01), ..RatioLimits::default() }),
    );
    let copies = |copied, compared, mismatched| RolloutEvidence {
        shadow_copied: copied,
        shadow_compared: compared,
        shadow_mismatched: mismatched,
        ..make_evidence((0, 9), (0, 9))
    };
    let waits = evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &copies(150, 143, 0));
    assert_eq!(
        waits.explanation,
        "shadow_mismatch: 0 of 143 copies were answered differently, upper bound 2.4 % > 1 %, \
         needs 204 more"
    );
    assert_eq!(
        (waits.verdict, waits.needed_outcomes),
        (Verdict::Inconclusive, None),
        "204 copies, not canaried requests"
    );
    assert_eq!(
        evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &copies(347, 347, 0)).verdict,
        Verdict::Pass,
        "whatever min_samples says"
    );
    let fails = evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &copies(400, 400, 31));
    assert_eq!(
        fails.explanation,
        "shadow_mismatch: 31 of 400 copies were answered differently, lower bound 4 % > 1 %"
    );
    assert_eq!(evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &copies(8, 8, 8)).verdict, Verdict::Fail);
    assert_eq!(
        evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &copies(1_000, 8, 8)).verdict,
        Verdict::Inconclusive,
        "992 may be the same"
    );

    let at_full = |seen: &RolloutEvidence| {
        let samples = BTreeMap::new();
        evaluate_gate(
            &gate,
            USUAL_MIN_SAMPLES,
            &mut GateMemory::default(),
            &Evaluation { is_full_weight: true, ..make_evaluation(seen, seen, &samples) },
        )
    };
    let none = at_full(&copies(0, 0, 0));
    assert_eq!(none.verdict, Verdict::Pass);
    assert_eq!(
        none.explanation,
        "shadow_mismatch: 0 of 0 copies were answered differently, nothing to shadow at 100 %"
    );
    assert_eq!(
        at_full(&copies(400, 400, 31)).verdict,
        Verdict::Fail,
        "clients that are kept out have copies too"
    );
}

#[test]
fn a_failed_gate_explains_its_violation() {
    let over = evaluate_fresh(
        &error_gate(Some(0.01), None),
        USUAL_MIN_SAMPLES,
        &make_evidence((31, 400), (0, 0)),
    );
    assert_eq!(over.verdict, Verdict::Fail);
    assert_eq!(over.explanation, "errors: 31 of 400 async failed, lower bound 4 % > 1 %");
    let beside = evaluate_fresh(
        &error_gate(None, Some(0.005)),
        USUAL_MIN_SAMPLES,
        &make_evidence((20, 400), (8, 3_600)),
    );
    assert_eq!(beside.verdict, Verdict::Fail);
    assert_eq!(
        beside.explanation,
        "errors: 20 of 400 async failed, 8 of 3,600 sync, more than 1.25 times the sync path's \
         share"
    );
}

#[test]
fn early_failures_are_compared_with_all_requests_that_came_in() {
    let gate = error_gate(Some(0.01), None);
    let mut early = make_evidence((8, 8), (0, 0));
    early.accepted_tasks = 1_000;
    let report = evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &early);
    assert_eq!(
        report.verdict,
        Verdict::Inconclusive,
        "8 of 1,000, not 8 of 8: {}",
        report.explanation
    );
    early.accepted_tasks = 8;
    assert_eq!(evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &early).verdict, Verdict::Fail, "8 of 8");
    early.accepted_tasks = 1_000;
    early.cancelled_tasks = 992;
    assert_eq!(
        evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &early).verdict,
        Verdict::Fail,
        "nothing more is to come of the cancelled"
    );
}

#[test]
fn refusals_are_failures_and_4xx_are_no_part_of_the_error_ratio() {
    let gate = error_gate(Some(0.01), None);
    let mut refused = make_evidence((40, 40), (0, 0));
    (refused.accepted_tasks, refused.refused_requests) = (0, 40);
    assert_eq!(evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &refused).verdict, Verdict::Fail);

    let mut rejected = make_evidence((5, 1_000), (0, 1_000));
    rejected.async_counts.client_errors = 995;
    let report = evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &rejected);
    assert_eq!((report.async_bad_of_total, report.verdict), (Some((5, 5)), Verdict::Fail));

    let clients = named_gate(
        "client_errors",
        GateKind::ClientErrorRatio(RatioLimits { margin: Some(0.02), ..RatioLimits::default() }),
    );
    let report = evaluate_fresh(&clients, USUAL_MIN_SAMPLES, &rejected);
    assert_eq!(
        report.verdict,
        Verdict::Fail,
        "a canary that turns everybody away: {}",
        report.explanation
    );
    assert!(
        report
            .explanation
            .starts_with("client_errors: 995 of 1,000 async got a 4xx, 0 of 1,000 sync"),
        "{}",
        report.explanation
    );
}

#[test]
fn deferred_requests_are_counted_of_accepted_tasks_without_a_baseline() {
    let gate = |margin| {
        named_gate(
            "deferred",
            GateKind::DeferredRatio(RatioLimits {
                max: Some(0.01),
                margin,
                ..RatioLimits::default()
            }),
        )
    };
    let mut deferring = make_evidence((0, 1_000), (0, 9_000));
    assert_eq!(evaluate_fresh(&gate(None), USUAL_MIN_SAMPLES, &deferring).verdict, Verdict::Pass);
    assert_eq!(
        evaluate_fresh(&gate(Some(0.001)), USUAL_MIN_SAMPLES, &deferring).verdict,
        Verdict::Inconclusive,
        "a margin is a limit"
    );
    deferring.deferred_requests = 40;
    let report = evaluate_fresh(&gate(Some(0.02)), USUAL_MIN_SAMPLES, &deferring);
    assert_eq!((report.verdict, report.sync_bad_of_total), (Verdict::Fail, None));
    assert!(
        report.explanation.starts_with("deferred: 40 of 1,000 async were deferred, lower bound "),
        "{}",
        report.explanation
    );
}

#[test]
fn slow_is_over_the_bound_end_to_end_or_to_the_acknowledgement() {
    let gate = |of| {
        let limits = RatioLimits { max: Some(0.05), margin: Some(0.01), ..RatioLimits::default() };
        named_gate(
            "slow",
            GateKind::SlowRatio { threshold: Duration::from_secs(2), measure: of, limits },
        )
    };
    let at = |seconds: f64| duration_bucket(Duration::from_secs_f64(seconds));
    let mut seen = make_evidence((0, 10_000), (0, 10_000));
    seen.async_counts.durations[at(2.0)] = 9_000;
    seen.async_counts.durations[at(2.1)] = 1_000;
    seen.sync_counts.durations[at(2.0)] = 10_000;
    seen.acknowledgement_times[at(2.0)] = 10_000;
    let end = evaluate_fresh(&gate(LatencyMeasure::EndToEnd), USUAL_MIN_SAMPLES, &seen);
    assert_eq!((end.async_bad_of_total, end.verdict), (Some((1_000, 10_000)), Verdict::Fail));
    assert!(
        end.explanation
            .starts_with("slow: 1,000 of 10,000 async took over 2 s, 0 of 10,000 sync, "),
        "{}",
        end.explanation
    );
    let acknowledged =
        evaluate_fresh(&gate(LatencyMeasure::Acknowledgement), USUAL_MIN_SAMPLES, &seen);
    assert_eq!(
        (acknowledged.async_bad_of_total, acknowledged.verdict),
        (Some((0, 10_000)), Verdict::Pass)
    );
}

#[test]
fn a_frozen_baseline_is_compared_with_and_bounds_what_fails() {
    let gate = error_gate(None, Some(0.005));
    let full = make_evidence((10, 10_000), (0, 0));
    let samples = BTreeMap::new();
    let compared_with = |evidence: &RolloutEvidence, baseline: &EvidenceCounts| {
        let evaluation = Evaluation {
            frozen_baseline: Some(baseline),
            ..make_evaluation(evidence, evidence, &samples)
        };
        evaluate_gate(
            &gate,
            MinSamples { sync_requests: 0, ..USUAL_MIN_SAMPLES },
            &mut GateMemory::default(),
            &evaluation,
        )
    };
    let before = EvidenceCounts { total: 20_000, failed: 20, ..EvidenceCounts::default() };
    let report = compared_with(&full, &before);
    assert_eq!(report.verdict, Verdict::Pass, "{}", report.explanation);
    assert!(report.explanation.contains("20 of 20,000 sync before"), "{}", report.explanation);
    assert_eq!(
        compared_with(&make_evidence((300, 10_000), (0, 0)), &before).verdict,
        Verdict::Fail
    );

    let alone = compared_with(&full, &EvidenceCounts::default());
    assert_eq!((alone.verdict, alone.sync_bad_of_total), (Verdict::Pass, None));
    assert!(alone.explanation.ends_with("no baseline to compare with"), "{}", alone.explanation);
    let unasked = evaluate_fresh(
        &gate,
        MinSamples { sync_requests: 0, ..USUAL_MIN_SAMPLES },
        &make_evidence((10, 10_000), (500, 10_000)),
    );
    assert!(
        unasked.explanation.ends_with("no baseline to compare with"),
        "{}",
        unasked.explanation
    );
}
