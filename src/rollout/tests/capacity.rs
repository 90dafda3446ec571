//! A rollout whose workers do not keep up with its weight.

#![allow(clippy::float_cmp, reason = "percents are exact in a double")]

use super::fixture::{MINUTE, RolloutFixture, make_evidence};
use crate::metrics::FallbackReason;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::fallbacks::FallbackCounts;
use crate::rollout::{BlockedReason, RolloutEventKind, RolloutPhase};

/// Healthy calls, and some that fell back for `reason`.
fn evidence_with_fallbacks(fallbacks: u64, reason: FallbackReason) -> RolloutEvidence {
    let of = |other: FallbackReason| if other == reason { fallbacks } else { 0 };
    RolloutEvidence {
        fallbacks: FallbackCounts::from_counts(of),
        ..make_evidence(400, 0, 400 + fallbacks, 0)
    }
}

#[test]
fn a_rollout_that_is_capped_by_capacity_neither_climbs_nor_is_rolled_back() {
    for (reason, code) in
        [(FallbackReason::Saturated, "saturated"), (FallbackReason::NoWorker, "no_worker")]
    {
        let mut rollout = RolloutFixture::new(50);
        for _ in 0..40 {
            rollout.tick_once(true);
            let events = rollout.evaluate_once(&evidence_with_fallbacks(30, reason), 10 * MINUTE);
            assert_eq!(events, [], "{:?}", rollout.state);
        }
        let state = &rollout.state;
        assert_eq!((state.weight.percent(), state.fail_streak), (10.0, 0));
        assert_eq!(state.blocked_reason.as_ref().map(BlockedReason::code), Some(code));
        let events = rollout.evaluate_until_event(20);
        assert_eq!(events[0].kind, RolloutEventKind::Step);
        assert_eq!(rollout.state.weight.percent(), 25.0, "there is capacity now");
    }
}

#[test]
fn calls_that_cannot_become_tasks_and_few_saturated_ones_hold_nothing() {
    for (fallbacks, reason) in [
        (300, FallbackReason::Ineligible),
        (4, FallbackReason::Saturated),
        (4, FallbackReason::NoWorker),
    ] {
        let mut rollout = RolloutFixture::new(50);
        let mut events = Vec::new();
        for _ in 0..20 {
            rollout.tick_once(true);
            let new = evidence_with_fallbacks(fallbacks, reason);
            events.extend(rollout.evaluate_once(&new, 10 * MINUTE));
        }
        assert_eq!(rollout.state.blocked_reason, None, "{reason:?}");
        assert!(!events.is_empty(), "{reason:?}");
    }
}

#[test]
fn saturation_before_a_step_does_not_hold_that_step() {
    let mut rollout = RolloutFixture::new(50);
    rollout.tick_once(true);
    rollout.evaluate_once(&evidence_with_fallbacks(300, FallbackReason::Saturated), MINUTE);
    assert!(rollout.state.blocked_reason.is_some());
    let promote = crate::rollout::OperatorAction::Promote { full: false };
    rollout.issue_command(promote);
    rollout.tick_once(true);
    rollout.evaluate_once(&make_evidence(400, 0, 400, 0), MINUTE);
    assert_eq!(rollout.state.blocked_reason, None);
}

#[test]
fn a_failing_canary_is_rolled_back_although_it_lacks_capacity() {
    let mut rollout = RolloutFixture::new(50);
    rollout.tick_once(true);
    for _ in 0..10 {
        let failing = RolloutEvidence {
            fallbacks: evidence_with_fallbacks(90, FallbackReason::Saturated).fallbacks,
            ..make_evidence(200, 200, 400, 0)
        };
        rollout.evaluate_once(&failing, MINUTE);
    }
    assert!(rollout.state.blocked_reason.is_none() && rollout.state.weight.percent() == 0.0);
    assert_eq!(rollout.state.phase, RolloutPhase::RollingBack);
}
