//! Explanations of replicas, blocks, pauses and rollbacks, and of rollouts at rest.

use std::time::Duration;

use super::fixture::{
    EDIT_PERCENT, ExplainFixture, NO_ACTION, PROMOTE_COMMAND, RESUME_COMMAND, assert_explains,
};
use crate::cohort_hash::Weight;
use crate::config::{PrometheusConfig, RolloutMode, Secret};
use crate::metrics::FallbackReason;
use crate::rollout::explain::{QueueLoad, WaitingFor};
use crate::rollout::fallbacks::FallbackCounts;
use crate::rollout::gate::Verdict;
use crate::rollout::{Actor, BlockedReason, PausablePhase, PauseReason, RolloutPhase};

fn source_error(explanation: &str) -> BlockedReason {
    BlockedReason::SourceError { gate: "lag".into(), explanation: explanation.into() }
}

#[test]
fn replicas_that_lag_are_named() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Shifting);
    assert_explains(&case, WaitingFor::Convergence, &["about to"], NO_ACTION);
    case.lagging_replicas = ["a.1", "b.2"].map(String::from).to_vec();
    case.state.phase_waited = Duration::from_secs(30);
    assert_explains(
        &case,
        WaitingFor::Convergence,
        &["a.1, b.2 did not yet take up the weight", "pauses in 1 min 30 s"],
        NO_ACTION,
    );
    case.lagging_replicas = (0..9).map(|n| format!("r{n}")).collect();
    assert_explains(&case, WaitingFor::Convergence, &["r4 and 4 more"], NO_ACTION);
    case.state.phase = RolloutPhase::Paused {
        reason: PauseReason::NotConverged,
        resume_to: PausablePhase::Shifting,
    };
    assert_explains(&case, WaitingFor::Convergence, &["r0", "within 2 min"], RESUME_COMMAND);
}

#[test]
fn a_blocked_rollout_is_explained_with_its_reason() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Soaking);
    case.state.blocked_reason = Some(source_error("lag: connection refused"));
    case.state.sources_down_for = Duration::from_mins(4);
    case.config.prometheus = Some(PrometheusConfig {
        url: Secret::new("http://p"),
        query_timeout: Duration::from_secs(5),
        max_sample_age: Duration::from_mins(1),
        unavailable_grace: Duration::from_mins(10),
    });
    assert_explains(
        &case,
        WaitingFor::Metrics,
        &["lag: connection refused", "stand still", "pauses in 6 min"],
        NO_ACTION,
    );
    case.lagging_replicas = vec!["a.1".into()];
    assert_explains(&case, WaitingFor::Convergence, &["stand still", "a.1"], NO_ACTION);
    case.store_reachable = false;
    assert_explains(
        &case,
        WaitingFor::Store,
        &["the store does not answer", "served sync"],
        NO_ACTION,
    );
}

#[test]
fn a_rollout_that_is_capped_by_capacity_is_explained_and_never_promoted() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Gating);
    case.state.blocked_reason = Some(BlockedReason::Saturated { calls: 18, assigned: 214 });
    case.queue_load = Some(QueueLoad { slots: 5, waiting: 81 });
    let numbers = "18 of the last 214 calls assigned to the async path (8.4 %) were served sync";
    assert_explains(
        &case,
        WaitingFor::Capacity,
        &[numbers, "5 of 5 slots busy, 81 waiting", "not lowered for it"],
        "run more workers, or raise topics.t.concurrency (docs/sizing.md)",
    );
    assert!(!case.explanation().text.contains("promote"));
    case.queue_load = None;
    case.state.blocked_reason = Some(BlockedReason::NoWorker { calls: 7, assigned: 7 });
    assert_explains(
        &case,
        WaitingFor::Capacity,
        &["7 of the last 7 calls", "since no worker was live"],
        "start a worker or an agent of topic t (docs/sizing.md)",
    );
}

#[test]
fn a_split_that_is_not_the_weights_is_explained_with_numbers() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Soaking);
    let reason = |mismatched| BlockedReason::SampleRatio {
        mismatched,
        async_random: 834,
        random_requests: 10_000,
    };
    let next = "omnidaemon rollout get invoke";
    case.state.blocked_reason = Some(reason(0));
    let numbers = "834 of 10000 calls without a sticky key (8.3 %) were assigned";
    assert_explains(&case, WaitingFor::Split, &[numbers, "at 10 %", "set-weight"], next);
    case.state.blocked_reason = Some(reason(3));
    let words = ["3 calls since the last evaluation", "0 of 32 client groups are on both paths"];
    assert_explains(&case, WaitingFor::Split, &words, next);
}

#[test]
fn what_fell_back_after_its_assignment_is_part_of_every_explanation() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Soaking);
    case.evidence.accepted_tasks = 810;
    case.evidence.sync_counts.total = 9_190;
    case.evidence.fallbacks =
        FallbackCounts::from_counts(
            |reason| {
                if reason == FallbackReason::BodyTooLarge { 190 } else { 0 }
            },
        );
    let text = case.explanation().text;
    let shares = "8.1 % served async of 10 % assigned: 1.9 % over max_body";
    assert!(text.contains(shares), "{text}");
}

#[test]
fn a_pause_is_explained_with_actor_reason_and_what_ends_it() {
    let paused = |why| {
        let mut case = ExplainFixture::in_phase(RolloutPhase::Paused {
            reason: why,
            resume_to: PausablePhase::Gating,
        });
        (case.state.actor, case.state.reason) = (Actor::Operator("ada@ops".into()), "lunch".into());
        case
    };
    assert_explains(
        &paused(PauseReason::Operator),
        WaitingFor::Operator,
        &["ada@ops paused it because lunch"],
        RESUME_COMMAND,
    );
    assert_explains(
        &paused(PauseReason::AwaitingApproval),
        WaitingFor::Approval,
        &["needs approval"],
        PROMOTE_COMMAND,
    );
    let undecided = paused(PauseReason::Inconclusive).with_report(
        Verdict::Inconclusive,
        "errors: between",
        None,
    );
    assert_explains(
        &undecided,
        WaitingFor::Gates,
        &["undecided for 24 h", "errors: between", "resume waits again"],
        PROMOTE_COMMAND,
    );
    let source_down = paused(PauseReason::MetricsUnavailable);
    assert_explains(
        &source_down,
        WaitingFor::Metrics,
        &["lunch", "after 3 evaluations in a row with all sources up (0 so far)"],
        NO_ACTION,
    );
    let failed =
        paused(PauseReason::GatesFailed).with_report(Verdict::Fail, "errors: 9 of 10", None);
    assert_explains(
        &failed,
        WaitingFor::Operator,
        &["errors: 9 of 10", "on_fail is pause"],
        "omnidaemon rollout abort invoke --reason …",
    );
}

#[test]
fn a_rollback_is_explained_with_time_reason_and_retry() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Degraded);
    case.state.reason = "errors: 9 of 10 async failed".into();
    let words = [
        "rolled back at 2026-11-24T12:00:00",
        "because errors: 9 of 10",
        "a percent edit moves nothing until `retry`",
    ];
    let retry = "omnidaemon rollout retry invoke --reason …";
    assert_explains(&case, WaitingFor::Retry, &words, retry);
    case.state.actor = Actor::Operator("ada@ops".into());
    assert_explains(&case, WaitingFor::Retry, &["aborted by ada@ops"], retry);
    case.config.percent = Weight::ZERO;
    assert_explains(&case, WaitingFor::Retry, &[], retry);
    let mut case = ExplainFixture::in_phase(RolloutPhase::RollingBack);
    case.lagging_replicas = vec!["a.1".into()];
    assert_explains(&case, WaitingFor::Convergence, &["rolling back to 0 %", "a.1"], NO_ACTION);
}

#[test]
fn a_rollout_at_percent_is_explained_with_what_would_move_it() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Healthy);
    case.state.weight = case.config.percent;
    assert_explains(
        &case,
        WaitingFor::Percent,
        &["percent is reached", "keep judging"],
        EDIT_PERCENT,
    );
    case.config.percent = Weight::FULL;
    assert_explains(&case, WaitingFor::Nothing, &["about to go on to 100 %"], NO_ACTION);
    case.state.weight = Weight::FULL;
    assert_explains(&case, WaitingFor::Nothing, &["percent is reached"], NO_ACTION);
    case = case.with_report(Verdict::Fail, "errors: 30 of 90", None);
    assert_explains(
        &case,
        WaitingFor::Gates,
        &["errors: 30 of 90", "failed evaluations in a row: 0, a rollback at 2"],
        "omnidaemon rollout abort invoke --reason …",
    );
    let mut manual = ExplainFixture::in_phase(RolloutPhase::Manual).with_report(
        Verdict::Fail,
        "errors: 30 of 90",
        None,
    );
    manual.config.mode = RolloutMode::Manual;
    assert_explains(
        &manual,
        WaitingFor::Percent,
        &["manual", "would roll back: errors: 30 of 90"],
        EDIT_PERCENT,
    );
}

#[test]
fn a_manual_weight_stays_until_resume_and_percent_0_stops_everything() {
    for phase in
        [RolloutPhase::Manual, RolloutPhase::Soaking, RolloutPhase::Gating, RolloutPhase::Healthy]
    {
        let mut case = ExplainFixture::in_phase(phase);
        (case.state.manual_hold, case.state.actor) = (true, Actor::Operator("ada@ops".into()));
        assert_explains(
            &case,
            WaitingFor::Operator,
            &["ada@ops set the weight to 10 %"],
            RESUME_COMMAND,
        );
        case.config.percent = Weight::ZERO;
        assert_explains(&case, WaitingFor::Percent, &["allows nothing"], EDIT_PERCENT);
    }
}

#[test]
fn a_source_that_is_down_without_a_prometheus_section_pauses_as_well() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Soaking);
    case.state.blocked_reason = Some(source_error("lag: the number of waiting tasks is unknown"));
    case.state.sources_down_for = Duration::from_mins(4);
    assert_explains(&case, WaitingFor::Metrics, &["stand still", "pauses in 6 min"], NO_ACTION);
    case.state.phase = RolloutPhase::Healthy;
    assert_eq!(case.explanation().pauses_in, None, "a healthy rollout does not pause for that");
}
