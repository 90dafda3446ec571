//! Edits of the file, commands, and replicas that differ.

#![allow(clippy::float_cmp, reason = "percents are exact in a double")]

use std::time::Duration;

use super::fixture::{MINUTE, RandomStep, RolloutFixture, make_evidence};
use crate::cohort_hash::Weight;
use crate::rollout::{
    OperatorAction, OperatorCommand, PauseReason, RolloutInput, RolloutPhase, RolloutPlan, decide,
    running_weight,
};
use crate::task::UnixMs;

#[test]
fn replicas_that_differ_hold_the_counters_and_are_named() {
    let mut rollout = RolloutFixture::new(50);
    for _ in 0..200 {
        rollout.tick_once(false);
    }
    assert!(matches!(
        rollout.state.phase,
        RolloutPhase::Paused { reason: PauseReason::NotConverged, .. }
    ));
    assert!(rollout.state.reason.contains("its file differs"), "{}", rollout.state.reason);
    rollout.tick_once(true);
    assert_eq!(rollout.state.phase, RolloutPhase::Soaking);
}

#[test]
fn an_edit_of_the_gates_restarts_the_present_soak_and_nothing_else() {
    let mut rollout = RolloutFixture::new(50);
    rollout.evaluate_until_event(20);
    rollout.tick_once(true);
    rollout.evaluate_once(&make_evidence(400, 0, 400, 0), 10 * MINUTE);
    assert_eq!((rollout.state.weight.percent(), rollout.state.soak_elapsed), (25.0, 10 * MINUTE));
    rollout.config.gates.truncate(1);
    rollout.apply_input(RolloutInput::ConfigLoaded);
    assert_eq!(
        (rollout.state.weight.percent(), rollout.state.soak_elapsed),
        (25.0, Duration::ZERO)
    );
}

#[test]
fn percent_0_stops_and_keeps_what_was_reached() {
    let mut rollout = RolloutFixture::new(50);
    rollout.evaluate_until_event(20);
    rollout.tick_once(true);
    rollout.apply_step(&RandomStep::EditConfig(0, false));
    assert_eq!(running_weight(&rollout.state, rollout.config.percent), Weight::ZERO);
    rollout.apply_step(&RandomStep::EditConfig(50, false));
    assert_eq!(
        (running_weight(&rollout.state, rollout.config.percent).percent(), &rollout.state.phase),
        (25.0, &RolloutPhase::Shifting)
    );
}

#[test]
fn a_weight_over_percent_is_refused_by_the_key() {
    let rollout = RolloutFixture::new(10);
    let plan =
        RolloutPlan { route: "invoke", config: &rollout.config, task_deadline: Duration::ZERO };
    for action in [OperatorAction::SetWeight(Weight::FULL), OperatorAction::Promote { full: true }]
    {
        let command = OperatorCommand { action, actor: "ann".into(), reason: String::new() };
        let refused = decide(&rollout.state, plan, RolloutInput::Command(&command), UnixMs(1))
            .expect_err("refused");
        assert!(refused.0.contains("routes.invoke.rollout.percent"), "{refused}");
    }
}

#[test]
fn a_pause_by_an_operator_outlasts_a_lowered_percent() {
    let mut rollout = RolloutFixture::new(50);
    rollout.evaluate_until_event(20);
    rollout.issue_command(OperatorAction::Pause);
    rollout.apply_step(&RandomStep::EditConfig(10, false));
    assert_eq!(rollout.state.weight.percent(), 10.0);
    rollout.apply_step(&RandomStep::EditConfig(100, false));
    for _ in 0..20 {
        rollout.tick_once(true);
        rollout.evaluate_once(&make_evidence(400, 0, 400, 0), 10 * MINUTE);
    }
    assert_eq!(rollout.state.weight.percent(), 10.0, "{:?}", rollout.state.phase);
    rollout.issue_command(OperatorAction::SetWeight(Weight::from_basis_points(500)));
    assert_eq!(rollout.state.weight.percent(), 10.0, "a pause refuses set-weight");
}
