use proptest::prelude::*;

use super::*;
use crate::config::{LatencyMeasure, RatioLimits};
use crate::task::{DURATION_BUCKET_COUNT, duration_bucket};

const USUAL_MIN_SAMPLES: MinSamples = MinSamples { async_requests: 300, sync_requests: 300 };
const SMALL_MIN_SAMPLES: MinSamples = MinSamples { async_requests: 100, sync_requests: 0 };

fn error_gate(max: Option<f64>, margin: Option<f64>) -> GateConfig {
    named_gate(
        "errors",
        GateKind::ErrorRatio(RatioLimits { max, margin, ..RatioLimits::default() }),
    )
}

fn named_gate(name: &str, kind: GateKind) -> GateConfig {
    GateConfig { name: name.into(), kind }
}

/// `failed` of `total` ended, of as many as came in, or of `accepted`.
fn make_evidence((failed, total): (u64, u64), (sync_failed, sync): (u64, u64)) -> RolloutEvidence {
    let mut evidence = RolloutEvidence { accepted_tasks: total, ..RolloutEvidence::default() };
    (evidence.async_counts.failed, evidence.async_counts.total) = (failed, total);
    (evidence.sync_counts.failed, evidence.sync_counts.total) = (sync_failed, sync);
    evidence
}

fn make_evaluation<'a>(
    evidence: &'a RolloutEvidence,
    news: &'a RolloutEvidence,
    samples: &'a BTreeMap<String, PrometheusSample>,
) -> Evaluation<'a> {
    let (baseline, queue_depth, queue_oldest) = (None, None, None);
    let (mature, healthy, full) = (true, false, false);
    Evaluation {
        cohort_evidence: evidence,
        new_evidence: news,
        late_evidence: &[],
        frozen_baseline: baseline,
        is_mature: mature,
        is_healthy: healthy,
        is_full_weight: full,
        prometheus_samples: samples,
        queue_depth,
        queue_oldest,
    }
}

/// A first look at evidence that came all at once.
fn evaluate_fresh(gate: &GateConfig, min: MinSamples, evidence: &RolloutEvidence) -> GateReport {
    evaluate_gate(
        gate,
        min,
        &mut GateMemory::default(),
        &make_evaluation(evidence, evidence, &BTreeMap::new()),
    )
}

#[test]
fn it_says_what_it_waits_for() {
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
        "errors: 0 of 1,000 async failed, 0 of 120 sync, upper bound of the difference 0.35 % ≤ 0.5 %, 120 of 300 sync \
         requests"
    );
}

#[test]
fn copies_are_judged_by_themselves_and_at_100_percent_there_are_none() {
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
        "shadow_mismatch: 0 of 143 copies were answered otherwise, upper bound 2.4 % > 1 %, needs 204 more"
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
        "shadow_mismatch: 31 of 400 copies were answered otherwise, lower bound 4 % > 1 %"
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
        "shadow_mismatch: 0 of 0 copies were answered otherwise, nothing to shadow at 100 %"
    );
    assert_eq!(
        at_full(&copies(400, 400, 31)).verdict,
        Verdict::Fail,
        "clients that are kept out have copies too"
    );
}

#[test]
fn it_says_what_it_failed_by() {
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
        "errors: 20 of 400 async failed, 8 of 3,600 sync, more than 1.25 times the sync path's share"
    );
}

#[test]
fn failures_that_come_first_are_held_against_all_that_came_in() {
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
fn the_deferred_are_counted_among_the_accepted_and_compared_with_nobody() {
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
        let look = Evaluation {
            frozen_baseline: Some(baseline),
            ..make_evaluation(evidence, evidence, &samples)
        };
        evaluate_gate(
            &gate,
            MinSamples { sync_requests: 0, ..USUAL_MIN_SAMPLES },
            &mut GateMemory::default(),
            &look,
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
    assert!(alone.explanation.ends_with("compared with nothing"), "{}", alone.explanation);
    let unasked = evaluate_fresh(
        &gate,
        MinSamples { sync_requests: 0, ..USUAL_MIN_SAMPLES },
        &make_evidence((10, 10_000), (500, 10_000)),
    );
    assert!(unasked.explanation.ends_with("compared with nothing"), "{}", unasked.explanation);
}

#[test]
fn a_healthy_rollout_is_judged_by_the_detectors_alone() {
    let gate = error_gate(Some(0.01), Some(0.005));
    let bad = make_evidence((20, 400), (8, 3_600));
    let (quiet, samples, mut memory) =
        (RolloutEvidence::default(), BTreeMap::new(), GateMemory::default());
    let mut healthy = |news| {
        evaluate_gate(
            &gate,
            USUAL_MIN_SAMPLES,
            &mut memory,
            &Evaluation { is_healthy: true, ..make_evaluation(&bad, news, &samples) },
        )
    };
    assert_eq!(healthy(&quiet).verdict, Verdict::Inconclusive, "no news");
    let report = (0..20).map(|_| healthy(&bad)).find(|report| report.verdict == Verdict::Fail);
    assert!(report.expect("it fails").explanation.contains("lately more than"));
}

#[test]
fn failures_that_come_after_a_lowering_are_held_against_the_weight_of_their_requests() {
    let gate = error_gate(None, Some(0.005));
    let now = make_evidence((0, 300), (27, 2_700));
    let news = RolloutEvidence { accepted_tasks: 0, ..make_evidence((15, 15), (0, 0)) };
    let samples = BTreeMap::new();
    let broken = |late: &[LateEvidence], now: &RolloutEvidence| {
        let look = Evaluation { late_evidence: late, ..make_evaluation(now, now, &samples) };
        evaluate_gate(&gate, USUAL_MIN_SAMPLES, &mut GateMemory::default(), &look).verdict
            == Verdict::Fail
    };
    // half of the requests were async then, a tenth is now
    let late = LateEvidence {
        new_evidence: news,
        total_evidence: make_evidence((15, 1_500), (15, 1_500)),
    };
    assert!(!broken(&[late], &now));
    assert!(
        broken(
            &[],
            &RolloutEvidence { accepted_tasks: 300, ..make_evidence((15, 300), (27, 2_700)) }
        ),
        "of a tenth they are many"
    );
    let late =
        LateEvidence { new_evidence: news, total_evidence: make_evidence((15, 167), (15, 1_500)) };
    assert!(broken(&[late], &now), "and so they were if it was a tenth then");
}

#[test]
fn a_client_that_fails_again_and_again_is_one_failure_of_a_look() {
    let gate = error_gate(None, Some(0.005));
    let failing = |clients: usize, each: u64| {
        let failed = clients as u64 * each;
        let mut now = make_evidence((failed, 3_000), (30, 27_000));
        now.async_counts.failed_by_group[..clients].fill(each);
        evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &now).verdict == Verdict::Fail
    };
    assert!(!failing(1, 300) && !failing(3, 100));
    assert!(failing(30, 10));
    assert!(
        evaluate_fresh(&gate, USUAL_MIN_SAMPLES, &make_evidence((300, 3_000), (30, 27_000)))
            .verdict
            == Verdict::Fail,
        "nothing tells them apart"
    );

    // the same client in every epoch
    let mut now = make_evidence((12, 3_000), (30, 27_000));
    now.async_counts.failed_by_group[3] = 12;
    let (samples, late) =
        (BTreeMap::new(), vec![LateEvidence { new_evidence: now, total_evidence: now }; 20]);
    let look = Evaluation { late_evidence: &late, ..make_evaluation(&now, &now, &samples) };
    assert_ne!(
        evaluate_gate(&gate, USUAL_MIN_SAMPLES, &mut GateMemory::default(), &look).verdict,
        Verdict::Fail
    );
}

/// Whether a healthy canary that looks like this again and again is turned back.
fn fails_within_looks(gate: &GateConfig, now: &RolloutEvidence, late: &[LateEvidence]) -> bool {
    let (mut memory, mut whole, samples) =
        (GateMemory::default(), RolloutEvidence::default(), BTreeMap::new());
    (0..40).any(|_| {
        whole.add(now);
        let look = Evaluation { late_evidence: late, ..make_evaluation(&whole, now, &samples) };
        evaluate_gate(gate, USUAL_MIN_SAMPLES, &mut memory, &look).verdict == Verdict::Fail
    })
}

#[test]
fn a_few_clients_with_most_of_the_requests_or_of_the_failures_turn_nothing_back() {
    let gate = error_gate(None, Some(0.005));
    // a client that stays on the sync path makes most of all requests
    let mut now = make_evidence((1, 50), (39, 1_950));
    (
        now.async_counts.failed_by_group[1],
        now.sync_counts.failed_by_group[2],
        now.sync_counts.failed_by_group[3],
    ) = (1, 38, 1);
    assert!(!fails_within_looks(&gate, &now, &[]));
    // all groups have failures on one path, and only some on the other
    let mut now = make_evidence((400, 18_000), (44, 2_000));
    now.async_counts.failed_by_group.fill(12);
    now.sync_counts.failed_by_group[..22].fill(2);
    assert!(!fails_within_looks(&gate, &now, &[]));
    // and a sick one is seen there as well as ever
    let mut now = make_evidence((60, 2_000), (180, 18_000));
    now.sync_counts.failed_by_group.fill(5);
    now.async_counts.failed_by_group[..20].fill(3);
    assert!(fails_within_looks(&gate, &now, &[]));
}

#[test]
fn failures_that_come_after_a_raise_meet_few_of_the_sync_path_and_turn_nothing_back() {
    // 50 %, then 95 %; 1 % of 2,000 requests a look fail on both paths, and tasks take several
    // looks
    let late = |failed| {
        let news = RolloutEvidence { accepted_tasks: 0, ..make_evidence((failed, 1_000), (0, 0)) };
        [LateEvidence {
            new_evidence: news,
            total_evidence: make_evidence((1_000, 100_000), (1_000, 100_000)),
        }]
    };
    let now = RolloutEvidence { accepted_tasks: 1_900, ..make_evidence((0, 0), (1, 100)) };
    assert!(!fails_within_looks(&error_gate(None, Some(0.005)), &now, &late(10)));
    assert!(
        fails_within_looks(&error_gate(None, Some(0.005)), &now, &late(80)),
        "eight times as many"
    );
}

#[test]
fn guardrails_read_the_queue_and_what_is_not_known_is_an_error() {
    let old = named_gate("lag", GateKind::QueueOldest { max: Duration::from_secs(30) });
    let deep = named_gate("pending", GateKind::QueueDepth { max: 1_000 });
    let (seen, samples) = (make_evidence((0, 1_000), (0, 0)), BTreeMap::new());
    let read = |gate: &GateConfig, queue_depth, oldest: Option<u64>| {
        let queue_oldest = oldest.map(Duration::from_secs);
        let look =
            Evaluation { queue_depth, queue_oldest, ..make_evaluation(&seen, &seen, &samples) };
        evaluate_gate(gate, USUAL_MIN_SAMPLES, &mut GateMemory::default(), &look)
    };
    assert_eq!(
        read(&old, Some(3), Some(31)).explanation,
        "lag: the oldest waiting task is 31 s old > 30 s"
    );
    let verdicts = [
        (read(&old, Some(3), Some(31)), Verdict::Fail),
        (read(&old, Some(3), Some(30)), Verdict::Pass),
        (read(&old, Some(0), None), Verdict::Pass),
        (read(&old, Some(3), None), Verdict::Error),
        (read(&old, None, None), Verdict::Error),
        (read(&deep, Some(1_001), None), Verdict::Fail),
        (read(&deep, Some(1_000), None), Verdict::Pass),
        (read(&deep, None, None), Verdict::Error),
    ];
    for (report, verdict) in verdicts {
        assert_eq!(report.verdict, verdict, "{}", report.explanation);
    }
}

#[test]
fn no_data_of_a_query_is_neither_pass_nor_fail() {
    let seen = make_evidence((0, 1_000), (0, 0));
    let asked = |sample: Option<PrometheusSample>, on_empty| {
        let (min, max) = (Some(1.0), Some(30.0));
        let gate = named_gate(
            "lag",
            GateKind::PrometheusQuery { query: "lag".into(), min, max, on_empty_result: on_empty },
        );
        let samples = sample.map(|sample| ("lag".to_owned(), sample)).into_iter().collect();
        evaluate_gate(
            &gate,
            USUAL_MIN_SAMPLES,
            &mut GateMemory::default(),
            &make_evaluation(&seen, &seen, &samples),
        )
    };
    let holds = EmptyResultPolicy::Inconclusive;
    assert_eq!(asked(Some(PrometheusSample::Value(31.5)), holds).explanation, "lag: 31.5 > 30");
    assert_eq!(asked(Some(PrometheusSample::Value(2.5)), holds).explanation, "lag: 1 ≤ 2.5 ≤ 30");
    let verdicts = [
        (Some(PrometheusSample::Value(31.5)), holds, Verdict::Fail),
        (Some(PrometheusSample::Value(0.5)), holds, Verdict::Fail),
        (Some(PrometheusSample::Value(30.0)), holds, Verdict::Pass),
        (Some(PrometheusSample::Value(f64::NAN)), holds, Verdict::Inconclusive),
        (Some(PrometheusSample::NotANumber), EmptyResultPolicy::Pass, Verdict::Inconclusive),
        (Some(PrometheusSample::Empty), holds, Verdict::Inconclusive),
        (Some(PrometheusSample::Empty), EmptyResultPolicy::Pass, Verdict::Pass),
        (
            Some(PrometheusSample::Unavailable("connection refused".into())),
            EmptyResultPolicy::Pass,
            Verdict::Error,
        ),
        (None, EmptyResultPolicy::Pass, Verdict::Error),
    ];
    for (sample, on_empty, verdict) in verdicts {
        assert_eq!(asked(sample.clone(), on_empty).verdict, verdict, "{sample:?}");
    }
}

#[test]
fn the_breaker_counts_what_is_out_as_well() {
    let breaker =
        BreakerConfig { window: Duration::from_secs(30), min_requests: 20, max_error_ratio: 0.5 };
    let window = |failed, total, accepted| RolloutEvidence {
        accepted_tasks: accepted,
        ..make_evidence((failed, total), (0, 0))
    };
    assert!(trips_breaker(&breaker, &window(10, 20, 20)));
    assert!(!trips_breaker(&breaker, &window(9, 20, 20)));
    assert!(!trips_breaker(&breaker, &window(19, 19, 19)), "too few");
    assert!(
        !trips_breaker(&breaker, &window(20, 20, 1_000)),
        "20 failed at once, 980 are under way"
    );
    assert!(trips_breaker(&breaker, &window(20, 20, 0)), "late failures of earlier requests");
    let refused = RolloutEvidence { refused_requests: 30, ..window(30, 30, 0) };
    assert!(trips_breaker(&breaker, &refused));
}

fn arb_gate() -> impl Strategy<Value = GateConfig> {
    let limits = (prop::option::of(0.0005f64..0.2), prop::option::of(0.0005f64..0.1));
    (0usize..5, limits).prop_map(|(kind, (max, margin))| {
        let limits = RatioLimits {
            max: max.or(margin.is_none().then_some(0.01)),
            margin,
            ..RatioLimits::default()
        };
        let threshold = Duration::from_secs(2);
        named_gate(
            "gate",
            match kind {
                0 => GateKind::ErrorRatio(limits),
                1 => GateKind::ClientErrorRatio(limits),
                2 => GateKind::DeferredRatio(limits),
                3 => GateKind::SlowRatio { threshold, measure: LatencyMeasure::EndToEnd, limits },
                _ => GateKind::SlowRatio {
                    threshold,
                    measure: LatencyMeasure::Acknowledgement,
                    limits,
                },
            },
        )
    })
}

prop_compose! {
    fn any_evidence()(
        accepted in 0u64..3_000, ended in 0.0f64..=1.0, failed in 0.0f64..=1.0, rejected in 0.0f64..=1.0,
        slow in 0.0f64..=1.0, rare in prop::bool::ANY, sync in (0u64..30_000, 0.0f64..0.2),
    ) -> RolloutEvidence {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let part = |of: u64, share: f64| (of as f64 * if rare { share * share * share * share } else { share }) as u64;
        let total = if rare { accepted } else { part(accepted, ended) };
        let failed = part(total, failed);
        let mut evidence = RolloutEvidence { accepted_tasks: accepted, ..make_evidence((failed, total), (part(sync.0, sync.1), sync.0)) };
        evidence.async_counts.client_errors = part(total - failed, rejected);
        evidence.deferred_requests = part(accepted, slow);
        (evidence.async_counts.durations[0], evidence.async_counts.durations[DURATION_BUCKET_COUNT - 1]) = (total - part(total, slow), part(total, slow));
        evidence.acknowledgement_times = evidence.async_counts.durations;
        evidence.sync_counts.durations[0] = sync.0;
        evidence
    }
}

/// The same requests, one more of which was bad in every way.
fn with_one_more_failure(evidence: &RolloutEvidence) -> Option<RolloutEvidence> {
    let mut worse = *evidence;
    let counts = &mut worse.async_counts;
    if counts.failed + counts.client_errors >= counts.total
        || counts.durations[0] == 0
        || worse.deferred_requests >= worse.accepted_tasks
    {
        return None;
    }
    counts.failed += 1;
    for took in [&mut counts.durations, &mut worse.acknowledgement_times] {
        took[0] -= 1;
        took[DURATION_BUCKET_COUNT - 1] += 1;
    }
    worse.deferred_requests += 1;
    Some(worse)
}

proptest! {
    #[test]
    fn it_never_passes_below_min_samples_or_before_the_cohort_is_mature(
        gate in arb_gate(), seen in any_evidence(), asynchronous in 0u64..3_000, mature in prop::bool::ANY,
    ) {
        let (min, samples) = (MinSamples { async_requests: asynchronous, sync_requests: 0 }, BTreeMap::new());
        let look = Evaluation { is_mature: mature, ..make_evaluation(&seen, &seen, &samples) };
        let report = evaluate_gate(&gate, min, &mut GateMemory::default(), &look);
        if report.verdict == Verdict::Pass {
            prop_assert!(mature, "{}", report.explanation);
            prop_assert!(report.async_bad_of_total.is_some_and(|(_, of)| of >= asynchronous), "{}", report.explanation);
        }
    }

    #[test]
    fn more_failures_never_turn_fail_into_anything_better_nor_doubt_into_pass(
        gate in arb_gate(), seen in any_evidence(), scores in prop::array::uniform3(-50.0f64..20.0),
    ) {
        let memory = GateMemory { scores_from_start: scores, restarting_scores: scores, ceiling_scores: scores };
        let samples = BTreeMap::new();
        let verdict = |seen: &RolloutEvidence| evaluate_gate(&gate, SMALL_MIN_SAMPLES, &mut memory.clone(), &make_evaluation(seen, seen, &samples)).verdict;
        let Some(worse) = with_one_more_failure(&seen) else { return Ok(()) };
        let (before, after) = (verdict(&seen), verdict(&worse));
        prop_assert!(before == Verdict::Pass || after != Verdict::Pass, "{before:?}, then {after:?}");
        prop_assert!(before != Verdict::Fail || after == Verdict::Fail, "{before:?}, then {after:?}");
    }

    #[test]
    fn what_it_needs_is_what_it_takes(gate in arb_gate(), seen in any_evidence()) {
        let min = MinSamples { async_requests: 100, sync_requests: u64::from(seen.sync_counts.total > 0) };
        let report = evaluate_fresh(&gate, min, &seen);
        let Some(needs) = report.needed_outcomes.filter(|needs| *needs > 0) else { return Ok(()) };
        let more = |count: u64| {
            let mut more = seen;
            (more.accepted_tasks, more.async_counts.total) = (more.accepted_tasks + count, more.async_counts.total + count);
            for took in [&mut more.async_counts.durations, &mut more.acknowledgement_times] {
                took[0] += count;
            }
            evaluate_fresh(&gate, min, &more)
        };
        prop_assert_ne!(more(needs).verdict, Verdict::Inconclusive, "{}", report.explanation);
        prop_assert_ne!(more(needs - 1).verdict, Verdict::Pass, "{}", report.explanation);
    }
}
