//! Every phase is explained, and each of the numbers that a person asks for is in it.

use proptest::prelude::*;

use super::*;
use crate::config::{Gate, GateKind, Limits, MinSamples, Prometheus, RolloutMode, Secret, Step};
use crate::rollout::evidence::Counts;
use crate::rollout::state::Progress;

/// A rollout at 10 % on its way to 50 %, of which a test changes what it is about.
struct Case {
    rollout: Rollout,
    state: State,
    laggards: Vec<String>,
    evidence: Evidence,
    store: bool,
    leads: bool,
    per_minute: Option<f64>,
    /// 2026-11-24T12:00:00Z, a Tuesday.
    now: UnixMs,
}

const NOON: UnixMs = UnixMs(1_795_521_600_000);

impl Case {
    fn in_phase(phase: Phase) -> Self {
        let percent = Weight::from_basis_points(5_000);
        let weight = if matches!(phase, Phase::Idle | Phase::RollingBack | Phase::Degraded) { 0 } else { 1_000 };
        Self {
            rollout: Rollout::new("invoke", percent, RolloutMode::Gated),
            state: State { phase, weight: Weight::from_basis_points(weight), ..State::fresh(NOON) },
            laggards: Vec::new(),
            evidence: Evidence::default(),
            store: true,
            leads: true,
            per_minute: Some(20.0),
            now: NOON,
        }
    }

    fn soaked(mut self) -> Self {
        self.state.soaked = self.rollout.soak;
        self
    }

    fn report(mut self, verdict: Verdict, why: &str, needs: Option<u64>) -> Self {
        let kind = "error_ratio";
        let (asynchronous, sync, value, interval) = (None, None, None, None);
        let gate = "errors".to_owned();
        let why = why.to_owned();
        self.state.reports.push(Report { gate, kind, verdict, why, needs, asynchronous, sync, value, interval });
        self
    }

    fn told(&self) -> Explanation {
        explain(&Standing {
            route: "invoke",
            rollout: &self.rollout,
            file: Some("config/omnidaemon.yaml"),
            state: &self.state,
            running: self.state.weight.min(self.rollout.percent),
            next: self.rollout.next_after(self.state.weight),
            laggards: &self.laggards,
            evidence: self.leads.then_some(&self.evidence),
            per_minute: self.per_minute,
            store: self.store,
            now: self.now,
        })
    }
}

/// That it waits for this, says these words, and ends with this.
#[track_caller]
fn holds(case: &Case, waiting_for: Waiting, words: &[&str], next: &str) {
    let told = case.told();
    assert_eq!(told.waiting_for, waiting_for, "{}", told.text);
    for word in words {
        assert!(told.text.contains(word), "no {word:?} in {}", told.text);
    }
    assert_eq!(told.next, next, "{}", told.text);
    assert!(told.text.ends_with(&format!(". Next: {next}")), "{}", told.text);
}

const NOTHING: &str = "nothing to do";
const PROMOTE: &str = "omnidaemon rollout promote invoke --reason …";
const RESUME: &str = "omnidaemon rollout resume invoke --reason …";
const EDIT: &str = "edit routes.invoke.rollout.percent in config/omnidaemon.yaml";

#[test]
fn a_soak_says_how_long_it_still_takes() {
    let mut case = Case::in_phase(Phase::Soaking);
    case.state.soaked = Duration::from_mins(12);
    holds(&case, Waiting::Soak, &["at 10 %", "next 25 %", "percent 50 %", "12 min of 30 min, 18 min to go"], NOTHING);
    assert_eq!(case.told().countdown, Some(Duration::from_mins(18)));
    case.rollout.steps[0] = Step { soak: Some(Duration::from_hours(2)), ..Step::new(case.state.weight) };
    holds(&case, Waiting::Soak, &["12 min of 2 h, 1 h 48 min to go"], NOTHING);
}

#[test]
fn after_the_soak_it_says_how_many_requests_are_missing_and_how_long_they_take_to_come() {
    let mut case = Case::in_phase(Phase::Soaking).soaked();
    case.evidence.accepted = 180;
    let words = ["180 of 300 canaried requests", "needs 120 more, about 6 min at this rate", "pauses in 24 h"];
    holds(&case, Waiting::Samples, &words, PROMOTE);
    assert_eq!(
        (case.told().countdown, case.told().pauses_in),
        (Some(Duration::from_mins(6)), Some(case.rollout.max_wait))
    );
    case.per_minute = Some(0.0);
    holds(&case, Waiting::Samples, &["no canaried request came lately"], PROMOTE);
    assert_eq!(case.told().countdown, None);
    case.evidence.accepted = 300;
    case.evidence.sync = Counts { total: 20, ..Counts::default() };
    holds(&case, Waiting::Samples, &["20 of 300 sync requests", "280 more"], PROMOTE);
    case.rollout.min_samples = MinSamples { sync: 0, ..case.rollout.min_samples };
    holds(&case, Waiting::Soak, &["about to be judged"], NOTHING);
    (case.leads, case.per_minute) = (false, None);
    holds(&case, Waiting::Samples, &["short of min_samples"], PROMOTE);
}

#[test]
fn a_cohort_that_is_not_mature_says_how_much_of_it_has_ended() {
    let mut case = Case::in_phase(Phase::Gating);
    case.evidence.accepted = 412;
    case.evidence.asynchronous.total = 400;
    holds(&case, Waiting::Maturity, &["97.1 % of 412 tasks have ended, 99 % needed"], PROMOTE);
}

#[test]
fn an_undecided_gate_says_why_and_what_it_needs() {
    let why = "errors: 0 of 143 async failed, upper bound 1.9 % > 1 %, needs 125 more";
    let case = Case::in_phase(Phase::Gating).report(Verdict::Inconclusive, why, Some(125));
    holds(&case, Waiting::Samples, &[why, "needs 125 more, about 6 min 15 s at this rate"], PROMOTE);
    let case = Case::in_phase(Phase::Gating).report(Verdict::Inconclusive, "errors: between", None);
    holds(&case, Waiting::Gates, &["errors: between"], PROMOTE);
    let case = Case::in_phase(Phase::Gating).report(Verdict::Error, "errors: connection refused", None);
    holds(&case, Waiting::Metrics, &["connection refused"], PROMOTE);
    let mut case = Case::in_phase(Phase::Gating).report(Verdict::Fail, "errors: of a gate that is gone", None);
    case.state.reports[0].gate = "old".into();
    holds(&case, Waiting::Gates, &["for the first time"], NOTHING);
    assert!(!case.told().text.contains("that is gone"));
}

#[test]
fn at_percent_there_is_nothing_to_promote_to() {
    let mut case = Case::in_phase(Phase::Gating).report(Verdict::Inconclusive, "errors: between", None);
    case.state.weight = case.rollout.percent;
    holds(&case, Waiting::Gates, &["errors: between"], NOTHING);
}

#[test]
fn passing_gates_wait_for_their_streak_and_then_for_a_window() {
    let mut case = Case::in_phase(Phase::Gating).report(Verdict::Pass, "errors: fine", None);
    case.state.passes = 1;
    holds(&case, Waiting::Gates, &["all gates pass, 1 of 2 times in a row"], NOTHING);
    case.state.passes = 2;
    case.rollout.windows = vec![Window { days: vec![0, 1], hours: (14 * 60, 17 * 60), zone: jiff::tz::TimeZone::UTC }];
    holds(&case, Waiting::Window, &["mon, tue 14:00-17:00 (UTC)", "begins in 2 h"], PROMOTE);
    assert_eq!(case.told().countdown, Some(Duration::from_hours(2)));
    case.now = NOON.plus(Duration::from_hours(3));
    holds(&case, Waiting::Gates, &["2 of 2"], NOTHING);
}

#[test]
fn replicas_that_lag_are_named() {
    let mut case = Case::in_phase(Phase::Shifting);
    holds(&case, Waiting::Convergence, &["about to"], NOTHING);
    case.laggards = ["a.1", "b.2"].map(String::from).to_vec();
    case.state.waited = Duration::from_secs(30);
    holds(&case, Waiting::Convergence, &["a.1, b.2 did not yet take up the weight", "pauses in 1 min 30 s"], NOTHING);
    case.laggards = (0..9).map(|n| format!("r{n}")).collect();
    holds(&case, Waiting::Convergence, &["r4 and 4 more"], NOTHING);
    case.state.phase = Phase::Paused { why: Pause::NotConverged, then: Progress::Shifting };
    holds(&case, Waiting::Convergence, &["r0", "within 2 min"], RESUME);
}

#[test]
fn what_stands_still_says_why() {
    let mut case = Case::in_phase(Phase::Soaking);
    case.state.frozen = Some("lag: connection refused".into());
    case.state.blind = Duration::from_mins(4);
    case.rollout.prometheus = Some(Prometheus {
        url: Secret::new("http://p"),
        timeout: Duration::from_secs(5),
        max_staleness: Duration::from_mins(1),
        grace: Duration::from_mins(10),
    });
    holds(&case, Waiting::Metrics, &["lag: connection refused", "stand still", "pauses in 6 min"], NOTHING);
    case.laggards = vec!["a.1".into()];
    holds(&case, Waiting::Convergence, &["stand still", "a.1"], NOTHING);
    case.store = false;
    holds(&case, Waiting::Store, &["the store does not answer", "served sync"], NOTHING);
}

#[test]
fn a_pause_says_who_and_why_and_what_ends_it() {
    let paused = |why| {
        let mut case = Case::in_phase(Phase::Paused { why, then: Progress::Gating });
        (case.state.by, case.state.reason) = ("ada@ops".into(), "lunch".into());
        case
    };
    holds(&paused(Pause::Operator), Waiting::Operator, &["ada@ops paused it because lunch"], RESUME);
    holds(&paused(Pause::AwaitingApproval), Waiting::Approval, &["asks for a person"], PROMOTE);
    let undecided = paused(Pause::Inconclusive).report(Verdict::Inconclusive, "errors: between", None);
    holds(&undecided, Waiting::Gates, &["undecided for 24 h", "errors: between", "resume waits again"], PROMOTE);
    let blind = paused(Pause::MetricsUnavailable);
    holds(&blind, Waiting::Metrics, &["lunch", "by itself after three good looks in a row (0 so far)"], NOTHING);
    let failed = paused(Pause::Failed).report(Verdict::Fail, "errors: 9 of 10", None);
    holds(
        &failed,
        Waiting::Operator,
        &["errors: 9 of 10", "on_fail is pause"],
        "omnidaemon rollout abort invoke --reason …",
    );
}

#[test]
fn what_turned_back_says_when_and_why_and_that_a_percent_moves_nothing() {
    let mut case = Case::in_phase(Phase::Degraded);
    case.state.reason = "errors: 9 of 10 async failed".into();
    let words =
        ["rolled back at 2026-11-24T12:00:00", "because errors: 9 of 10", "a percent edit moves nothing until `retry`"];
    let retry = "omnidaemon rollout retry invoke --reason …";
    holds(&case, Waiting::Retry, &words, retry);
    case.state.by = "ada@ops".into();
    holds(&case, Waiting::Retry, &["turned back by ada@ops"], retry);
    case.rollout.percent = Weight::ZERO;
    holds(&case, Waiting::Retry, &[], retry);
    let mut case = Case::in_phase(Phase::RollingBack);
    case.laggards = vec!["a.1".into()];
    holds(&case, Waiting::Convergence, &["turns back to 0 %", "a.1"], NOTHING);
}

#[test]
fn at_rest_it_says_what_would_move_it() {
    let mut case = Case::in_phase(Phase::Healthy);
    case.state.weight = case.rollout.percent;
    holds(&case, Waiting::Percent, &["percent is reached", "keep judging"], EDIT);
    case.rollout.percent = Weight::FULL;
    holds(&case, Waiting::Nothing, &["about to go on to 100 %"], NOTHING);
    case.state.weight = Weight::FULL;
    holds(&case, Waiting::Nothing, &["percent is reached"], NOTHING);
    case = case.report(Verdict::Fail, "errors: 30 of 90", None);
    holds(
        &case,
        Waiting::Gates,
        &["errors: 30 of 90", "0 of 2 failing looks"],
        "omnidaemon rollout abort invoke --reason …",
    );
    let mut manual = Case::in_phase(Phase::Manual).report(Verdict::Fail, "errors: 30 of 90", None);
    manual.rollout.mode = RolloutMode::Manual;
    holds(&manual, Waiting::Percent, &["manual", "would turn back: errors: 30 of 90"], EDIT);
}

#[test]
fn a_weight_that_somebody_set_stays_until_resume_and_percent_0_stops_everything() {
    for phase in [Phase::Manual, Phase::Soaking, Phase::Gating, Phase::Healthy] {
        let mut case = Case::in_phase(phase);
        (case.state.held, case.state.by) = (true, "ada@ops".into());
        holds(&case, Waiting::Operator, &["ada@ops set the weight to 10 %"], RESUME);
        case.rollout.percent = Weight::ZERO;
        holds(&case, Waiting::Percent, &["allows nothing"], EDIT);
    }
}

fn phases() -> impl Strategy<Value = Phase> {
    let then = [Progress::Shifting, Progress::Soaking, Progress::Gating, Progress::Healthy];
    let paused = (0..Pause::ALL.len(), 0..then.len())
        .prop_map(move |(why, at)| Phase::Paused { why: Pause::ALL[why], then: then[at] });
    prop_oneof![(0..Phase::GOING.len()).prop_map(|at| Phase::GOING[at].clone()), paused]
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    let all = [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive, Verdict::Error];
    (0..all.len()).prop_map(move |at| all[at])
}

proptest! {
    #[test]
    fn every_state_is_explained_and_ends_with_what_to_do(
        phase in phases(), weight in 0u16..=10_000, percent in 0u16..=10_000, held: bool, frozen: bool, store: bool,
        lags in 0usize..8, accepted in 0u64..1000, total in 0u64..1000, soaked in 0u64..4000, passes in 0u32..4,
        verdict in verdicts(), needs in proptest::option::of(0u64..1000), per_minute in proptest::option::of(0.0f64..1e6), leads: bool, manual: bool,
    ) {
        let mut case = Case::in_phase(phase).report(verdict, "errors: so", needs);
        case.state.weight = Weight::from_basis_points(weight);
        case.rollout.percent = Weight::from_basis_points(percent);
        case.rollout.mode = if manual { RolloutMode::Manual } else { RolloutMode::Gated };
        case.state.held = held;
        case.state.frozen = frozen.then(|| "not all replicas run it".to_owned());
        (case.store, case.per_minute, case.state.passes) = (store, per_minute, passes);
        case.leads = leads;
        case.laggards = (0..lags).map(|n| format!("r{n}")).collect();
        (case.evidence.accepted, case.evidence.asynchronous.total) = (accepted, total);
        case.state.soaked = Duration::from_secs(soaked);
        let told = case.told();
        prop_assert!(told.text.starts_with("invoke is at "), "{}", told.text);
        prop_assert!(told.text.ends_with(&format!(". Next: {}", told.next)), "{}", told.text);
        let is_way = told.next == NOTHING || told.next == EDIT || told.next.starts_with("omnidaemon rollout ");
        prop_assert!(is_way, "{}", told.next);
        prop_assert!(!told.text.contains("NaN") && !told.text.contains("inf ") && !told.text.contains('\n'), "{}", told.text);
    }
}

#[test]
fn a_gate_of_a_file_is_found_by_name() {
    let mut case = Case::in_phase(Phase::Gating).report(Verdict::Inconclusive, "lag: 40 > 30", None);
    case.state.reports[0].gate = "lag".into();
    case.rollout.gates.push(Gate { name: "lag".into(), kind: GateKind::ErrorRatio(Limits::default()) });
    holds(&case, Waiting::Gates, &["lag: 40 > 30"], PROMOTE);
}
