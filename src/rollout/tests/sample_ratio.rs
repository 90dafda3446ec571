//! A rollout whose requests are not split as its weight says.

#![allow(clippy::float_cmp, reason = "percents are exact in a double")]

use super::fixture::{MINUTE, RolloutFixture, make_evidence};
use crate::rollout::assignments::AssignmentCounts;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::{BlockedReason, RolloutEventKind};

fn evidence_with_assignments(assignments: AssignmentCounts) -> RolloutEvidence {
    RolloutEvidence { assignments, ..make_evidence(400, 0, 400, 0) }
}

fn random(async_random: u64, sync_random: u64) -> AssignmentCounts {
    AssignmentCounts { async_random, sync_random, mismatched: 0 }
}

#[test]
fn a_random_split_that_is_not_the_weights_holds_the_climb_and_is_not_rolled_back() {
    for assignments in [random(80, 320), random(10, 390)] {
        let mut rollout = RolloutFixture::new(50);
        for _ in 0..20 {
            rollout.tick_once(true);
            let new = evidence_with_assignments(assignments);
            let events = rollout.evaluate_once(&new, 10 * MINUTE);
            assert_eq!(events, [], "{assignments:?}");
        }
        let reason = rollout.state.blocked_reason.as_ref().map(BlockedReason::code);
        assert_eq!((rollout.state.weight.percent(), reason), (10.0, Some("sample_ratio")));
    }
}

#[test]
fn a_right_split_holds_nothing() {
    let mut rollout = RolloutFixture::new(50);
    let events: Vec<_> = (0..20)
        .flat_map(|_| {
            rollout.tick_once(true);
            rollout.evaluate_once(&evidence_with_assignments(random(40, 360)), 10 * MINUTE)
        })
        .take(1)
        .collect();
    assert_eq!(events[0].kind, RolloutEventKind::Step);
}

#[test]
fn one_client_on_the_wrong_path_holds_the_climb_until_no_further_one_is() {
    let mut rollout = RolloutFixture::new(50);
    let mismatched = AssignmentCounts { mismatched: 1, ..AssignmentCounts::default() };
    for _ in 0..20 {
        rollout.tick_once(true);
        let new = evidence_with_assignments(mismatched);
        assert_eq!(rollout.evaluate_once(&new, 10 * MINUTE), []);
    }
    let reason = BlockedReason::SampleRatio { mismatched: 1, async_random: 0, random_requests: 0 };
    assert_eq!(rollout.state.blocked_reason, Some(reason));
    let events = rollout.evaluate_until_event(20);
    assert_eq!((events[0].kind, rollout.state.weight.percent()), (RolloutEventKind::Step, 25.0));
}
