//! What rolls a rollout back or stops it: failures, deadlines, and a store that lost its data.

#![allow(clippy::float_cmp, reason = "percents are exact in a double")]

use super::fixture::{MINUTE, RandomStep, RolloutFixture, make_evidence};
use crate::cohort_hash::Weight;
use crate::config::GateFailureAction;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::Verdict;
use crate::rollout::{OperatorAction, RolloutEvent, RolloutEventKind, RolloutInput, RolloutPhase};

#[test]
fn a_failing_canary_is_rolled_back_until_retry() {
    let mut rollout = RolloutFixture::new(50);
    rollout.tick_once(true);
    let events: Vec<RolloutEvent> = (0..4)
        .flat_map(|_| rollout.evaluate_once(&make_evidence(100, 100, 900, 0), MINUTE))
        .collect();
    assert_eq!(
        events.iter().map(|event| event.kind).collect::<Vec<_>>(),
        [RolloutEventKind::Rollback]
    );
    assert!(events[0].gate_reports.iter().any(|report| report.verdict == Verdict::Fail));
    rollout.tick_once(true);
    assert_eq!(rollout.state.phase, RolloutPhase::Degraded);
    rollout.apply_step(&RandomStep::EditConfig(100, false));
    assert_eq!(rollout.state.weight, Weight::ZERO, "an edit moves nothing");
    rollout.issue_command(OperatorAction::Retry);
    assert_eq!(
        (rollout.state.weight.percent(), &rollout.state.phase),
        (10.0, &RolloutPhase::Shifting)
    );
    // late outcomes of earlier epochs do not count after a retry
    for evidence in rollout.evidence.values_mut() {
        evidence.async_counts.failed += 100;
        evidence.async_counts.total += 100;
    }
    rollout.tick_once(true);
    for _ in 0..3 {
        rollout.evaluate_once(&make_evidence(100, 0, 900, 0), MINUTE);
    }
    assert_eq!(rollout.state.weight.percent(), 10.0);
}

#[test]
fn late_failures_roll_back_the_next_step() {
    let mut rollout = RolloutFixture::new(50);
    let first = rollout.state.epoch + 1;
    rollout.evaluate_until_event(20);
    assert_eq!(rollout.state.weight.percent(), 25.0);
    rollout.tick_once(true);
    rollout.evaluate_once(&make_evidence(400, 0, 1200, 0), MINUTE);
    rollout.evidence.get_mut(&first).expect("the first step's").async_counts.failed += 150;
    rollout.evidence.get_mut(&first).expect("the first step's").async_counts.total += 150;
    let events: Vec<RolloutEvent> = (0..3)
        .flat_map(|_| {
            rollout.evidence.get_mut(&first).expect("the first step's").async_counts.failed += 50;
            rollout.evidence.get_mut(&first).expect("the first step's").async_counts.total += 50;
            rollout.evaluate_once(&make_evidence(40, 0, 120, 0), MINUTE)
        })
        .collect();
    assert_eq!(
        events.first().map(|event| event.kind),
        Some(RolloutEventKind::Rollback),
        "{:?}",
        rollout.state.gate_reports
    );
}

#[test]
fn tasks_without_an_outcome_at_the_deadline_have_failed() {
    let mut rollout = RolloutFixture::new(10);
    rollout.tick_once(true);
    let lost = RolloutEvidence { accepted_tasks: 400, ..make_evidence(0, 0, 400, 0) };
    rollout.evaluate_once(&lost, 40 * MINUTE);
    assert_eq!(rollout.state.phase, RolloutPhase::Gating);
    let events: Vec<RolloutEvent> = (0..10)
        .flat_map(|_| rollout.evaluate_once(&RolloutEvidence::default(), 10 * MINUTE))
        .collect();
    assert_eq!(
        events.first().map(|event| event.kind),
        Some(RolloutEventKind::Rollback),
        "{:?}",
        rollout.state.gate_reports
    );
}

#[test]
fn a_pause_for_failed_gates_is_recorded_once() {
    let mut rollout = RolloutFixture::new(50);
    rollout.config.on_fail = GateFailureAction::Pause;
    rollout.tick_once(true);
    let events: Vec<RolloutEvent> = (0..20)
        .flat_map(|_| rollout.evaluate_once(&make_evidence(100, 100, 900, 0), MINUTE))
        .collect();
    assert_eq!(
        events.iter().map(|event| event.kind).collect::<Vec<_>>(),
        [RolloutEventKind::Pause]
    );
}

#[test]
fn a_healthy_rollout_whose_tasks_never_end_is_rolled_back() {
    let mut rollout = RolloutFixture::new(10);
    rollout.evaluate_until_event(20);
    assert_eq!(rollout.state.phase, RolloutPhase::Healthy);
    let lost = RolloutEvidence { accepted_tasks: 400, ..make_evidence(0, 0, 4000, 0) };
    let events = (0..100).find_map(|_| rollout.evaluate_once(&lost, 10 * MINUTE).pop());
    assert_eq!(events.map(|event| event.kind), Some(RolloutEventKind::Rollback));
}

#[test]
fn a_flushed_store_restarts_the_step() {
    let mut rollout = RolloutFixture::new(10);
    rollout.tick_once(true);
    let deferred = RolloutEvidence { deferred_requests: 3, ..make_evidence(4000, 0, 4000, 0) };
    rollout.evaluate_once(&deferred, MINUTE);
    // the store lost its task counts; the proxies still report theirs
    rollout.evidence.values_mut().for_each(|known| {
        *known = RolloutEvidence { deferred_requests: 3, ..RolloutEvidence::default() }
    });
    rollout.apply_input(RolloutInput::StoreLost);
    for _ in 0..5 {
        rollout.tick_once(true);
        rollout.evaluate_once(&make_evidence(40, 0, 400, 0), MINUTE);
    }
    assert_eq!(
        (rollout.state.weight.percent(), &rollout.state.phase),
        (10.0, &RolloutPhase::Soaking)
    );
}
