//! How a rollout climbs: steps, approvals, baselines and copies.

#![allow(clippy::float_cmp, reason = "percents are exact in a double")]

use super::fixture::{MINUTE, RandomStep, RolloutFixture, make_evidence};
use crate::cohort_hash::Weight;
use crate::config::{
    BaselineMode, GateConfig, GateKind, RatioLimits, SHADOW_MISMATCH_GATE, StepConfig,
};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::{
    OperatorAction, PauseReason, RolloutEventKind, RolloutInput, RolloutPhase, RolloutState,
};
use crate::task::UnixMs;

#[test]
fn a_healthy_canary_climbs_every_step_and_ends_healthy() {
    let mut rollout = RolloutFixture::new(100);
    let mut weights = vec![rollout.state.weight.percent()];
    while rollout.state.phase != RolloutPhase::Healthy {
        let events = rollout.evaluate_until_event(20);
        assert_eq!(
            events.iter().map(|event| event.kind).collect::<Vec<_>>(),
            [RolloutEventKind::Step]
        );
        weights.push(rollout.state.weight.percent());
    }
    assert_eq!(weights, [10.0, 25.0, 50.0, 100.0, 100.0]);
}

#[test]
fn percent_between_the_steps_is_climbed_to() {
    let mut rollout = RolloutFixture::new(30);
    let mut weights = vec![rollout.state.weight.percent()];
    while rollout.state.phase != RolloutPhase::Healthy {
        rollout.evaluate_until_event(20);
        weights.push(rollout.state.weight.percent());
    }
    assert_eq!(weights, [10.0, 25.0, 30.0, 30.0]);
}

#[test]
fn a_step_that_needs_approval_waits_for_promote() {
    let mut rollout = RolloutFixture::new(50);
    rollout.config.steps[0].needs_approval = true;
    let events = rollout.evaluate_until_event(20);
    assert_eq!(events[0].kind, RolloutEventKind::Pause);
    assert!(matches!(
        rollout.state.phase,
        RolloutPhase::Paused { reason: PauseReason::AwaitingApproval, .. }
    ));
    rollout.issue_command(OperatorAction::Promote { full: false });
    assert_eq!(rollout.state.weight.percent(), 25.0);
}

#[test]
fn at_100_percent_the_frozen_baseline_is_compared_with() {
    let mut rollout = RolloutFixture::new(100);
    rollout.config.steps = vec![
        StepConfig::new(Weight::from_basis_points(5_000)),
        StepConfig { baseline: BaselineMode::Frozen, ..StepConfig::new(Weight::FULL) },
    ];
    rollout.apply_input(RolloutInput::ConfigLoaded);
    rollout.state = RolloutState::new(UnixMs(0));
    rollout.apply_input(RolloutInput::ConfigLoaded);
    rollout.evaluate_until_event(20);
    assert_eq!(rollout.state.weight, Weight::FULL);
    assert!(rollout.state.sync_baseline.is_some_and(|baseline| baseline.total >= 300));
}

#[test]
fn a_healthy_rollout_climbs_only_after_approval_and_with_all_sources_up() {
    let mut rollout = RolloutFixture::new(10);
    rollout.config.steps[0].needs_approval = true;
    rollout.evaluate_until_event(20);
    assert_eq!(rollout.state.phase, RolloutPhase::Healthy);
    rollout.apply_step(&RandomStep::EditConfig(50, false));
    assert!(
        matches!(
            rollout.state.phase,
            RolloutPhase::Paused { reason: PauseReason::AwaitingApproval, .. }
        ),
        "{:?}",
        rollout.state.phase
    );

    let mut rollout = RolloutFixture::new(10);
    rollout.evaluate_until_event(20);
    rollout.evaluate_once(&make_evidence(10, 0, 10, 3), MINUTE); // the store was unreachable
    rollout.apply_step(&RandomStep::EditConfig(50, false));
    assert_eq!(rollout.state.weight.percent(), 10.0);
    rollout.evaluate_once(&make_evidence(10, 0, 10, 0), MINUTE);
    rollout.tick_once(true);
    assert_eq!(rollout.state.weight.percent(), 25.0);
}

#[test]
fn at_100_percent_without_a_baseline_only_promote_makes_it_healthy() {
    let mut rollout = RolloutFixture::new(100);
    rollout.issue_command(OperatorAction::Promote { full: true });
    assert_eq!(rollout.state.weight, Weight::FULL);
    assert_eq!(rollout.state.sync_baseline, None);
    for _ in 0..200 {
        rollout.tick_once(true);
        rollout.evaluate_once(&make_evidence(4000, 0, 0, 0), 10 * MINUTE);
    }
    let paused = matches!(
        rollout.state.phase,
        RolloutPhase::Paused { reason: PauseReason::Inconclusive, .. }
    );
    assert!(paused, "{:?}", rollout.state.gate_reports);
    rollout.issue_command(OperatorAction::Promote { full: false });
    assert_eq!(rollout.state.phase, RolloutPhase::Healthy);
}

#[test]
fn slow_tasks_of_a_quick_climb_keep_their_deadline_once_it_is_healthy() {
    let mut rollout = RolloutFixture::new(100);
    rollout.config.soak = MINUTE;
    let slow = RolloutEvidence { accepted_tasks: 402, ..make_evidence(400, 0, 400, 0) };
    for _ in 0..60 {
        if rollout.state.phase == RolloutPhase::Healthy {
            break;
        }
        rollout.tick_once(true);
        rollout.evaluate_once(&slow, MINUTE);
    }
    assert_eq!(rollout.state.phase, RolloutPhase::Healthy);
    // tasks that a step left open end within the hour: none counts as failed before
    for _ in 0..3 {
        rollout.evaluate_once(&make_evidence(400, 0, 0, 0), 15 * MINUTE);
        assert_eq!(
            rollout.state.seen_evidence.iter().map(|seen| seen.async_counts.failed).sum::<u64>(),
            0
        );
    }
}

#[test]
fn a_step_waits_for_compared_copies_and_the_last_step_has_none() {
    let mut rollout = RolloutFixture::new(100);
    let limits = RatioLimits { max: Some(0.01), ..RatioLimits::default() };
    rollout.config.gates.push(GateConfig {
        name: SHADOW_MISMATCH_GATE.into(),
        kind: GateKind::ShadowMismatch(limits),
    });
    let evaluate = |rollout: &mut RolloutFixture, compared| {
        rollout.tick_once(true);
        rollout.evaluate_once(
            &RolloutEvidence {
                shadow_copied: compared,
                shadow_compared: compared,
                ..make_evidence(400, 0, 400, 0)
            },
            10 * MINUTE,
        );
        rollout.state.weight.percent()
    };
    for _ in 0..20 {
        assert_eq!(evaluate(&mut rollout, 0), 10.0, "no copy was compared");
    }
    assert_eq!(rollout.state.phase, RolloutPhase::Gating);
    // copies that are compared after the cohort was closed count too, without waiting for many
    // canaried requests
    let evaluations = (0..20).take_while(|_| evaluate(&mut rollout, 60) < 25.0).count();
    assert!(
        (5..15).contains(&evaluations),
        "{evaluations} evaluations of 60 copies; 347 are needed"
    );
    for _ in 0..60 {
        if rollout.state.weight < Weight::FULL {
            evaluate(&mut rollout, 400);
        }
    }
    assert_eq!(rollout.state.weight, Weight::FULL);
    for _ in 0..20 {
        evaluate(&mut rollout, 0);
    }
    assert_eq!(rollout.state.phase, RolloutPhase::Healthy);
}
