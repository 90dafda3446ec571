//! Every phase is explained, and each of the numbers that a person asks for is in it.

use proptest::prelude::*;

use super::*;
use crate::config::{
    GateConfig, GateKind, MinSamples, PrometheusConfig, RatioLimits, RolloutMode, Secret,
    StepConfig,
};
use crate::rollout::evidence::EvidenceCounts;
use crate::rollout::state::PausablePhase;

/// A rollout at 10 % on its way to 50 %, of which a test changes what it is about.
struct ExplainFixture {
    config: RolloutConfig,
    state: RolloutState,
    lagging_replicas: Vec<String>,
    evidence: RolloutEvidence,
    store_reachable: bool,
    is_leader: bool,
    requests_per_minute: Option<f64>,
    /// 2026-11-24T12:00:00Z, a Tuesday.
    now: UnixMs,
}

const NOON: UnixMs = UnixMs(1_795_521_600_000);

impl ExplainFixture {
    fn in_phase(phase: RolloutPhase) -> Self {
        let percent = Weight::from_basis_points(5_000);
        let weight = if matches!(
            phase,
            RolloutPhase::Idle | RolloutPhase::RollingBack | RolloutPhase::Degraded
        ) {
            0
        } else {
            1_000
        };
        Self {
            config: RolloutConfig::new("invoke", percent, RolloutMode::Gated),
            state: RolloutState {
                phase,
                weight: Weight::from_basis_points(weight),
                ..RolloutState::new(NOON)
            },
            lagging_replicas: Vec::new(),
            evidence: RolloutEvidence::default(),
            store_reachable: true,
            is_leader: true,
            requests_per_minute: Some(20.0),
            now: NOON,
        }
    }

    fn with_full_soak(mut self) -> Self {
        self.state.soak_elapsed = self.config.soak;
        self
    }

    fn with_report(mut self, verdict: Verdict, why: &str, needs: Option<u64>) -> Self {
        let kind = "error_ratio";
        let (asynchronous, sync, value, interval) = (None, None, None, None);
        let gate = "errors".to_owned();
        let why = why.to_owned();
        self.state.gate_reports.push(GateReport {
            gate_name: gate,
            gate_kind: kind,
            verdict,
            explanation: why,
            needed_outcomes: needs,
            async_bad_of_total: asynchronous,
            sync_bad_of_total: sync,
            value,
            interval,
        });
        self
    }

    fn explanation(&self) -> RolloutExplanation {
        explain_rollout(&ExplanationInput {
            route: "invoke",
            config: &self.config,
            config_file: Some("config/omnidaemon.yaml"),
            state: &self.state,
            running_weight: self.state.weight.min(self.config.percent),
            next_weight: self.config.next_weight_after(self.state.weight),
            lagging_replicas: &self.lagging_replicas,
            cohort_evidence: self.is_leader.then_some(&self.evidence),
            requests_per_minute: self.requests_per_minute,
            store_reachable: self.store_reachable,
            now: self.now,
        })
    }
}

/// That it waits for this, says these words, and ends with this.
#[track_caller]
fn assert_explains(case: &ExplainFixture, waiting_for: WaitingFor, words: &[&str], next: &str) {
    let told = case.explanation();
    assert_eq!(told.waiting_for, waiting_for, "{}", told.text);
    for word in words {
        assert!(told.text.contains(word), "no {word:?} in {}", told.text);
    }
    assert_eq!(told.next_action, next, "{}", told.text);
    assert!(told.text.ends_with(&format!(". Next: {next}")), "{}", told.text);
}

const NO_ACTION: &str = "nothing to do";
const PROMOTE_COMMAND: &str = "omnidaemon rollout promote invoke --reason …";
const RESUME_COMMAND: &str = "omnidaemon rollout resume invoke --reason …";
const EDIT_PERCENT: &str = "edit routes.invoke.rollout.percent in config/omnidaemon.yaml";

#[test]
fn a_soak_says_how_long_it_still_takes() {
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
fn after_the_soak_it_says_how_many_requests_are_missing_and_how_long_they_take_to_come() {
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
        &["no canaried request came lately"],
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
fn a_cohort_that_is_not_mature_says_how_much_of_it_has_ended() {
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
fn an_undecided_gate_says_why_and_what_it_needs() {
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
fn what_stands_still_says_why() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Soaking);
    case.state.blocked_reason = Some("lag: connection refused".into());
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
fn a_pause_says_who_and_why_and_what_ends_it() {
    let paused = |why| {
        let mut case = ExplainFixture::in_phase(RolloutPhase::Paused {
            reason: why,
            resume_to: PausablePhase::Gating,
        });
        (case.state.actor, case.state.reason) = ("ada@ops".into(), "lunch".into());
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
        &["asks for a person"],
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
    let blind = paused(PauseReason::MetricsUnavailable);
    assert_explains(
        &blind,
        WaitingFor::Metrics,
        &["lunch", "by itself after three good looks in a row (0 so far)"],
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
fn what_turned_back_says_when_and_why_and_that_a_percent_moves_nothing() {
    let mut case = ExplainFixture::in_phase(RolloutPhase::Degraded);
    case.state.reason = "errors: 9 of 10 async failed".into();
    let words = [
        "rolled back at 2026-11-24T12:00:00",
        "because errors: 9 of 10",
        "a percent edit moves nothing until `retry`",
    ];
    let retry = "omnidaemon rollout retry invoke --reason …";
    assert_explains(&case, WaitingFor::Retry, &words, retry);
    case.state.actor = "ada@ops".into();
    assert_explains(&case, WaitingFor::Retry, &["turned back by ada@ops"], retry);
    case.config.percent = Weight::ZERO;
    assert_explains(&case, WaitingFor::Retry, &[], retry);
    let mut case = ExplainFixture::in_phase(RolloutPhase::RollingBack);
    case.lagging_replicas = vec!["a.1".into()];
    assert_explains(&case, WaitingFor::Convergence, &["turns back to 0 %", "a.1"], NO_ACTION);
}

#[test]
fn at_rest_it_says_what_would_move_it() {
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
        &["errors: 30 of 90", "0 of 2 failing looks"],
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
        &["manual", "would turn back: errors: 30 of 90"],
        EDIT_PERCENT,
    );
}

#[test]
fn a_weight_that_somebody_set_stays_until_resume_and_percent_0_stops_everything() {
    for phase in
        [RolloutPhase::Manual, RolloutPhase::Soaking, RolloutPhase::Gating, RolloutPhase::Healthy]
    {
        let mut case = ExplainFixture::in_phase(phase);
        (case.state.manual_hold, case.state.actor) = (true, "ada@ops".into());
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

fn arb_phase() -> impl Strategy<Value = RolloutPhase> {
    let then = [
        PausablePhase::Shifting,
        PausablePhase::Soaking,
        PausablePhase::Gating,
        PausablePhase::Healthy,
    ];
    let paused = (0..PauseReason::ALL.len(), 0..then.len()).prop_map(move |(why, at)| {
        RolloutPhase::Paused { reason: PauseReason::ALL[why], resume_to: then[at] }
    });
    prop_oneof![
        (0..RolloutPhase::UNPAUSED.len()).prop_map(|at| RolloutPhase::UNPAUSED[at].clone()),
        paused
    ]
}

fn arb_verdict() -> impl Strategy<Value = Verdict> {
    let all = [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive, Verdict::Error];
    (0..all.len()).prop_map(move |at| all[at])
}

proptest! {
    #[test]
    fn every_state_is_explained_and_ends_with_what_to_do(
        phase in arb_phase(), weight in 0u16..=10_000, percent in 0u16..=10_000, held: bool, frozen: bool, store: bool,
        lags in 0usize..8, accepted in 0u64..1000, total in 0u64..1000, soaked in 0u64..4000, passes in 0u32..4,
        verdict in arb_verdict(), needs in proptest::option::of(0u64..1000), per_minute in proptest::option::of(0.0f64..1e6), leads: bool, manual: bool,
    ) {
        let mut case = ExplainFixture::in_phase(phase).with_report(verdict, "errors: so", needs);
        case.state.weight = Weight::from_basis_points(weight);
        case.config.percent = Weight::from_basis_points(percent);
        case.config.mode = if manual { RolloutMode::Manual } else { RolloutMode::Gated };
        case.state.manual_hold = held;
        case.state.blocked_reason = frozen.then(|| "not all replicas run it".to_owned());
        (case.store_reachable, case.requests_per_minute, case.state.pass_streak) = (store, per_minute, passes);
        case.is_leader = leads;
        case.lagging_replicas = (0..lags).map(|n| format!("r{n}")).collect();
        (case.evidence.accepted_tasks, case.evidence.async_counts.total) = (accepted, total);
        case.state.soak_elapsed = Duration::from_secs(soaked);
        let told = case.explanation();
        prop_assert!(told.text.starts_with("invoke is at "), "{}", told.text);
        prop_assert!(told.text.ends_with(&format!(". Next: {}", told.next_action)), "{}", told.text);
        let is_way = told.next_action == NO_ACTION || told.next_action == EDIT_PERCENT || told.next_action.starts_with("omnidaemon rollout ");
        prop_assert!(is_way, "{}", told.next_action);
        prop_assert!(!told.text.contains("NaN") && !told.text.contains("inf ") && !told.text.contains('\n'), "{}", told.text);
    }
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
