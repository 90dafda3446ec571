//! The default latency gate: its threshold, and what follows from its FAIL.

#![allow(clippy::float_cmp, reason = "percents are exact in a double")]

use std::time::Duration;

use super::fixture::{MINUTE, RolloutFixture, make_evidence};
use crate::cohort_hash::Weight;
use crate::config::{BaselineMode, StepConfig};
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::gate::LatencyThreshold;
use crate::rollout::{
    OperatorAction, PauseReason, RolloutEvent, RolloutEventKind, RolloutPhase, RolloutState,
};
use crate::task::{UnixMs, duration_bucket};

const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// 400 async and `sync` sync requests, of which these took 900 ms and the others 400 ms.
fn slow_evidence(async_slow: u64, sync_slow: u64, sync: u64) -> RolloutEvidence {
    let mut evidence = make_evidence(400, 0, sync, 0);
    let spread = |counts: &mut EvidenceCounts, slow: u64| {
        counts.durations = Default::default();
        counts.durations[duration_bucket(Duration::from_millis(400))] = counts.total - slow;
        counts.durations[duration_bucket(Duration::from_millis(900))] = slow;
    };
    spread(&mut evidence.async_counts, async_slow);
    spread(&mut evidence.sync_counts, sync_slow);
    evidence
}

/// Evaluates such evidence until an event, at most 20 times.
fn evaluate_slow(
    rollout: &mut RolloutFixture,
    async_slow: u64,
    sync_slow: u64,
    sync: u64,
) -> Vec<RolloutEvent> {
    for _ in 0..20 {
        rollout.tick_once(true);
        let new = slow_evidence(async_slow, sync_slow, sync);
        let events = rollout.evaluate_once(&new, 10 * MINUTE);
        if !events.is_empty() {
            return events;
        }
    }
    Vec::new()
}

/// A rollout that went from 50 % to 100 % just now, with a sync path of which 3 % took over 500 ms.
fn rollout_at_full_weight() -> RolloutFixture {
    let mut rollout = RolloutFixture::new(100);
    rollout.config.steps = vec![
        StepConfig::new(Weight::from_basis_points(5_000)),
        StepConfig { baseline: BaselineMode::Frozen, ..StepConfig::new(Weight::FULL) },
    ];
    rollout.state = RolloutState::new(UnixMs(0));
    rollout.apply_input(crate::rollout::RolloutInput::ConfigLoaded);
    evaluate_slow(&mut rollout, 12, 12, 400);
    assert_eq!(rollout.state.weight, Weight::FULL, "{:?}", rollout.state);
    rollout
}

#[test]
fn the_threshold_is_the_p95_of_the_step_before_and_stays_for_the_step() {
    let mut rollout = RolloutFixture::new(50);
    assert_eq!(rollout.state.latency_threshold, None, "no request was seen yet");
    rollout.tick_once(true);
    rollout.evaluate_once(&slow_evidence(0, 0, 200), MINUTE);
    assert_eq!(rollout.state.latency_threshold, None, "too few");
    let events = evaluate_slow(&mut rollout, 12, 12, 400);
    assert_eq!(events[0].kind, RolloutEventKind::Step);
    let epoch = rollout.state.epoch;
    let frozen = Some(LatencyThreshold { threshold: HALF_A_SECOND, epoch });
    assert_eq!(rollout.state.latency_threshold, frozen);
    rollout.tick_once(true);
    for _ in 0..3 {
        rollout.evaluate_once(&slow_evidence(200, 200, 400), MINUTE);
    }
    assert_eq!(rollout.state.latency_threshold, frozen);
    assert_eq!(rollout.state.weight.percent(), 25.0, "both paths are slower");
}

#[test]
fn a_slower_canary_is_rolled_back_by_the_default_gates() {
    let mut rollout = RolloutFixture::new(50);
    let events = evaluate_slow(&mut rollout, 80, 12, 400);
    assert_eq!(events[0].kind, RolloutEventKind::Rollback);
    assert!(events[0].reason.starts_with("latency: "), "{}", events[0].reason);
}

#[test]
fn at_full_weight_a_slower_path_is_rolled_back_and_paused_once_the_baseline_is_a_day_old() {
    let mut fresh = rollout_at_full_weight();
    assert_eq!(evaluate_slow(&mut fresh, 80, 0, 0)[0].kind, RolloutEventKind::Rollback);

    let mut old = rollout_at_full_weight();
    old.now_ms += 25 * 3_600 * 1_000;
    let events = evaluate_slow(&mut old, 80, 0, 0);
    assert_eq!(events[0].kind, RolloutEventKind::Pause, "{events:?}");
    assert!(events[0].reason.contains("more than 24 h old"), "{}", events[0].reason);
    assert!(old.state.phase.is_paused_for(PauseReason::GatesFailed));
    assert_eq!(old.state.weight, Weight::FULL);
    assert!(evaluate_slow(&mut old, 80, 0, 0).is_empty(), "it is not paused again");

    let mut failing = rollout_at_full_weight();
    failing.now_ms += 25 * 3_600 * 1_000;
    failing.tick_once(true);
    let mut new = slow_evidence(80, 0, 0);
    new.async_counts.failed = 200;
    let events: Vec<_> = (0..4).flat_map(|_| failing.evaluate_once(&new, MINUTE)).collect();
    assert_eq!(events[0].kind, RolloutEventKind::Rollback, "the errors gate fails as well");
}

#[test]
fn a_rollout_of_a_release_without_the_latency_gate_keeps_its_gates() {
    let mut rollout = RolloutFixture::new(50);
    rollout.state.has_latency_gate = false;
    let events = evaluate_slow(&mut rollout, 80, 12, 400);
    assert_eq!(events[0].kind, RolloutEventKind::Step, "{events:?}");
    let judged = |rollout: &RolloutFixture| {
        rollout.state.gate_reports.iter().any(|report| report.gate_name == "latency")
    };
    rollout.tick_once(true);
    rollout.evaluate_once(&slow_evidence(0, 0, 400), MINUTE);
    assert!(!judged(&rollout));
    rollout.issue_command(OperatorAction::Abort);
    rollout.tick_once(true);
    rollout.issue_command(OperatorAction::Retry);
    rollout.tick_once(true);
    rollout.evaluate_once(&slow_evidence(0, 0, 400), MINUTE);
    assert!(judged(&rollout), "it began anew in this release");
    assert_eq!(rollout.state.phase, RolloutPhase::Soaking);
}
