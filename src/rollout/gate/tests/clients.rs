//! Whose failures they are: one client alone fails no gate and trips no breaker.

use std::collections::BTreeMap;

use super::fixture::{
    USUAL_MIN_SAMPLES, error_gate, evaluate_fresh, make_evaluation, make_evidence,
};
use crate::cohort_hash::{CLIENT_GROUPS, Weight};
use crate::config::{BreakerConfig, RolloutConfig, RolloutMode};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::{
    Evaluation, GateMemory, LateEvidence, Verdict, evaluate_gate, trips_breaker,
};

fn default_breaker() -> BreakerConfig {
    RolloutConfig::new("invoke", Weight::FULL, RolloutMode::Gated).breaker
}

/// Async requests by group of clients, each with its failures, and 900 sync requests of many
/// clients, of which 9 failed.
fn evidence_of_clients(requests_and_failures: &[(u64, u64)]) -> RolloutEvidence {
    let (requests, failures) = requests_and_failures
        .iter()
        .fold((0, 0), |(requests, failures), of| (requests + of.0, failures + of.1));
    let mut evidence = make_evidence((failures, requests), (9, 900));
    for (group, (requests, failures)) in requests_and_failures.iter().enumerate() {
        evidence.canaried_by_group[group] = *requests;
        evidence.async_counts.failed_by_group[group] = *failures;
    }
    evidence.sync_requests_by_group = [900 / CLIENT_GROUPS as u64; CLIENT_GROUPS];
    evidence
}

fn fails(evidence: &RolloutEvidence) -> bool {
    let gate = error_gate(Some(0.01), Some(0.005));
    evaluate_fresh(&gate, USUAL_MIN_SAMPLES, evidence).verdict == Verdict::Fail
}

#[test]
fn one_of_400_clients_that_fails_once_a_second_is_held_and_named() {
    let mut clients = [(3, 0); 32];
    clients[17] = (63, 60);
    let evidence = evidence_of_clients(&clients);
    let report = evaluate_fresh(&error_gate(Some(0.01), Some(0.005)), USUAL_MIN_SAMPLES, &evidence);
    assert_eq!(report.verdict, Verdict::Inconclusive, "{}", report.explanation);
    let warning = "60 of 60 come from client group 17; one client alone causes no rollback";
    assert!(report.explanation.contains(warning), "{}", report.explanation);
    assert!(!trips_breaker(&default_breaker(), &evidence));

    // a few failures of others beside it
    (clients[2], clients[5], clients[9]) = ((3, 1), (3, 1), (3, 1));
    assert!(!fails(&evidence_of_clients(&clients)));
    assert!(!trips_breaker(&default_breaker(), &evidence_of_clients(&clients)));
}

#[test]
fn three_clients_that_fail_are_a_regression() {
    let mut clients = [(30, 0); 32];
    (clients[1], clients[2]) = ((30, 20), (30, 20));
    assert!(!fails(&evidence_of_clients(&clients)), "two clients");
    clients[3] = (30, 20);
    assert!(fails(&evidence_of_clients(&clients)));
}

#[test]
fn a_client_with_most_of_the_traffic_rolls_back_alone() {
    let mut evidence = evidence_of_clients(&[(80, 60), (5, 0), (5, 0), (5, 0), (5, 0)]);
    assert!(!fails(&evidence), "most of the async requests, and a tenth of all");
    evidence.sync_requests_by_group[0] = 700;
    assert!(fails(&evidence) && trips_breaker(&default_breaker(), &evidence));
}

#[test]
fn of_five_equal_clients_one_is_held_and_five_are_not() {
    let alone = evidence_of_clients(&[(60, 60), (60, 0), (60, 0), (60, 0), (60, 0)]);
    assert!(!fails(&alone) && !trips_breaker(&default_breaker(), &alone));
    let all = evidence_of_clients(&[(60, 40), (60, 31), (60, 32), (60, 33), (60, 34)]);
    assert!(fails(&all) && trips_breaker(&default_breaker(), &all));
}

#[test]
fn failures_of_unknown_clients_count_whatever_the_known_ones_do() {
    let mut evidence = evidence_of_clients(&[(60, 60), (60, 0), (60, 0), (60, 0), (60, 0)]);
    evidence.accepted_tasks += 300;
    evidence.async_counts.total += 300;
    assert!(!fails(&evidence));
    evidence.async_counts.failed += 150;
    assert!(fails(&evidence));
}

#[test]
fn one_client_is_held_in_every_later_evaluation_too() {
    let gate = error_gate(Some(0.01), Some(0.005));
    let mut clients = [(4, 0); 32];
    clients[17] = (34, 30);
    let new = evidence_of_clients(&clients);
    let late = [LateEvidence { new_evidence: new, total_evidence: new }];
    let (mut memory, samples) = (GateMemory::default(), BTreeMap::new());
    let mut step = RolloutEvidence::default();
    for at in 0..2_000 {
        step.add(&new);
        // another client fails now and then
        step.async_counts.failed_by_group[at % 16] += u64::from(at % 50 == 0);
        step.async_counts.failed += u64::from(at % 50 == 0);
        for (is_healthy, late) in [(false, &[][..]), (true, &[]), (true, &late)] {
            let evaluation = Evaluation {
                is_healthy,
                late_evidence: late,
                ..make_evaluation(&step, &new, &samples)
            };
            let report = evaluate_gate(&gate, USUAL_MIN_SAMPLES, &mut memory, &evaluation);
            assert_ne!(report.verdict, Verdict::Fail, "{at}: {}", report.explanation);
        }
    }
}
