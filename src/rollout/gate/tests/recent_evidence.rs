//! Scores of new and late evidence: healthy rollouts, changed weights, and clients that retry.

use std::collections::BTreeMap;

use super::fixture::{
    USUAL_MIN_SAMPLES, error_gate, evaluate_fresh, make_evaluation, make_evidence,
};
use crate::config::GateConfig;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::{Evaluation, GateMemory, LateEvidence, Verdict, evaluate_gate};

#[test]
fn a_healthy_rollout_is_judged_by_restarting_scores_alone() {
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
    assert_eq!(healthy(&quiet).verdict, Verdict::Inconclusive, "no new evidence");
    let report = (0..20).map(|_| healthy(&bad)).find(|report| report.verdict == Verdict::Fail);
    assert!(report.expect("it fails").explanation.contains("recently more than"));
}

#[test]
fn late_failures_after_a_lowering_are_compared_at_the_weight_of_their_requests() {
    let gate = error_gate(None, Some(0.005));
    let now = make_evidence((0, 300), (27, 2_700));
    let news = RolloutEvidence { accepted_tasks: 0, ..make_evidence((15, 15), (0, 0)) };
    let samples = BTreeMap::new();
    let broken = |late: &[LateEvidence], now: &RolloutEvidence| {
        let evaluation = Evaluation { late_evidence: late, ..make_evaluation(now, now, &samples) };
        evaluate_gate(&gate, USUAL_MIN_SAMPLES, &mut GateMemory::default(), &evaluation).verdict
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
fn a_client_that_fails_repeatedly_is_one_failure_per_evaluation() {
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
    let evaluation = Evaluation { late_evidence: &late, ..make_evaluation(&now, &now, &samples) };
    assert_ne!(
        evaluate_gate(&gate, USUAL_MIN_SAMPLES, &mut GateMemory::default(), &evaluation).verdict,
        Verdict::Fail
    );
}

/// Whether the gate fails within 40 evaluations that each bring `now`.
fn fails_within_evaluations(
    gate: &GateConfig,
    now: &RolloutEvidence,
    late: &[LateEvidence],
) -> bool {
    let (mut memory, mut whole, samples) =
        (GateMemory::default(), RolloutEvidence::default(), BTreeMap::new());
    (0..40).any(|_| {
        whole.add(now);
        let evaluation =
            Evaluation { late_evidence: late, ..make_evaluation(&whole, now, &samples) };
        evaluate_gate(gate, USUAL_MIN_SAMPLES, &mut memory, &evaluation).verdict == Verdict::Fail
    })
}

#[test]
fn a_few_clients_with_most_requests_or_failures_roll_nothing_back() {
    let gate = error_gate(None, Some(0.005));
    // a client that stays on the sync path makes most of the requests
    let mut now = make_evidence((1, 50), (39, 1_950));
    (
        now.async_counts.failed_by_group[1],
        now.sync_counts.failed_by_group[2],
        now.sync_counts.failed_by_group[3],
    ) = (1, 38, 1);
    assert!(!fails_within_evaluations(&gate, &now, &[]));
    // all groups have failures on one path, and only some on the other
    let mut now = make_evidence((400, 18_000), (44, 2_000));
    now.async_counts.failed_by_group.fill(12);
    now.sync_counts.failed_by_group[..22].fill(2);
    assert!(!fails_within_evaluations(&gate, &now, &[]));
    // a failing canary is detected there as well
    let mut now = make_evidence((60, 2_000), (180, 18_000));
    now.sync_counts.failed_by_group.fill(5);
    now.async_counts.failed_by_group[..20].fill(3);
    assert!(fails_within_evaluations(&gate, &now, &[]));
}

#[test]
fn late_failures_after_a_raise_meet_few_sync_failures_and_roll_nothing_back() {
    // 50 %, then 95 %; 1 % of 2,000 requests per evaluation fail on both paths, and tasks end
    // several evaluations later
    let late = |failed| {
        let news = RolloutEvidence { accepted_tasks: 0, ..make_evidence((failed, 1_000), (0, 0)) };
        [LateEvidence {
            new_evidence: news,
            total_evidence: make_evidence((1_000, 100_000), (1_000, 100_000)),
        }]
    };
    let now = RolloutEvidence { accepted_tasks: 1_900, ..make_evidence((0, 0), (1, 100)) };
    assert!(!fails_within_evaluations(&error_gate(None, Some(0.005)), &now, &late(10)));
    assert!(
        fails_within_evaluations(&error_gate(None, Some(0.005)), &now, &late(80)),
        "eight times as many"
    );
}
