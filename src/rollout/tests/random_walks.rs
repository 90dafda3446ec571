//! What holds for every sequence of inputs: properties on random walks.

#![allow(clippy::float_cmp, reason = "percents are exact in a double")]

use std::time::Duration;

use proptest::prelude::*;

use super::fixture::{MINUTE, RandomStep, RolloutFixture, arb_steps, make_evidence};
use crate::cohort_hash::Weight;
use crate::config::RolloutMode;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::Verdict;
use crate::rollout::{Actor, OperatorAction, RolloutEventKind, RolloutPhase, running_weight};

proptest! {
    #[test]
    fn the_running_weight_is_never_over_percent(start in 0u8..=100, steps in arb_steps()) {
        let mut rollout = RolloutFixture::new(start);
        for step in &steps {
            rollout.apply_step(step);
            let (state, percent) = (&rollout.state, rollout.config.percent);
            prop_assert!(running_weight(state, percent) <= percent);
            if percent > Weight::ZERO {
                prop_assert!(state.weight <= percent, "{state:?} after {step:?}");
            }
        }
    }

    #[test]
    fn weights_come_from_the_plan_or_from_an_operator(start in 0u8..=100, steps in arb_steps()) {
        let mut rollout = RolloutFixture::new(start);
        let mut allowed = vec![Weight::ZERO, rollout.config.percent];
        allowed.extend(rollout.config.steps.iter().map(|step| step.weight));
        for step in &steps {
            match step {
                RandomStep::EditConfig(percent, _) => {
                    allowed.push(Weight::from_basis_points(u16::from(*percent) * 100));
                }
                RandomStep::Command(OperatorAction::SetWeight(weight)) => allowed.push(*weight),
                _ => {}
            }
            rollout.apply_step(step);
            let weight = rollout.state.weight;
            prop_assert!(allowed.contains(&weight), "{weight:?} after {step:?}");
        }
    }

    #[test]
    fn automation_raises_only_on_a_pass_of_all_gates(start in 1u8..=100, steps in arb_steps()) {
        let mut rollout = RolloutFixture::new(start);
        for step in &steps {
            let before = rollout.state.clone();
            for event in rollout.apply_step(step) {
                if event.actor != Actor::Controller
                    || event.to_weight <= event.from_weight
                    || event.from_weight == Weight::ZERO
                {
                    continue;
                }
                let reports = &event.gate_reports;
                let passed = !reports.is_empty()
                    && reports.iter().all(|report| report.verdict == Verdict::Pass);
                let was_healthy = before.phase == RolloutPhase::Healthy;
                prop_assert!(was_healthy || passed, "{event:?} from {before:?}");
                prop_assert!(was_healthy || before.cohort.closed_for.is_some());
            }
        }
    }

    #[test]
    fn a_weight_is_judged_by_the_requests_that_came_at_it(
        start in 0u8..=100, steps in arb_steps(),
    ) {
        let mut rollout = RolloutFixture::new(start);
        let mut since = rollout.state.epoch;
        for step in &steps {
            let before = rollout.state.clone();
            rollout.apply_step(step);
            if rollout.state.weight != before.weight {
                since = rollout.state.epoch;
            }
            let counted = rollout.state.fail_streak > before.fail_streak
                || rollout.state.pass_streak > before.pass_streak;
            prop_assert!(
                !counted || before.cohort.from_epoch >= since,
                "{before:?} after {step:?}, at that weight since {since}"
            );
        }
    }

    #[test]
    fn an_abort_holds_until_retry(start in 0u8..=100, before in arb_steps(), after in arb_steps()) {
        let mut rollout = RolloutFixture::new(start);
        for step in &before {
            rollout.apply_step(step);
        }
        rollout.issue_command(OperatorAction::Abort);
        prop_assert_eq!(rollout.state.weight, Weight::ZERO);
        let is_retry = |step: &RandomStep| {
            matches!(step, RandomStep::Command(OperatorAction::Retry))
        };
        for step in after.iter().filter(|step| !is_retry(step)) {
            rollout.apply_step(step);
            prop_assert_eq!(rollout.state.weight, Weight::ZERO, "after {:?}", step);
            prop_assert!(rollout.state.phase.is_rolled_back());
        }
    }

    #[test]
    fn without_new_evidence_nothing_is_raised_and_nothing_rolled_back(
        start in 1u8..=100, evaluations in 1usize..200,
    ) {
        let mut rollout = RolloutFixture::new(start);
        rollout.tick_once(true);
        let weight = rollout.state.weight;
        for _ in 0..evaluations {
            for event in rollout.evaluate_once(&RolloutEvidence::default(), MINUTE) {
                prop_assert_eq!(event.kind, RolloutEventKind::Pause);
            }
            rollout.tick_once(true);
            prop_assert_eq!(rollout.state.weight, weight);
        }
    }

    #[test]
    fn while_the_store_is_gone_nothing_moves(
        start in 1u8..=100, evaluations in 1usize..50, failed in 0u64..500,
    ) {
        let mut rollout = RolloutFixture::new(start);
        rollout.tick_once(true);
        let (weight, soaked) = (rollout.state.weight, rollout.state.soak_elapsed);
        for _ in 0..evaluations {
            rollout.evaluate_once(&make_evidence(100, failed, 100, 7), Duration::from_secs(30));
            let now = (rollout.state.weight, rollout.state.soak_elapsed);
            prop_assert_eq!(now, (weight, soaked));
        }
    }

    #[test]
    fn a_lowered_percent_applies_at_once(
        start in 10u8..=100, steps in arb_steps(), low in 1u8..10,
    ) {
        let mut rollout = RolloutFixture::new(start);
        for step in &steps {
            rollout.apply_step(step);
        }
        let rolled_back = rollout.state.phase.is_rolled_back();
        let before = rollout.state.weight;
        let is_manual = rollout.config.mode == RolloutMode::Manual;
        rollout.apply_step(&RandomStep::EditConfig(low, is_manual));
        let percent = rollout.config.percent;
        prop_assert!(rollout.state.weight <= percent.min(before.max(percent)));
        prop_assert!(rolled_back || running_weight(&rollout.state, percent) <= percent);
    }

    #[test]
    fn manual_jumps_to_the_percentage_and_then_rests(from in 0u8..=100, to in 0u8..=100) {
        let mut rollout = RolloutFixture::new(from);
        rollout.apply_step(&RandomStep::EditConfig(from, true));
        rollout.apply_step(&RandomStep::EditConfig(to, true));
        prop_assert_eq!(rollout.state.weight.percent(), f64::from(to));
        let settled = rollout.state.clone();
        rollout.apply_step(&RandomStep::EditConfig(to, true));
        prop_assert_eq!(rollout.state, settled);
    }
}
