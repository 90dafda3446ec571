//! The promises of the state machine, on random walks: what holds whatever happens, in whatever
//! order.

#![allow(clippy::float_cmp, reason = "percents are exact in a double")]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::evidence::{EvidenceCounts, RolloutEvidence};
use super::gate::Verdict;
use super::*;
use crate::cohort::Weight;
use crate::config::{
    BaselineMode, GateConfig, GateKind, RatioLimits, RolloutConfig, RolloutMode,
    SHADOW_MISMATCH_GATE, StepConfig,
};
use crate::task::UnixMs;

const MINUTE: Duration = Duration::from_mins(1);

/// What can happen.
#[derive(Clone, Debug)]
enum RandomStep {
    EditConfig(u8, bool),
    Tick { settled: bool },
    Evaluate { good: u64, failed: u64, sync: u64, gone: bool },
    Command(OperatorAction),
}

/// A rollout and the world that it is in.
struct RolloutFixture {
    config: RolloutConfig,
    state: RolloutState,
    evidence: BTreeMap<u64, RolloutEvidence>,
    now_ms: u64,
}

impl RolloutFixture {
    fn new(percent: u8) -> Self {
        let percent = Weight::from_percent(f64::from(percent)).expect("in range");
        let rollout = RolloutConfig::new("invoke", percent, RolloutMode::Gated);
        let mut world = Self {
            config: rollout,
            state: RolloutState::new(UnixMs(0)),
            evidence: BTreeMap::new(),
            now_ms: 0,
        };
        world.apply_input(RolloutInput::ConfigLoaded);
        world
    }

    fn apply_input(&mut self, event: RolloutInput<'_>) -> Vec<RolloutEvent> {
        self.now_ms += 1000;
        let plan = RolloutPlan {
            route: "invoke",
            config: &self.config,
            task_deadline: Duration::from_hours(1),
        };
        match decide(&self.state, plan, event, UnixMs(self.now_ms)) {
            Ok(RolloutDecision { state, events: happened }) => {
                self.state = state;
                happened
            }
            Err(_) => Vec::new(),
        }
    }

    fn issue_command(&mut self, action: OperatorAction) -> Vec<RolloutEvent> {
        let verb = OperatorCommand { action, actor: "ann".into(), reason: "because".into() };
        self.apply_input(RolloutInput::Command(&verb))
    }

    fn tick_once(&mut self, settled: bool) -> Vec<RolloutEvent> {
        let laggards: &[String] =
            if settled { &[] } else { &["other (its file differs)".to_owned()] };
        self.apply_input(RolloutInput::Tick(Tick {
            elapsed: Duration::from_secs(1),
            lagging_replicas: laggards,
            breaker_evidence: &RolloutEvidence::default(),
        }))
    }

    fn evaluate_once(&mut self, news: &RolloutEvidence, elapsed: Duration) -> Vec<RolloutEvent> {
        self.evidence.entry(self.state.epoch).or_default().add(news);
        let known: Vec<RolloutEvidence> = self
            .state
            .evidence_epochs()
            .iter()
            .map(|epoch| self.evidence.get(epoch).copied().unwrap_or_default())
            .collect();
        self.apply_input(RolloutInput::EvaluationDue(RolloutObservation {
            elapsed,
            lagging_replicas: &[],
            epoch_evidence: &known,
            prometheus_samples: &BTreeMap::new(),
            queue_depth: Some(0),
            queue_oldest: Some(Duration::ZERO),
        }))
    }

    fn apply_step(&mut self, act: &RandomStep) -> Vec<RolloutEvent> {
        match act {
            RandomStep::EditConfig(percent, manual) => {
                self.config.percent = Weight::from_percent(f64::from(*percent)).expect("in range");
                self.config.mode = if *manual { RolloutMode::Manual } else { RolloutMode::Gated };
                self.apply_input(RolloutInput::ConfigLoaded)
            }
            RandomStep::Tick { settled } => self.tick_once(*settled),
            RandomStep::Evaluate { good, failed, sync, gone } => self.evaluate_once(
                &make_evidence(*good, *failed, *sync, u64::from(*gone)),
                10 * MINUTE,
            ),
            RandomStep::Command(action) => self.issue_command(*action),
        }
    }

    /// Looks at a healthy canary until something happens, or for so many looks.
    fn evaluate_until_event(&mut self, most: usize) -> Vec<RolloutEvent> {
        for _ in 0..most {
            self.tick_once(true);
            let happened = self.evaluate_once(&make_evidence(400, 0, 400, 0), 10 * MINUTE);
            if !happened.is_empty() {
                return happened;
            }
        }
        panic!("nothing happened: {:?}", self.state);
    }
}

fn make_evidence(good: u64, failed: u64, sync: u64, unavailable: u64) -> RolloutEvidence {
    let counts = |total, failed| EvidenceCounts { total, failed, ..EvidenceCounts::default() };
    RolloutEvidence {
        sync_counts: counts(sync, 0),
        async_counts: counts(good + failed, failed),
        accepted_tasks: good + failed,
        store_unavailable: unavailable,
        ..RolloutEvidence::default()
    }
}

fn arb_step() -> impl Strategy<Value = RandomStep> {
    let order = prop_oneof![
        any::<bool>().prop_map(|full| OperatorAction::Promote { full }),
        Just(OperatorAction::Pause),
        Just(OperatorAction::Resume),
        Just(OperatorAction::Abort),
        Just(OperatorAction::Retry),
        (0u8..=100).prop_map(|percent| OperatorAction::SetWeight(Weight::from_basis_points(
            u16::from(percent) * 100
        ))),
    ];
    prop_oneof![
        1 => (0u8..=100, any::<bool>()).prop_map(|(percent, manual)| RandomStep::EditConfig(percent, manual)),
        4 => any::<bool>().prop_map(|settled| RandomStep::Tick { settled }),
        8 => (0u64..2000, prop_oneof![4 => Just(0u64), 1 => 0u64..50], 0u64..2000, any::<bool>())
            .prop_map(|(good, failed, sync, gone)| RandomStep::Evaluate { good, failed, sync, gone: gone && good % 3 == 0 }),
        1 => order.prop_map(RandomStep::Command),
    ]
}

fn arb_steps() -> impl Strategy<Value = Vec<RandomStep>> {
    proptest::collection::vec(arb_step(), 1..120)
}

proptest! {
    #[test]
    fn what_runs_is_never_over_percent(start in 0u8..=100, acts in arb_steps()) {
        let mut world = RolloutFixture::new(start);
        for act in &acts {
            world.apply_step(act);
            prop_assert!(running_weight(&world.state, world.config.percent) <= world.config.percent);
            if world.config.percent > Weight::ZERO {
                prop_assert!(world.state.weight <= world.config.percent, "{:?} after {act:?}", world.state);
            }
        }
    }

    #[test]
    fn weights_come_from_the_plan_or_from_a_person(start in 0u8..=100, acts in arb_steps()) {
        let mut world = RolloutFixture::new(start);
        let mut allowed = vec![Weight::ZERO, world.config.percent];
        allowed.extend(world.config.steps.iter().map(|step| step.weight));
        for act in &acts {
            match act {
                RandomStep::EditConfig(percent, _) => allowed.push(Weight::from_basis_points(u16::from(*percent) * 100)),
                RandomStep::Command(OperatorAction::SetWeight(weight)) => allowed.push(*weight),
                _ => {}
            }
            world.apply_step(act);
            prop_assert!(allowed.contains(&world.state.weight), "{:?} after {act:?}", world.state.weight);
        }
    }

    #[test]
    fn automation_raises_only_on_a_pass_of_all_gates(start in 1u8..=100, acts in arb_steps()) {
        let mut world = RolloutFixture::new(start);
        for act in &acts {
            let before = world.state.clone();
            for happened in world.apply_step(act) {
                if happened.actor != CONTROLLER_ACTOR || happened.to_weight <= happened.from_weight || happened.from_weight == Weight::ZERO {
                    continue;
                }
                let passed = happened.gate_reports.iter().all(|report| report.verdict == Verdict::Pass);
                let was_healthy = before.phase == RolloutPhase::Healthy;
                prop_assert!(was_healthy || (passed && !happened.gate_reports.is_empty()), "{happened:?} from {before:?}");
                prop_assert!(was_healthy || before.cohort.closed_for.is_some());
            }
        }
    }

    #[test]
    fn a_weight_is_judged_by_the_requests_that_came_at_it(start in 0u8..=100, acts in arb_steps()) {
        let mut world = RolloutFixture::new(start);
        let mut since = world.state.epoch;
        for act in &acts {
            let before = world.state.clone();
            world.apply_step(act);
            if world.state.weight != before.weight {
                since = world.state.epoch;
            }
            let counted = world.state.fail_streak > before.fail_streak || world.state.pass_streak > before.pass_streak;
            prop_assert!(!counted || before.cohort.from_epoch >= since, "{before:?} after {act:?}, at that weight since {since}");
        }
    }

    #[test]
    fn an_abort_holds_until_retry(start in 0u8..=100, before in arb_steps(), after in arb_steps()) {
        let mut world = RolloutFixture::new(start);
        for act in &before {
            world.apply_step(act);
        }
        world.issue_command(OperatorAction::Abort);
        prop_assert_eq!(world.state.weight, Weight::ZERO);
        for act in after.iter().filter(|act| !matches!(act, RandomStep::Command(OperatorAction::Retry))) {
            world.apply_step(act);
            prop_assert_eq!(world.state.weight, Weight::ZERO, "after {:?}", act);
            prop_assert!(matches!(world.state.phase, RolloutPhase::RollingBack | RolloutPhase::Degraded));
        }
    }

    #[test]
    fn without_news_nothing_is_raised_and_nothing_turned_back(start in 1u8..=100, looks in 1usize..200) {
        let mut world = RolloutFixture::new(start);
        world.tick_once(true);
        let weight = world.state.weight;
        for _ in 0..looks {
            for happened in world.evaluate_once(&RolloutEvidence::default(), MINUTE) {
                prop_assert_eq!(happened.kind, "pause");
            }
            world.tick_once(true);
            prop_assert_eq!(world.state.weight, weight);
        }
    }

    #[test]
    fn while_the_store_is_gone_nothing_moves(start in 1u8..=100, looks in 1usize..50, failed in 0u64..500) {
        let mut world = RolloutFixture::new(start);
        world.tick_once(true);
        let (weight, soaked) = (world.state.weight, world.state.soak_elapsed);
        for _ in 0..looks {
            world.evaluate_once(&make_evidence(100, failed, 100, 7), Duration::from_secs(30));
            prop_assert_eq!((world.state.weight, world.state.soak_elapsed), (weight, soaked));
        }
    }

    #[test]
    fn lowering_is_at_once(start in 10u8..=100, acts in arb_steps(), low in 1u8..10) {
        let mut world = RolloutFixture::new(start);
        for act in &acts {
            world.apply_step(act);
        }
        let turned_back = matches!(world.state.phase, RolloutPhase::RollingBack | RolloutPhase::Degraded);
        let before = world.state.weight;
        world.apply_step(&RandomStep::EditConfig(low, world.config.mode == RolloutMode::Manual));
        let percent = world.config.percent;
        prop_assert!(world.state.weight <= percent.min(before.max(percent)));
        prop_assert!(turned_back || running_weight(&world.state, percent) <= percent);
    }

    #[test]
    fn manual_jumps_to_the_percentage_and_then_rests(from in 0u8..=100, to in 0u8..=100) {
        let mut world = RolloutFixture::new(from);
        world.apply_step(&RandomStep::EditConfig(from, true));
        world.apply_step(&RandomStep::EditConfig(to, true));
        prop_assert_eq!(world.state.weight.percent(), f64::from(to));
        let settled = world.state.clone();
        world.apply_step(&RandomStep::EditConfig(to, true));
        prop_assert_eq!(world.state, settled);
    }
}

#[test]
fn a_healthy_canary_climbs_every_step_and_ends_healthy() {
    let mut world = RolloutFixture::new(100);
    let mut weights = vec![world.state.weight.percent()];
    while world.state.phase != RolloutPhase::Healthy {
        let happened = world.evaluate_until_event(20);
        assert_eq!(happened.iter().map(|happened| happened.kind).collect::<Vec<_>>(), ["step"]);
        weights.push(world.state.weight.percent());
    }
    assert_eq!(weights, [10.0, 25.0, 50.0, 100.0, 100.0]);
}

#[test]
fn percent_between_the_steps_is_climbed_to() {
    let mut world = RolloutFixture::new(30);
    let mut weights = vec![world.state.weight.percent()];
    while world.state.phase != RolloutPhase::Healthy {
        world.evaluate_until_event(20);
        weights.push(world.state.weight.percent());
    }
    assert_eq!(weights, [10.0, 25.0, 30.0, 30.0]);
}

#[test]
fn a_failing_canary_is_turned_back_and_left_by_retry_only() {
    let mut world = RolloutFixture::new(50);
    world.tick_once(true);
    let happened: Vec<RolloutEvent> = (0..4)
        .flat_map(|_| world.evaluate_once(&make_evidence(100, 100, 900, 0), MINUTE))
        .collect();
    assert_eq!(happened.iter().map(|happened| happened.kind).collect::<Vec<_>>(), ["rollback"]);
    assert!(happened[0].gate_reports.iter().any(|report| report.verdict == Verdict::Fail));
    world.tick_once(true);
    assert_eq!(world.state.phase, RolloutPhase::Degraded);
    world.apply_step(&RandomStep::EditConfig(100, false));
    assert_eq!(world.state.weight, Weight::ZERO, "an edit moves nothing");
    world.issue_command(OperatorAction::Retry);
    assert_eq!((world.state.weight.percent(), &world.state.phase), (10.0, &RolloutPhase::Shifting));
    // what comes late of the epochs before is not held against the new try
    for evidence in world.evidence.values_mut() {
        evidence.async_counts.failed += 100;
        evidence.async_counts.total += 100;
    }
    world.tick_once(true);
    for _ in 0..3 {
        world.evaluate_once(&make_evidence(100, 0, 900, 0), MINUTE);
    }
    assert_eq!(world.state.weight.percent(), 10.0);
}

#[test]
fn failures_that_come_late_turn_back_the_step_after() {
    let mut world = RolloutFixture::new(50);
    let first = world.state.epoch + 1;
    world.evaluate_until_event(20);
    assert_eq!(world.state.weight.percent(), 25.0);
    world.tick_once(true);
    world.evaluate_once(&make_evidence(400, 0, 1200, 0), MINUTE);
    world.evidence.get_mut(&first).expect("the first step's").async_counts.failed += 150;
    world.evidence.get_mut(&first).expect("the first step's").async_counts.total += 150;
    let happened: Vec<RolloutEvent> = (0..3)
        .flat_map(|_| {
            world.evidence.get_mut(&first).expect("the first step's").async_counts.failed += 50;
            world.evidence.get_mut(&first).expect("the first step's").async_counts.total += 50;
            world.evaluate_once(&make_evidence(40, 0, 120, 0), MINUTE)
        })
        .collect();
    assert_eq!(
        happened.first().map(|happened| happened.kind),
        Some("rollback"),
        "{:?}",
        world.state.gate_reports
    );
}

#[test]
fn a_step_that_asks_for_a_person_waits_for_one() {
    let mut world = RolloutFixture::new(50);
    world.config.steps[0].needs_approval = true;
    let happened = world.evaluate_until_event(20);
    assert_eq!(happened[0].kind, "pause");
    assert!(matches!(
        world.state.phase,
        RolloutPhase::Paused { reason: PauseReason::AwaitingApproval, .. }
    ));
    world.issue_command(OperatorAction::Promote { full: false });
    assert_eq!(world.state.weight.percent(), 25.0);
}

#[test]
fn replicas_that_differ_hold_the_counters_and_are_named() {
    let mut world = RolloutFixture::new(50);
    for _ in 0..200 {
        world.tick_once(false);
    }
    assert!(matches!(
        world.state.phase,
        RolloutPhase::Paused { reason: PauseReason::NotConverged, .. }
    ));
    assert!(world.state.reason.contains("its file differs"), "{}", world.state.reason);
    world.tick_once(true);
    assert_eq!(world.state.phase, RolloutPhase::Soaking);
}

#[test]
fn an_edit_of_the_gates_restarts_the_present_soak_and_nothing_else() {
    let mut world = RolloutFixture::new(50);
    world.evaluate_until_event(20);
    world.tick_once(true);
    world.evaluate_once(&make_evidence(400, 0, 400, 0), 10 * MINUTE);
    assert_eq!((world.state.weight.percent(), world.state.soak_elapsed), (25.0, 10 * MINUTE));
    world.config.gates.truncate(1);
    world.apply_input(RolloutInput::ConfigLoaded);
    assert_eq!((world.state.weight.percent(), world.state.soak_elapsed), (25.0, Duration::ZERO));
}

#[test]
fn percent_0_stops_and_keeps_what_was_reached() {
    let mut world = RolloutFixture::new(50);
    world.evaluate_until_event(20);
    world.tick_once(true);
    world.apply_step(&RandomStep::EditConfig(0, false));
    assert_eq!(running_weight(&world.state, world.config.percent), Weight::ZERO);
    world.apply_step(&RandomStep::EditConfig(50, false));
    assert_eq!(
        (running_weight(&world.state, world.config.percent).percent(), &world.state.phase),
        (25.0, &RolloutPhase::Shifting)
    );
}

#[test]
fn a_weight_over_percent_is_refused_by_the_key() {
    let world = RolloutFixture::new(10);
    let plan =
        RolloutPlan { route: "invoke", config: &world.config, task_deadline: Duration::ZERO };
    for action in [OperatorAction::SetWeight(Weight::FULL), OperatorAction::Promote { full: true }]
    {
        let verb = OperatorCommand { action, actor: "ann".into(), reason: String::new() };
        let refused = decide(&world.state, plan, RolloutInput::Command(&verb), UnixMs(1))
            .expect_err("refused");
        assert!(refused.0.contains("routes.invoke.rollout.percent"), "{refused}");
    }
}

#[test]
fn at_100_percent_the_frozen_baseline_is_compared_with() {
    let mut world = RolloutFixture::new(100);
    world.config.steps = vec![
        StepConfig::new(Weight::from_basis_points(5_000)),
        StepConfig { baseline: BaselineMode::Frozen, ..StepConfig::new(Weight::FULL) },
    ];
    world.apply_input(RolloutInput::ConfigLoaded);
    world.state = RolloutState::new(UnixMs(0));
    world.apply_input(RolloutInput::ConfigLoaded);
    world.evaluate_until_event(20);
    assert_eq!(world.state.weight, Weight::FULL);
    assert!(world.state.sync_baseline.is_some_and(|baseline| baseline.total >= 300));
}

#[test]
fn what_is_not_done_by_its_deadline_has_failed() {
    let mut world = RolloutFixture::new(10);
    world.tick_once(true);
    let lost = RolloutEvidence { accepted_tasks: 400, ..make_evidence(0, 0, 400, 0) };
    world.evaluate_once(&lost, 40 * MINUTE);
    assert_eq!(world.state.phase, RolloutPhase::Gating);
    let happened: Vec<RolloutEvent> = (0..10)
        .flat_map(|_| world.evaluate_once(&RolloutEvidence::default(), 10 * MINUTE))
        .collect();
    assert_eq!(
        happened.first().map(|happened| happened.kind),
        Some("rollback"),
        "{:?}",
        world.state.gate_reports
    );
}

#[test]
fn what_an_operator_paused_stays_paused_when_the_file_allows_less() {
    let mut world = RolloutFixture::new(50);
    world.evaluate_until_event(20);
    world.issue_command(OperatorAction::Pause);
    world.apply_step(&RandomStep::EditConfig(10, false));
    assert_eq!(world.state.weight.percent(), 10.0);
    world.apply_step(&RandomStep::EditConfig(100, false));
    for _ in 0..20 {
        world.tick_once(true);
        world.evaluate_once(&make_evidence(400, 0, 400, 0), 10 * MINUTE);
    }
    assert_eq!(world.state.weight.percent(), 10.0, "{:?}", world.state.phase);
    world.issue_command(OperatorAction::SetWeight(Weight::from_basis_points(500)));
    assert_eq!(world.state.weight.percent(), 10.0, "pause goes before set-weight");
}

#[test]
fn a_pause_for_failing_gates_is_told_once() {
    let mut world = RolloutFixture::new(50);
    world.config.on_fail = crate::config::GateFailureAction::Pause;
    world.tick_once(true);
    let happened: Vec<RolloutEvent> = (0..20)
        .flat_map(|_| world.evaluate_once(&make_evidence(100, 100, 900, 0), MINUTE))
        .collect();
    assert_eq!(happened.iter().map(|happened| happened.kind).collect::<Vec<_>>(), ["pause"]);
}

#[test]
fn from_health_it_is_raised_by_a_person_where_the_step_asks_for_one_and_never_blindly() {
    let mut world = RolloutFixture::new(10);
    world.config.steps[0].needs_approval = true;
    world.evaluate_until_event(20);
    assert_eq!(world.state.phase, RolloutPhase::Healthy);
    world.apply_step(&RandomStep::EditConfig(50, false));
    assert!(
        matches!(
            world.state.phase,
            RolloutPhase::Paused { reason: PauseReason::AwaitingApproval, .. }
        ),
        "{:?}",
        world.state.phase
    );

    let mut world = RolloutFixture::new(10);
    world.evaluate_until_event(20);
    world.evaluate_once(&make_evidence(10, 0, 10, 3), MINUTE); // the store was gone
    world.apply_step(&RandomStep::EditConfig(50, false));
    assert_eq!(world.state.weight.percent(), 10.0);
    world.evaluate_once(&make_evidence(10, 0, 10, 0), MINUTE);
    world.tick_once(true);
    assert_eq!(world.state.weight.percent(), 25.0);
}

#[test]
fn at_100_percent_without_a_baseline_only_a_person_says_that_it_is_healthy() {
    let mut world = RolloutFixture::new(100);
    world.issue_command(OperatorAction::Promote { full: true });
    assert_eq!(world.state.weight, Weight::FULL);
    assert_eq!(world.state.sync_baseline, None);
    for _ in 0..200 {
        world.tick_once(true);
        world.evaluate_once(&make_evidence(4000, 0, 0, 0), 10 * MINUTE);
    }
    let paused =
        matches!(world.state.phase, RolloutPhase::Paused { reason: PauseReason::Inconclusive, .. });
    assert!(paused, "{:?}", world.state.gate_reports);
    world.issue_command(OperatorAction::Promote { full: false });
    assert_eq!(world.state.phase, RolloutPhase::Healthy);
}

#[test]
fn a_flushed_store_begins_the_step_anew() {
    let mut world = RolloutFixture::new(10);
    world.tick_once(true);
    let deferred = RolloutEvidence { deferred_requests: 3, ..make_evidence(4000, 0, 4000, 0) };
    world.evaluate_once(&deferred, MINUTE);
    // the tallies are gone, and what the proxies counted is not
    world.evidence.values_mut().for_each(|known| {
        *known = RolloutEvidence { deferred_requests: 3, ..RolloutEvidence::default() }
    });
    world.apply_input(RolloutInput::StoreLost);
    for _ in 0..5 {
        world.tick_once(true);
        world.evaluate_once(&make_evidence(40, 0, 400, 0), MINUTE);
    }
    assert_eq!((world.state.weight.percent(), &world.state.phase), (10.0, &RolloutPhase::Soaking));
}

#[test]
fn a_healthy_rollout_whose_tasks_never_end_is_turned_back() {
    let mut world = RolloutFixture::new(10);
    world.evaluate_until_event(20);
    assert_eq!(world.state.phase, RolloutPhase::Healthy);
    let lost = RolloutEvidence { accepted_tasks: 400, ..make_evidence(0, 0, 4000, 0) };
    let happened = (0..100).find_map(|_| world.evaluate_once(&lost, 10 * MINUTE).pop());
    assert_eq!(happened.map(|happened| happened.kind), Some("rollback"));
}

#[test]
fn a_slow_task_of_a_quick_climb_has_its_time_in_health_too() {
    let mut world = RolloutFixture::new(100);
    world.config.soak = MINUTE;
    let slow = RolloutEvidence { accepted_tasks: 402, ..make_evidence(400, 0, 400, 0) };
    for _ in 0..60 {
        if world.state.phase == RolloutPhase::Healthy {
            break;
        }
        world.tick_once(true);
        world.evaluate_once(&slow, MINUTE);
    }
    assert_eq!(world.state.phase, RolloutPhase::Healthy);
    // what a step left open ends within its hour: nothing has failed before
    for _ in 0..3 {
        world.evaluate_once(&make_evidence(400, 0, 0, 0), 15 * MINUTE);
        assert_eq!(
            world.state.seen_evidence.iter().map(|seen| seen.async_counts.failed).sum::<u64>(),
            0
        );
    }
}

#[test]
fn copies_hold_a_step_until_enough_are_compared_but_not_the_last_which_has_none() {
    let mut world = RolloutFixture::new(100);
    let limits = RatioLimits { max: Some(0.01), ..RatioLimits::default() };
    world.config.gates.push(GateConfig {
        name: SHADOW_MISMATCH_GATE.into(),
        kind: GateKind::ShadowMismatch(limits),
    });
    let look = |world: &mut RolloutFixture, compared| {
        world.tick_once(true);
        world.evaluate_once(
            &RolloutEvidence {
                shadow_copied: compared,
                shadow_compared: compared,
                ..make_evidence(400, 0, 400, 0)
            },
            10 * MINUTE,
        );
        world.state.weight.percent()
    };
    for _ in 0..20 {
        assert_eq!(look(&mut world, 0), 10.0, "nothing was compared");
    }
    assert_eq!(world.state.phase, RolloutPhase::Gating);
    // what is compared after the cohort was closed counts too, without waiting for many canaried
    // requests
    let looks = (0..20).take_while(|_| look(&mut world, 60) < 25.0).count();
    assert!((5..15).contains(&looks), "{looks} looks of 60 copies; 347 are needed");
    for _ in 0..60 {
        if world.state.weight < Weight::FULL {
            look(&mut world, 400);
        }
    }
    assert_eq!(world.state.weight, Weight::FULL);
    for _ in 0..20 {
        look(&mut world, 0);
    }
    assert_eq!(world.state.phase, RolloutPhase::Healthy);
}
