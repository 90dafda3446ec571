//! Explanations of a step: its soak, its requests, its tasks and its gates.

use std::time::Duration;

use super::fixture::{ExplainFixture, NO_ACTION, NOON, PROMOTE_COMMAND, assert_explains};
use crate::config::{GateConfig, GateKind, MinSamples, PromotionWindow, RatioLimits, StepConfig};
use crate::rollout::RolloutPhase;
use crate::rollout::evidence::EvidenceCounts;
use crate::rollout::explain::WaitingFor;
use crate::rollout::gate::Verdict;

#[test]
fn a_soak_is_explained_with_the_time_that_is_left() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Soaking);
    case.state.soak_elapsed = Duration::from_mins(12);
    assert_explains(
        &case,
        WaitingFor::Soak,
        &["at 10 %", "next 25 %", "percent 50 %", "12 min of 30 min, 18 min to go"],
        NO_ACTION,
    );
    assert_eq!(case.explanation().continues_in, Some(Duration::from_mins(18)));
    case.config.steps[0] =
        StepConfig { soak: Some(Duration::from_hours(2)), ..StepConfig::new(case.state.weight) };
    assert_explains(&case, WaitingFor::Soak, &["12 min of 2 h, 1 h 48 min to go"], NO_ACTION);
}

#[test]
fn after_the_soak_the_missing_requests_and_their_time_are_explained() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Soaking).with_full_soak();
    case.evidence.accepted_tasks = 180;
    let words = [
        "180 of 300 canaried requests",
        "needs 120 more, about 6 min at this rate",
        "pauses in 24 h",
    ];
    assert_explains(&case, WaitingFor::Samples, &words, PROMOTE_COMMAND);
    assert_eq!(
        (case.explanation().continues_in, case.explanation().pauses_in),
        (Some(Duration::from_mins(6)), Some(case.config.max_step_wait))
    );
    case.requests_per_minute = Some(0.0);
    assert_explains(
        &case,
        WaitingFor::Samples,
        &["no canaried request came recently"],
        PROMOTE_COMMAND,
    );
    assert_eq!(case.explanation().continues_in, None);
    case.evidence.accepted_tasks = 300;
    case.evidence.sync_counts = EvidenceCounts { total: 20, ..EvidenceCounts::default() };
    assert_explains(
        &case,
        WaitingFor::Samples,
        &["20 of 300 sync requests", "280 more"],
        PROMOTE_COMMAND,
    );
    case.config.min_samples = MinSamples { sync_requests: 0, ..case.config.min_samples };
    assert_explains(&case, WaitingFor::Soak, &["about to be judged"], NO_ACTION);
    (case.is_leader, case.requests_per_minute) = (false, None);
    assert_explains(&case, WaitingFor::Samples, &["short of min_samples"], PROMOTE_COMMAND);
}

#[test]
fn an_immature_cohort_is_explained_with_the_share_that_has_ended() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Gating);
    case.evidence.accepted_tasks = 412;
    case.evidence.async_counts.total = 400;
    assert_explains(
        &case,
        WaitingFor::Maturity,
        &["97.1 % of 412 tasks have ended, 99 % needed"],
        PROMOTE_COMMAND,
    );
}

#[test]
fn an_undecided_gate_is_explained_with_its_needs() {
    let why = "errors: 0 of 143 async failed, upper bound 1.9 % > 1 %, needs 125 more";
    let case = ExplainFixture::in_phase(RolloutPhase::Gating).with_report(
        Verdict::Inconclusive,
        why,
        Some(125),
    );
    assert_explains(
        &case,
        WaitingFor::Samples,
        &[why, "needs 125 more, about 6 min 15 s at this rate"],
        PROMOTE_COMMAND,
    );
    let case = ExplainFixture::in_phase(RolloutPhase::Gating).with_report(
        Verdict::Inconclusive,
        "errors: between",
        None,
    );
    assert_explains(&case, WaitingFor::Gates, &["errors: between"], PROMOTE_COMMAND);
    let case = ExplainFixture::in_phase(RolloutPhase::Gating).with_report(
        Verdict::Error,
        "errors: connection refused",
        None,
    );
    assert_explains(&case, WaitingFor::Metrics, &["connection refused"], PROMOTE_COMMAND);
    let mut case = ExplainFixture::in_phase(RolloutPhase::Gating).with_report(
        Verdict::Fail,
        "errors: of a gate that is gone",
        None,
    );
    case.state.gate_reports[0].gate_name = "old".into();
    assert_explains(&case, WaitingFor::Gates, &["for the first time"], NO_ACTION);
    assert!(!case.explanation().text.contains("that is gone"));
}

#[test]
fn at_percent_there_is_nothing_to_promote_to() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Gating).with_report(
        Verdict::Inconclusive,
        "errors: between",
        None,
    );
    case.state.weight = case.config.percent;
    assert_explains(&case, WaitingFor::Gates, &["errors: between"], NO_ACTION);
}

#[test]
fn passing_gates_wait_for_their_streak_and_then_for_a_window() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Gating).with_report(
        Verdict::Pass,
        "errors: fine",
        None,
    );
    case.state.pass_streak = 1;
    assert_explains(
        &case,
        WaitingFor::Gates,
        &["all gates pass, 1 of 2 times in a row"],
        NO_ACTION,
    );
    case.state.pass_streak = 2;
    case.config.promotion_windows = vec![PromotionWindow {
        weekdays: vec![0, 1],
        minutes_of_day: (14 * 60, 17 * 60),
        time_zone: jiff::tz::TimeZone::UTC,
    }];
    assert_explains(
        &case,
        WaitingFor::Window,
        &["mon, tue 14:00-17:00 (UTC)", "begins in 2 h"],
        PROMOTE_COMMAND,
    );
    assert_eq!(case.explanation().continues_in, Some(Duration::from_hours(2)));
    case.now = NOON.plus(Duration::from_hours(3));
    assert_explains(&case, WaitingFor::Gates, &["2 of 2"], NO_ACTION);
}

#[test]
fn a_gate_of_a_file_is_found_by_name() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Gating).with_report(
        Verdict::Inconclusive,
        "lag: 40 > 30",
        None,
    );
    case.state.gate_reports[0].gate_name = "lag".into();
    case.config.gates.push(GateConfig {
        name: "lag".into(),
        kind: GateKind::ErrorRatio(RatioLimits::default()),
    });
    assert_explains(&case, WaitingFor::Gates, &["lag: 40 > 30"], PROMOTE_COMMAND);
}
