use proptest::prelude::*;

use super::*;
use crate::config::{Latency, Limits};
use crate::task::{BUCKETS, bucket};

const MIN: MinSamples = MinSamples { asynchronous: 300, sync: 300 };
const FEW: MinSamples = MinSamples { asynchronous: 100, sync: 0 };

fn errors(max: Option<f64>, margin: Option<f64>) -> Gate {
    named("errors", GateKind::ErrorRatio(Limits { max, margin, ..Limits::default() }))
}

fn named(name: &str, kind: GateKind) -> Gate {
    Gate { name: name.into(), kind }
}

/// `failed` of `total` ended, of as many as came in, or of `accepted`.
fn evidence((failed, total): (u64, u64), (sync_failed, sync): (u64, u64)) -> Evidence {
    let mut evidence = Evidence { accepted: total, ..Evidence::default() };
    (evidence.asynchronous.failed, evidence.asynchronous.total) = (failed, total);
    (evidence.sync.failed, evidence.sync.total) = (sync_failed, sync);
    evidence
}

fn look<'a>(evidence: &'a Evidence, news: &'a Evidence, samples: &'a BTreeMap<String, Sample>) -> Look<'a> {
    let (baseline, queue_depth, queue_oldest) = (None, None, None);
    let (mature, healthy, full) = (true, false, false);
    Look { evidence, news, late: &[], baseline, mature, healthy, full, samples, queue_depth, queue_oldest }
}

/// A first look at evidence that came all at once.
fn first(gate: &Gate, min: MinSamples, evidence: &Evidence) -> Report {
    judge(gate, min, &mut Memory::default(), &look(evidence, evidence, &BTreeMap::new()))
}

#[test]
fn it_says_what_it_waits_for() {
    let gate = errors(Some(0.01), None);
    let waits = first(&gate, FEW, &evidence((0, 143), (0, 0)));
    assert_eq!(waits.why, "errors: 0 of 143 async failed, upper bound 2.4 % > 1 %, needs 204 more");
    assert_eq!((waits.verdict, waits.needs), (Verdict::Inconclusive, Some(204)));
    let enough = first(&gate, FEW, &evidence((0, 143 + 204), (0, 0)));
    assert_eq!(enough.why, "errors: 0 of 347 async failed, upper bound 0.9998 % ≤ 1 %");
    assert_eq!(enough.verdict, Verdict::Pass);
    assert_eq!(first(&gate, FEW, &evidence((0, 346), (0, 0))).needs, Some(1));

    let patient = MinSamples { asynchronous: 500, sync: 0 };
    let waits = first(&gate, patient, &evidence((0, 400), (0, 0)));
    assert_eq!(waits.why, "errors: 0 of 400 async failed, upper bound 0.87 % ≤ 1 %, min_samples 500, needs 100 more");

    let compares = errors(None, Some(0.005));
    let waits = first(&compares, MIN, &evidence((0, 1_000), (0, 120)));
    assert_eq!(
        waits.why,
        "errors: 0 of 1,000 async failed, 0 of 120 sync, upper bound of the difference 0.35 % ≤ 0.5 %, 120 of 300 sync \
         requests"
    );
}

#[test]
fn copies_are_judged_by_themselves_and_at_100_percent_there_are_none() {
    let gate = named("shadow_mismatch", GateKind::ShadowMismatch(Limits { max: Some(0.01), ..Limits::default() }));
    let copies = |copied, compared, mismatched| Evidence { copied, compared, mismatched, ..evidence((0, 9), (0, 9)) };
    let waits = first(&gate, MIN, &copies(150, 143, 0));
    assert_eq!(
        waits.why,
        "shadow_mismatch: 0 of 143 copies were answered otherwise, upper bound 2.4 % > 1 %, needs 204 more"
    );
    assert_eq!((waits.verdict, waits.needs), (Verdict::Inconclusive, None), "204 copies, not canaried requests");
    assert_eq!(first(&gate, MIN, &copies(347, 347, 0)).verdict, Verdict::Pass, "whatever min_samples says");
    let fails = first(&gate, MIN, &copies(400, 400, 31));
    assert_eq!(fails.why, "shadow_mismatch: 31 of 400 copies were answered otherwise, lower bound 4 % > 1 %");
    assert_eq!(first(&gate, MIN, &copies(8, 8, 8)).verdict, Verdict::Fail);
    assert_eq!(first(&gate, MIN, &copies(1_000, 8, 8)).verdict, Verdict::Inconclusive, "992 may be the same");

    let at_full = |seen: &Evidence| {
        let samples = BTreeMap::new();
        judge(&gate, MIN, &mut Memory::default(), &Look { full: true, ..look(seen, seen, &samples) })
    };
    let none = at_full(&copies(0, 0, 0));
    assert_eq!(none.verdict, Verdict::Pass);
    assert_eq!(none.why, "shadow_mismatch: 0 of 0 copies were answered otherwise, nothing to shadow at 100 %");
    assert_eq!(at_full(&copies(400, 400, 31)).verdict, Verdict::Fail, "clients that are kept out have copies too");
}

#[test]
fn it_says_what_it_failed_by() {
    let over = first(&errors(Some(0.01), None), MIN, &evidence((31, 400), (0, 0)));
    assert_eq!(over.verdict, Verdict::Fail);
    assert_eq!(over.why, "errors: 31 of 400 async failed, lower bound 4 % > 1 %");
    let beside = first(&errors(None, Some(0.005)), MIN, &evidence((20, 400), (8, 3_600)));
    assert_eq!(beside.verdict, Verdict::Fail);
    assert_eq!(
        beside.why,
        "errors: 20 of 400 async failed, 8 of 3,600 sync, more than 1.25 times the sync path's share"
    );
}

#[test]
fn failures_that_come_first_are_held_against_all_that_came_in() {
    let gate = errors(Some(0.01), None);
    let mut early = evidence((8, 8), (0, 0));
    early.accepted = 1_000;
    let report = first(&gate, MIN, &early);
    assert_eq!(report.verdict, Verdict::Inconclusive, "8 of 1,000, not 8 of 8: {}", report.why);
    early.accepted = 8;
    assert_eq!(first(&gate, MIN, &early).verdict, Verdict::Fail, "8 of 8");
    early.accepted = 1_000;
    early.cancelled = 992;
    assert_eq!(first(&gate, MIN, &early).verdict, Verdict::Fail, "nothing more is to come of the cancelled");
}

#[test]
fn refusals_are_failures_and_4xx_are_no_part_of_the_error_ratio() {
    let gate = errors(Some(0.01), None);
    let mut refused = evidence((40, 40), (0, 0));
    (refused.accepted, refused.refused) = (0, 40);
    assert_eq!(first(&gate, MIN, &refused).verdict, Verdict::Fail);

    let mut rejected = evidence((5, 1_000), (0, 1_000));
    rejected.asynchronous.client_errors = 995;
    let report = first(&gate, MIN, &rejected);
    assert_eq!((report.asynchronous, report.verdict), (Some((5, 5)), Verdict::Fail));

    let clients =
        named("client_errors", GateKind::ClientErrorRatio(Limits { margin: Some(0.02), ..Limits::default() }));
    let report = first(&clients, MIN, &rejected);
    assert_eq!(report.verdict, Verdict::Fail, "a canary that turns everybody away: {}", report.why);
    assert!(report.why.starts_with("client_errors: 995 of 1,000 async got a 4xx, 0 of 1,000 sync"), "{}", report.why);
}

#[test]
fn the_deferred_are_counted_among_the_accepted_and_compared_with_nobody() {
    let gate =
        |margin| named("deferred", GateKind::DeferredRatio(Limits { max: Some(0.01), margin, ..Limits::default() }));
    let mut deferring = evidence((0, 1_000), (0, 9_000));
    assert_eq!(first(&gate(None), MIN, &deferring).verdict, Verdict::Pass);
    assert_eq!(first(&gate(Some(0.001)), MIN, &deferring).verdict, Verdict::Inconclusive, "a margin is a limit");
    deferring.deferred = 40;
    let report = first(&gate(Some(0.02)), MIN, &deferring);
    assert_eq!((report.verdict, report.sync), (Verdict::Fail, None));
    assert!(report.why.starts_with("deferred: 40 of 1,000 async were deferred, lower bound "), "{}", report.why);
}

#[test]
fn slow_is_over_the_bound_end_to_end_or_to_the_acknowledgement() {
    let gate = |of| {
        let limits = Limits { max: Some(0.05), margin: Some(0.01), ..Limits::default() };
        named("slow", GateKind::SlowRatio { threshold: Duration::from_secs(2), of, limits })
    };
    let at = |seconds: f64| bucket(Duration::from_secs_f64(seconds));
    let mut seen = evidence((0, 10_000), (0, 10_000));
    seen.asynchronous.took[at(2.0)] = 9_000;
    seen.asynchronous.took[at(2.1)] = 1_000;
    seen.sync.took[at(2.0)] = 10_000;
    seen.acknowledged[at(2.0)] = 10_000;
    let end = first(&gate(Latency::EndToEnd), MIN, &seen);
    assert_eq!((end.asynchronous, end.verdict), (Some((1_000, 10_000)), Verdict::Fail));
    assert!(end.why.starts_with("slow: 1,000 of 10,000 async took over 2 s, 0 of 10,000 sync, "), "{}", end.why);
    let acknowledged = first(&gate(Latency::Acknowledgement), MIN, &seen);
    assert_eq!((acknowledged.asynchronous, acknowledged.verdict), (Some((0, 10_000)), Verdict::Pass));
}

#[test]
fn a_frozen_baseline_is_compared_with_and_bounds_what_fails() {
    let gate = errors(None, Some(0.005));
    let full = evidence((10, 10_000), (0, 0));
    let samples = BTreeMap::new();
    let compared_with = |evidence: &Evidence, baseline: &Counts| {
        let look = Look { baseline: Some(baseline), ..look(evidence, evidence, &samples) };
        judge(&gate, MinSamples { sync: 0, ..MIN }, &mut Memory::default(), &look)
    };
    let before = Counts { total: 20_000, failed: 20, ..Counts::default() };
    let report = compared_with(&full, &before);
    assert_eq!(report.verdict, Verdict::Pass, "{}", report.why);
    assert!(report.why.contains("20 of 20,000 sync before"), "{}", report.why);
    assert_eq!(compared_with(&evidence((300, 10_000), (0, 0)), &before).verdict, Verdict::Fail);

    let alone = compared_with(&full, &Counts::default());
    assert_eq!((alone.verdict, alone.sync), (Verdict::Pass, None));
    assert!(alone.why.ends_with("compared with nothing"), "{}", alone.why);
    let unasked = first(&gate, MinSamples { sync: 0, ..MIN }, &evidence((10, 10_000), (500, 10_000)));
    assert!(unasked.why.ends_with("compared with nothing"), "{}", unasked.why);
}

#[test]
fn a_healthy_rollout_is_judged_by_the_detectors_alone() {
    let gate = errors(Some(0.01), Some(0.005));
    let bad = evidence((20, 400), (8, 3_600));
    let (quiet, samples, mut memory) = (Evidence::default(), BTreeMap::new(), Memory::default());
    let mut healthy = |news| judge(&gate, MIN, &mut memory, &Look { healthy: true, ..look(&bad, news, &samples) });
    assert_eq!(healthy(&quiet).verdict, Verdict::Inconclusive, "no news");
    let report = (0..20).map(|_| healthy(&bad)).find(|report| report.verdict == Verdict::Fail);
    assert!(report.expect("it fails").why.contains("lately more than"));
}

#[test]
fn failures_that_come_after_a_lowering_are_held_against_the_weight_of_their_requests() {
    let gate = errors(None, Some(0.005));
    let now = evidence((0, 300), (27, 2_700));
    let news = Evidence { accepted: 0, ..evidence((15, 15), (0, 0)) };
    let samples = BTreeMap::new();
    let broken = |late: &[Late], now: &Evidence| {
        let look = Look { late, ..look(now, now, &samples) };
        judge(&gate, MIN, &mut Memory::default(), &look).verdict == Verdict::Fail
    };
    // half of the requests were async then, a tenth is now
    let late = Late { news, whole: evidence((15, 1_500), (15, 1_500)) };
    assert!(!broken(&[late], &now));
    assert!(broken(&[], &Evidence { accepted: 300, ..evidence((15, 300), (27, 2_700)) }), "of a tenth they are many");
    let late = Late { news, whole: evidence((15, 167), (15, 1_500)) };
    assert!(broken(&[late], &now), "and so they were if it was a tenth then");
}

#[test]
fn a_client_that_fails_again_and_again_is_one_failure_of_a_look() {
    let gate = errors(None, Some(0.005));
    let failing = |clients: usize, each: u64| {
        let failed = clients as u64 * each;
        let mut now = evidence((failed, 3_000), (30, 27_000));
        now.asynchronous.failed_by[..clients].fill(each);
        first(&gate, MIN, &now).verdict == Verdict::Fail
    };
    assert!(!failing(1, 300) && !failing(3, 100));
    assert!(failing(30, 10));
    assert!(
        first(&gate, MIN, &evidence((300, 3_000), (30, 27_000))).verdict == Verdict::Fail,
        "nothing tells them apart"
    );

    // the same client in every epoch
    let mut now = evidence((12, 3_000), (30, 27_000));
    now.asynchronous.failed_by[3] = 12;
    let (samples, late) = (BTreeMap::new(), vec![Late { news: now, whole: now }; 20]);
    let look = Look { late: &late, ..look(&now, &now, &samples) };
    assert_ne!(judge(&gate, MIN, &mut Memory::default(), &look).verdict, Verdict::Fail);
}

/// Whether a healthy canary that looks like this again and again is turned back.
fn turned_back(gate: &Gate, now: &Evidence, late: &[Late]) -> bool {
    let (mut memory, mut whole, samples) = (Memory::default(), Evidence::default(), BTreeMap::new());
    (0..40).any(|_| {
        whole.add(now);
        let look = Look { late, ..look(&whole, now, &samples) };
        judge(gate, MIN, &mut memory, &look).verdict == Verdict::Fail
    })
}

#[test]
fn a_few_clients_with_most_of_the_requests_or_of_the_failures_turn_nothing_back() {
    let gate = errors(None, Some(0.005));
    // a client that stays on the sync path makes most of all requests
    let mut now = evidence((1, 50), (39, 1_950));
    (now.asynchronous.failed_by[1], now.sync.failed_by[2], now.sync.failed_by[3]) = (1, 38, 1);
    assert!(!turned_back(&gate, &now, &[]));
    // all groups have failures on one path, and only some on the other
    let mut now = evidence((400, 18_000), (44, 2_000));
    now.asynchronous.failed_by.fill(12);
    now.sync.failed_by[..22].fill(2);
    assert!(!turned_back(&gate, &now, &[]));
    // and a sick one is seen there as well as ever
    let mut now = evidence((60, 2_000), (180, 18_000));
    now.sync.failed_by.fill(5);
    now.asynchronous.failed_by[..20].fill(3);
    assert!(turned_back(&gate, &now, &[]));
}

#[test]
fn failures_that_come_after_a_raise_meet_few_of_the_sync_path_and_turn_nothing_back() {
    // 50 %, then 95 %; 1 % of 2,000 requests a look fail on both paths, and tasks take several looks
    let late = |failed| {
        let news = Evidence { accepted: 0, ..evidence((failed, 1_000), (0, 0)) };
        [Late { news, whole: evidence((1_000, 100_000), (1_000, 100_000)) }]
    };
    let now = Evidence { accepted: 1_900, ..evidence((0, 0), (1, 100)) };
    assert!(!turned_back(&errors(None, Some(0.005)), &now, &late(10)));
    assert!(turned_back(&errors(None, Some(0.005)), &now, &late(80)), "eight times as many");
}

#[test]
fn guardrails_read_the_queue_and_what_is_not_known_is_an_error() {
    let old = named("lag", GateKind::QueueOldest { max: Duration::from_secs(30) });
    let deep = named("pending", GateKind::QueueDepth { max: 1_000 });
    let (seen, samples) = (evidence((0, 1_000), (0, 0)), BTreeMap::new());
    let read = |gate: &Gate, queue_depth, oldest: Option<u64>| {
        let queue_oldest = oldest.map(Duration::from_secs);
        let look = Look { queue_depth, queue_oldest, ..look(&seen, &seen, &samples) };
        judge(gate, MIN, &mut Memory::default(), &look)
    };
    assert_eq!(read(&old, Some(3), Some(31)).why, "lag: the oldest waiting task is 31 s old > 30 s");
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
        assert_eq!(report.verdict, verdict, "{}", report.why);
    }
}

#[test]
fn no_data_of_a_query_is_neither_pass_nor_fail() {
    let seen = evidence((0, 1_000), (0, 0));
    let asked = |sample: Option<Sample>, on_empty| {
        let (min, max) = (Some(1.0), Some(30.0));
        let gate = named("lag", GateKind::Prometheus { query: "lag".into(), min, max, on_empty });
        let samples = sample.map(|sample| ("lag".to_owned(), sample)).into_iter().collect();
        judge(&gate, MIN, &mut Memory::default(), &look(&seen, &seen, &samples))
    };
    let holds = OnEmpty::Inconclusive;
    assert_eq!(asked(Some(Sample::Value(31.5)), holds).why, "lag: 31.5 > 30");
    assert_eq!(asked(Some(Sample::Value(2.5)), holds).why, "lag: 1 ≤ 2.5 ≤ 30");
    let verdicts = [
        (Some(Sample::Value(31.5)), holds, Verdict::Fail),
        (Some(Sample::Value(0.5)), holds, Verdict::Fail),
        (Some(Sample::Value(30.0)), holds, Verdict::Pass),
        (Some(Sample::Value(f64::NAN)), holds, Verdict::Inconclusive),
        (Some(Sample::NotANumber), OnEmpty::Pass, Verdict::Inconclusive),
        (Some(Sample::Empty), holds, Verdict::Inconclusive),
        (Some(Sample::Empty), OnEmpty::Pass, Verdict::Pass),
        (Some(Sample::Unavailable("connection refused".into())), OnEmpty::Pass, Verdict::Error),
        (None, OnEmpty::Pass, Verdict::Error),
    ];
    for (sample, on_empty, verdict) in verdicts {
        assert_eq!(asked(sample.clone(), on_empty).verdict, verdict, "{sample:?}");
    }
}

#[test]
fn the_breaker_counts_what_is_out_as_well() {
    let breaker = Breaker { window: Duration::from_secs(30), min_requests: 20, max_error_ratio: 0.5 };
    let window = |failed, total, accepted| Evidence { accepted, ..evidence((failed, total), (0, 0)) };
    assert!(breaks(&breaker, &window(10, 20, 20)));
    assert!(!breaks(&breaker, &window(9, 20, 20)));
    assert!(!breaks(&breaker, &window(19, 19, 19)), "too few");
    assert!(!breaks(&breaker, &window(20, 20, 1_000)), "20 failed at once, 980 are under way");
    assert!(breaks(&breaker, &window(20, 20, 0)), "late failures of earlier requests");
    let refused = Evidence { refused: 30, ..window(30, 30, 0) };
    assert!(breaks(&breaker, &refused));
}

fn kinds() -> impl Strategy<Value = Gate> {
    let limits = (prop::option::of(0.0005f64..0.2), prop::option::of(0.0005f64..0.1));
    (0usize..5, limits).prop_map(|(kind, (max, margin))| {
        let limits = Limits { max: max.or(margin.is_none().then_some(0.01)), margin, ..Limits::default() };
        let threshold = Duration::from_secs(2);
        named(
            "gate",
            match kind {
                0 => GateKind::ErrorRatio(limits),
                1 => GateKind::ClientErrorRatio(limits),
                2 => GateKind::DeferredRatio(limits),
                3 => GateKind::SlowRatio { threshold, of: Latency::EndToEnd, limits },
                _ => GateKind::SlowRatio { threshold, of: Latency::Acknowledgement, limits },
            },
        )
    })
}

prop_compose! {
    fn any_evidence()(
        accepted in 0u64..3_000, ended in 0.0f64..=1.0, failed in 0.0f64..=1.0, rejected in 0.0f64..=1.0,
        slow in 0.0f64..=1.0, rare in prop::bool::ANY, sync in (0u64..30_000, 0.0f64..0.2),
    ) -> Evidence {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let part = |of: u64, share: f64| (of as f64 * if rare { share * share * share * share } else { share }) as u64;
        let total = if rare { accepted } else { part(accepted, ended) };
        let failed = part(total, failed);
        let mut evidence = Evidence { accepted, ..evidence((failed, total), (part(sync.0, sync.1), sync.0)) };
        evidence.asynchronous.client_errors = part(total - failed, rejected);
        evidence.deferred = part(accepted, slow);
        (evidence.asynchronous.took[0], evidence.asynchronous.took[BUCKETS - 1]) = (total - part(total, slow), part(total, slow));
        evidence.acknowledged = evidence.asynchronous.took;
        evidence.sync.took[0] = sync.0;
        evidence
    }
}

/// The same requests, one more of which was bad in every way.
fn one_worse(evidence: &Evidence) -> Option<Evidence> {
    let mut worse = *evidence;
    let counts = &mut worse.asynchronous;
    if counts.failed + counts.client_errors >= counts.total || counts.took[0] == 0 || worse.deferred >= worse.accepted {
        return None;
    }
    counts.failed += 1;
    for took in [&mut counts.took, &mut worse.acknowledged] {
        took[0] -= 1;
        took[BUCKETS - 1] += 1;
    }
    worse.deferred += 1;
    Some(worse)
}

proptest! {
    #[test]
    fn it_never_passes_below_min_samples_or_before_the_cohort_is_mature(
        gate in kinds(), seen in any_evidence(), asynchronous in 0u64..3_000, mature in prop::bool::ANY,
    ) {
        let (min, samples) = (MinSamples { asynchronous, sync: 0 }, BTreeMap::new());
        let look = Look { mature, ..look(&seen, &seen, &samples) };
        let report = judge(&gate, min, &mut Memory::default(), &look);
        if report.verdict == Verdict::Pass {
            prop_assert!(mature, "{}", report.why);
            prop_assert!(report.asynchronous.is_some_and(|(_, of)| of >= asynchronous), "{}", report.why);
        }
    }

    #[test]
    fn more_failures_never_turn_fail_into_anything_better_nor_doubt_into_pass(
        gate in kinds(), seen in any_evidence(), scores in prop::array::uniform3(-50.0f64..20.0),
    ) {
        let memory = Memory { since_start: scores, since_worst: scores, over_limit: scores };
        let samples = BTreeMap::new();
        let verdict = |seen: &Evidence| judge(&gate, FEW, &mut memory.clone(), &look(seen, seen, &samples)).verdict;
        let Some(worse) = one_worse(&seen) else { return Ok(()) };
        let (before, after) = (verdict(&seen), verdict(&worse));
        prop_assert!(before == Verdict::Pass || after != Verdict::Pass, "{before:?}, then {after:?}");
        prop_assert!(before != Verdict::Fail || after == Verdict::Fail, "{before:?}, then {after:?}");
    }

    #[test]
    fn what_it_needs_is_what_it_takes(gate in kinds(), seen in any_evidence()) {
        let min = MinSamples { asynchronous: 100, sync: u64::from(seen.sync.total > 0) };
        let report = first(&gate, min, &seen);
        let Some(needs) = report.needs.filter(|needs| *needs > 0) else { return Ok(()) };
        let more = |count: u64| {
            let mut more = seen;
            (more.accepted, more.asynchronous.total) = (more.accepted + count, more.asynchronous.total + count);
            for took in [&mut more.asynchronous.took, &mut more.acknowledged] {
                took[0] += count;
            }
            first(&gate, min, &more)
        };
        prop_assert_ne!(more(needs).verdict, Verdict::Inconclusive, "{}", report.why);
        prop_assert_ne!(more(needs - 1).verdict, Verdict::Pass, "{}", report.why);
    }
}
