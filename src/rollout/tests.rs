//! The promises of the state machine, on random walks: what holds whatever happens, in whatever order.

#![allow(clippy::float_cmp, reason = "percents are exact in a double")]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::evidence::{Counts, Evidence};
use super::gate::Verdict;
use super::*;
use crate::cohort::Weight;
use crate::config::{Baseline, Gate, GateKind, Limits, Rollout, RolloutMode, SHADOW_MISMATCH, Step};
use crate::task::UnixMs;

const MINUTE: Duration = Duration::from_mins(1);

/// What can happen.
#[derive(Clone, Debug)]
enum Act {
    Edit(u8, bool),
    Beat { settled: bool },
    Look { good: u64, failed: u64, sync: u64, gone: bool },
    Order(Action),
}

/// A rollout and the world that it is in.
struct World {
    rollout: Rollout,
    state: State,
    evidence: BTreeMap<u64, Evidence>,
    now: u64,
}

impl World {
    fn new(percent: u8) -> Self {
        let percent = Weight::from_percent(f64::from(percent)).expect("in range");
        let rollout = Rollout::new("invoke", percent, RolloutMode::Gated);
        let mut world = Self { rollout, state: State::fresh(UnixMs(0)), evidence: BTreeMap::new(), now: 0 };
        world.event(Event::Planned);
        world
    }

    fn event(&mut self, event: Event<'_>) -> Vec<Happened> {
        self.now += 1000;
        let plan = Plan { route: "invoke", rollout: &self.rollout, deadline: Duration::from_hours(1) };
        match decide(&self.state, plan, event, UnixMs(self.now)) {
            Ok(Decision { state, happened }) => {
                self.state = state;
                happened
            }
            Err(_) => Vec::new(),
        }
    }

    fn order(&mut self, action: Action) -> Vec<Happened> {
        let verb = Verb { action, actor: "ann".into(), reason: "because".into() };
        self.event(Event::Ordered(&verb))
    }

    fn beat(&mut self, settled: bool) -> Vec<Happened> {
        let laggards: &[String] = if settled { &[] } else { &["other (its file differs)".to_owned()] };
        self.event(Event::Beat(Beat { elapsed: Duration::from_secs(1), laggards, window: &Evidence::default() }))
    }

    fn look(&mut self, news: &Evidence, elapsed: Duration) -> Vec<Happened> {
        self.evidence.entry(self.state.epoch).or_default().add(news);
        let known: Vec<Evidence> =
            self.state.epochs().iter().map(|epoch| self.evidence.get(epoch).copied().unwrap_or_default()).collect();
        self.event(Event::Look(Observation {
            elapsed,
            laggards: &[],
            evidence: &known,
            samples: &BTreeMap::new(),
            queue_depth: Some(0),
            queue_oldest: Some(Duration::ZERO),
        }))
    }

    fn act(&mut self, act: &Act) -> Vec<Happened> {
        match act {
            Act::Edit(percent, manual) => {
                self.rollout.percent = Weight::from_percent(f64::from(*percent)).expect("in range");
                self.rollout.mode = if *manual { RolloutMode::Manual } else { RolloutMode::Gated };
                self.event(Event::Planned)
            }
            Act::Beat { settled } => self.beat(*settled),
            Act::Look { good, failed, sync, gone } => {
                self.look(&evidence(*good, *failed, *sync, u64::from(*gone)), 10 * MINUTE)
            }
            Act::Order(action) => self.order(*action),
        }
    }

    /// Looks at a healthy canary until something happens, or for so many looks.
    fn look_until_told(&mut self, most: usize) -> Vec<Happened> {
        for _ in 0..most {
            self.beat(true);
            let happened = self.look(&evidence(400, 0, 400, 0), 10 * MINUTE);
            if !happened.is_empty() {
                return happened;
            }
        }
        panic!("nothing happened: {:?}", self.state);
    }
}

fn evidence(good: u64, failed: u64, sync: u64, unavailable: u64) -> Evidence {
    let counts = |total, failed| Counts { total, failed, ..Counts::default() };
    Evidence {
        sync: counts(sync, 0),
        asynchronous: counts(good + failed, failed),
        accepted: good + failed,
        unavailable,
        ..Evidence::default()
    }
}

fn act() -> impl Strategy<Value = Act> {
    let order = prop_oneof![
        any::<bool>().prop_map(|full| Action::Promote { full }),
        Just(Action::Pause),
        Just(Action::Resume),
        Just(Action::Abort),
        Just(Action::Retry),
        (0u8..=100).prop_map(|percent| Action::SetWeight(Weight::from_basis_points(u16::from(percent) * 100))),
    ];
    prop_oneof![
        1 => (0u8..=100, any::<bool>()).prop_map(|(percent, manual)| Act::Edit(percent, manual)),
        4 => any::<bool>().prop_map(|settled| Act::Beat { settled }),
        8 => (0u64..2000, prop_oneof![4 => Just(0u64), 1 => 0u64..50], 0u64..2000, any::<bool>())
            .prop_map(|(good, failed, sync, gone)| Act::Look { good, failed, sync, gone: gone && good % 3 == 0 }),
        1 => order.prop_map(Act::Order),
    ]
}

fn walk() -> impl Strategy<Value = Vec<Act>> {
    proptest::collection::vec(act(), 1..120)
}

proptest! {
    #[test]
    fn what_runs_is_never_over_percent(start in 0u8..=100, acts in walk()) {
        let mut world = World::new(start);
        for act in &acts {
            world.act(act);
            prop_assert!(running(&world.state, world.rollout.percent) <= world.rollout.percent);
            if world.rollout.percent > Weight::ZERO {
                prop_assert!(world.state.weight <= world.rollout.percent, "{:?} after {act:?}", world.state);
            }
        }
    }

    #[test]
    fn weights_come_from_the_plan_or_from_a_person(start in 0u8..=100, acts in walk()) {
        let mut world = World::new(start);
        let mut allowed = vec![Weight::ZERO, world.rollout.percent];
        allowed.extend(world.rollout.steps.iter().map(|step| step.weight));
        for act in &acts {
            match act {
                Act::Edit(percent, _) => allowed.push(Weight::from_basis_points(u16::from(*percent) * 100)),
                Act::Order(Action::SetWeight(weight)) => allowed.push(*weight),
                _ => {}
            }
            world.act(act);
            prop_assert!(allowed.contains(&world.state.weight), "{:?} after {act:?}", world.state.weight);
        }
    }

    #[test]
    fn automation_raises_only_on_a_pass_of_all_gates(start in 1u8..=100, acts in walk()) {
        let mut world = World::new(start);
        for act in &acts {
            let before = world.state.clone();
            for happened in world.act(act) {
                if happened.by != CONTROLLER || happened.to <= happened.from || happened.from == Weight::ZERO {
                    continue;
                }
                let passed = happened.reports.iter().all(|report| report.verdict == Verdict::Pass);
                let was_healthy = before.phase == Phase::Healthy;
                prop_assert!(was_healthy || (passed && !happened.reports.is_empty()), "{happened:?} from {before:?}");
                prop_assert!(was_healthy || before.cohort.closed.is_some());
            }
        }
    }

    #[test]
    fn a_weight_is_judged_by_the_requests_that_came_at_it(start in 0u8..=100, acts in walk()) {
        let mut world = World::new(start);
        let mut since = world.state.epoch;
        for act in &acts {
            let before = world.state.clone();
            world.act(act);
            if world.state.weight != before.weight {
                since = world.state.epoch;
            }
            let counted = world.state.fails > before.fails || world.state.passes > before.passes;
            prop_assert!(!counted || before.cohort.from >= since, "{before:?} after {act:?}, at that weight since {since}");
        }
    }

    #[test]
    fn an_abort_holds_until_retry(start in 0u8..=100, before in walk(), after in walk()) {
        let mut world = World::new(start);
        for act in &before {
            world.act(act);
        }
        world.order(Action::Abort);
        prop_assert_eq!(world.state.weight, Weight::ZERO);
        for act in after.iter().filter(|act| !matches!(act, Act::Order(Action::Retry))) {
            world.act(act);
            prop_assert_eq!(world.state.weight, Weight::ZERO, "after {:?}", act);
            prop_assert!(matches!(world.state.phase, Phase::RollingBack | Phase::Degraded));
        }
    }

    #[test]
    fn without_news_nothing_is_raised_and_nothing_turned_back(start in 1u8..=100, looks in 1usize..200) {
        let mut world = World::new(start);
        world.beat(true);
        let weight = world.state.weight;
        for _ in 0..looks {
            for happened in world.look(&Evidence::default(), MINUTE) {
                prop_assert_eq!(happened.event, "pause");
            }
            world.beat(true);
            prop_assert_eq!(world.state.weight, weight);
        }
    }

    #[test]
    fn while_the_store_is_gone_nothing_moves(start in 1u8..=100, looks in 1usize..50, failed in 0u64..500) {
        let mut world = World::new(start);
        world.beat(true);
        let (weight, soaked) = (world.state.weight, world.state.soaked);
        for _ in 0..looks {
            world.look(&evidence(100, failed, 100, 7), Duration::from_secs(30));
            prop_assert_eq!((world.state.weight, world.state.soaked), (weight, soaked));
        }
    }

    #[test]
    fn lowering_is_at_once(start in 10u8..=100, acts in walk(), low in 1u8..10) {
        let mut world = World::new(start);
        for act in &acts {
            world.act(act);
        }
        let turned_back = matches!(world.state.phase, Phase::RollingBack | Phase::Degraded);
        let before = world.state.weight;
        world.act(&Act::Edit(low, world.rollout.mode == RolloutMode::Manual));
        let percent = world.rollout.percent;
        prop_assert!(world.state.weight <= percent.min(before.max(percent)));
        prop_assert!(turned_back || running(&world.state, percent) <= percent);
    }

    #[test]
    fn manual_jumps_to_the_percentage_and_then_rests(from in 0u8..=100, to in 0u8..=100) {
        let mut world = World::new(from);
        world.act(&Act::Edit(from, true));
        world.act(&Act::Edit(to, true));
        prop_assert_eq!(world.state.weight.percent(), f64::from(to));
        let settled = world.state.clone();
        world.act(&Act::Edit(to, true));
        prop_assert_eq!(world.state, settled);
    }
}

#[test]
fn a_healthy_canary_climbs_every_step_and_ends_healthy() {
    let mut world = World::new(100);
    let mut weights = vec![world.state.weight.percent()];
    while world.state.phase != Phase::Healthy {
        let happened = world.look_until_told(20);
        assert_eq!(happened.iter().map(|happened| happened.event).collect::<Vec<_>>(), ["step"]);
        weights.push(world.state.weight.percent());
    }
    assert_eq!(weights, [10.0, 25.0, 50.0, 100.0, 100.0]);
}

#[test]
fn percent_between_the_steps_is_climbed_to() {
    let mut world = World::new(30);
    let mut weights = vec![world.state.weight.percent()];
    while world.state.phase != Phase::Healthy {
        world.look_until_told(20);
        weights.push(world.state.weight.percent());
    }
    assert_eq!(weights, [10.0, 25.0, 30.0, 30.0]);
}

#[test]
fn a_failing_canary_is_turned_back_and_left_by_retry_only() {
    let mut world = World::new(50);
    world.beat(true);
    let happened: Vec<Happened> = (0..4).flat_map(|_| world.look(&evidence(100, 100, 900, 0), MINUTE)).collect();
    assert_eq!(happened.iter().map(|happened| happened.event).collect::<Vec<_>>(), ["rollback"]);
    assert!(happened[0].reports.iter().any(|report| report.verdict == Verdict::Fail));
    world.beat(true);
    assert_eq!(world.state.phase, Phase::Degraded);
    world.act(&Act::Edit(100, false));
    assert_eq!(world.state.weight, Weight::ZERO, "an edit moves nothing");
    world.order(Action::Retry);
    assert_eq!((world.state.weight.percent(), &world.state.phase), (10.0, &Phase::Shifting));
    // what comes late of the epochs before is not held against the new try
    for evidence in world.evidence.values_mut() {
        evidence.asynchronous.failed += 100;
        evidence.asynchronous.total += 100;
    }
    world.beat(true);
    for _ in 0..3 {
        world.look(&evidence(100, 0, 900, 0), MINUTE);
    }
    assert_eq!(world.state.weight.percent(), 10.0);
}

#[test]
fn failures_that_come_late_turn_back_the_step_after() {
    let mut world = World::new(50);
    let first = world.state.epoch + 1;
    world.look_until_told(20);
    assert_eq!(world.state.weight.percent(), 25.0);
    world.beat(true);
    world.look(&evidence(400, 0, 1200, 0), MINUTE);
    world.evidence.get_mut(&first).expect("the first step's").asynchronous.failed += 150;
    world.evidence.get_mut(&first).expect("the first step's").asynchronous.total += 150;
    let happened: Vec<Happened> = (0..3)
        .flat_map(|_| {
            world.evidence.get_mut(&first).expect("the first step's").asynchronous.failed += 50;
            world.evidence.get_mut(&first).expect("the first step's").asynchronous.total += 50;
            world.look(&evidence(40, 0, 120, 0), MINUTE)
        })
        .collect();
    assert_eq!(happened.first().map(|happened| happened.event), Some("rollback"), "{:?}", world.state.reports);
}

#[test]
fn a_step_that_asks_for_a_person_waits_for_one() {
    let mut world = World::new(50);
    world.rollout.steps[0].approval = true;
    let happened = world.look_until_told(20);
    assert_eq!(happened[0].event, "pause");
    assert!(matches!(world.state.phase, Phase::Paused { why: Pause::AwaitingApproval, .. }));
    world.order(Action::Promote { full: false });
    assert_eq!(world.state.weight.percent(), 25.0);
}

#[test]
fn replicas_that_differ_hold_the_counters_and_are_named() {
    let mut world = World::new(50);
    for _ in 0..200 {
        world.beat(false);
    }
    assert!(matches!(world.state.phase, Phase::Paused { why: Pause::NotConverged, .. }));
    assert!(world.state.reason.contains("its file differs"), "{}", world.state.reason);
    world.beat(true);
    assert_eq!(world.state.phase, Phase::Soaking);
}

#[test]
fn an_edit_of_the_gates_restarts_the_present_soak_and_nothing_else() {
    let mut world = World::new(50);
    world.look_until_told(20);
    world.beat(true);
    world.look(&evidence(400, 0, 400, 0), 10 * MINUTE);
    assert_eq!((world.state.weight.percent(), world.state.soaked), (25.0, 10 * MINUTE));
    world.rollout.gates.truncate(1);
    world.event(Event::Planned);
    assert_eq!((world.state.weight.percent(), world.state.soaked), (25.0, Duration::ZERO));
}

#[test]
fn percent_0_stops_and_keeps_what_was_reached() {
    let mut world = World::new(50);
    world.look_until_told(20);
    world.beat(true);
    world.act(&Act::Edit(0, false));
    assert_eq!(running(&world.state, world.rollout.percent), Weight::ZERO);
    world.act(&Act::Edit(50, false));
    assert_eq!((running(&world.state, world.rollout.percent).percent(), &world.state.phase), (25.0, &Phase::Shifting));
}

#[test]
fn a_weight_over_percent_is_refused_by_the_key() {
    let world = World::new(10);
    let plan = Plan { route: "invoke", rollout: &world.rollout, deadline: Duration::ZERO };
    for action in [Action::SetWeight(Weight::FULL), Action::Promote { full: true }] {
        let verb = Verb { action, actor: "ann".into(), reason: String::new() };
        let refused = decide(&world.state, plan, Event::Ordered(&verb), UnixMs(1)).expect_err("refused");
        assert!(refused.0.contains("routes.invoke.rollout.percent"), "{refused}");
    }
}

#[test]
fn at_100_percent_the_frozen_baseline_is_compared_with() {
    let mut world = World::new(100);
    world.rollout.steps = vec![
        Step::new(Weight::from_basis_points(5_000)),
        Step { baseline: Baseline::Frozen, ..Step::new(Weight::FULL) },
    ];
    world.event(Event::Planned);
    world.state = State::fresh(UnixMs(0));
    world.event(Event::Planned);
    world.look_until_told(20);
    assert_eq!(world.state.weight, Weight::FULL);
    assert!(world.state.baseline.is_some_and(|baseline| baseline.total >= 300));
}

#[test]
fn what_is_not_done_by_its_deadline_has_failed() {
    let mut world = World::new(10);
    world.beat(true);
    let lost = Evidence { accepted: 400, ..evidence(0, 0, 400, 0) };
    world.look(&lost, 40 * MINUTE);
    assert_eq!(world.state.phase, Phase::Gating);
    let happened: Vec<Happened> = (0..10).flat_map(|_| world.look(&Evidence::default(), 10 * MINUTE)).collect();
    assert_eq!(happened.first().map(|happened| happened.event), Some("rollback"), "{:?}", world.state.reports);
}

#[test]
fn what_an_operator_paused_stays_paused_when_the_file_allows_less() {
    let mut world = World::new(50);
    world.look_until_told(20);
    world.order(Action::Pause);
    world.act(&Act::Edit(10, false));
    assert_eq!(world.state.weight.percent(), 10.0);
    world.act(&Act::Edit(100, false));
    for _ in 0..20 {
        world.beat(true);
        world.look(&evidence(400, 0, 400, 0), 10 * MINUTE);
    }
    assert_eq!(world.state.weight.percent(), 10.0, "{:?}", world.state.phase);
    world.order(Action::SetWeight(Weight::from_basis_points(500)));
    assert_eq!(world.state.weight.percent(), 10.0, "pause goes before set-weight");
}

#[test]
fn a_pause_for_failing_gates_is_told_once() {
    let mut world = World::new(50);
    world.rollout.on_fail = crate::config::OnFail::Pause;
    world.beat(true);
    let happened: Vec<Happened> = (0..20).flat_map(|_| world.look(&evidence(100, 100, 900, 0), MINUTE)).collect();
    assert_eq!(happened.iter().map(|happened| happened.event).collect::<Vec<_>>(), ["pause"]);
}

#[test]
fn from_health_it_is_raised_by_a_person_where_the_step_asks_for_one_and_never_blindly() {
    let mut world = World::new(10);
    world.rollout.steps[0].approval = true;
    world.look_until_told(20);
    assert_eq!(world.state.phase, Phase::Healthy);
    world.act(&Act::Edit(50, false));
    assert!(matches!(world.state.phase, Phase::Paused { why: Pause::AwaitingApproval, .. }), "{:?}", world.state.phase);

    let mut world = World::new(10);
    world.look_until_told(20);
    world.look(&evidence(10, 0, 10, 3), MINUTE); // the store was gone
    world.act(&Act::Edit(50, false));
    assert_eq!(world.state.weight.percent(), 10.0);
    world.look(&evidence(10, 0, 10, 0), MINUTE);
    world.beat(true);
    assert_eq!(world.state.weight.percent(), 25.0);
}

#[test]
fn at_100_percent_without_a_baseline_only_a_person_says_that_it_is_healthy() {
    let mut world = World::new(100);
    world.order(Action::Promote { full: true });
    assert_eq!(world.state.weight, Weight::FULL);
    assert_eq!(world.state.baseline, None);
    for _ in 0..200 {
        world.beat(true);
        world.look(&evidence(4000, 0, 0, 0), 10 * MINUTE);
    }
    let paused = matches!(world.state.phase, Phase::Paused { why: Pause::Inconclusive, .. });
    assert!(paused, "{:?}", world.state.reports);
    world.order(Action::Promote { full: false });
    assert_eq!(world.state.phase, Phase::Healthy);
}

#[test]
fn a_flushed_store_begins_the_step_anew() {
    let mut world = World::new(10);
    world.beat(true);
    let deferred = Evidence { deferred: 3, ..evidence(4000, 0, 4000, 0) };
    world.look(&deferred, MINUTE);
    // the tallies are gone, and what the proxies counted is not
    world.evidence.values_mut().for_each(|known| *known = Evidence { deferred: 3, ..Evidence::default() });
    world.event(Event::Lost);
    for _ in 0..5 {
        world.beat(true);
        world.look(&evidence(40, 0, 400, 0), MINUTE);
    }
    assert_eq!((world.state.weight.percent(), &world.state.phase), (10.0, &Phase::Soaking));
}

#[test]
fn a_healthy_rollout_whose_tasks_never_end_is_turned_back() {
    let mut world = World::new(10);
    world.look_until_told(20);
    assert_eq!(world.state.phase, Phase::Healthy);
    let lost = Evidence { accepted: 400, ..evidence(0, 0, 4000, 0) };
    let happened = (0..100).find_map(|_| world.look(&lost, 10 * MINUTE).pop());
    assert_eq!(happened.map(|happened| happened.event), Some("rollback"));
}

#[test]
fn a_slow_task_of_a_quick_climb_has_its_time_in_health_too() {
    let mut world = World::new(100);
    world.rollout.soak = MINUTE;
    let slow = Evidence { accepted: 402, ..evidence(400, 0, 400, 0) };
    for _ in 0..60 {
        if world.state.phase == Phase::Healthy {
            break;
        }
        world.beat(true);
        world.look(&slow, MINUTE);
    }
    assert_eq!(world.state.phase, Phase::Healthy);
    // what a step left open ends within its hour: nothing has failed before
    for _ in 0..3 {
        world.look(&evidence(400, 0, 0, 0), 15 * MINUTE);
        assert_eq!(world.state.seen.iter().map(|seen| seen.asynchronous.failed).sum::<u64>(), 0);
    }
}

#[test]
fn copies_hold_a_step_until_enough_are_compared_but_not_the_last_which_has_none() {
    let mut world = World::new(100);
    let limits = Limits { max: Some(0.01), ..Limits::default() };
    world.rollout.gates.push(Gate { name: SHADOW_MISMATCH.into(), kind: GateKind::ShadowMismatch(limits) });
    let look = |world: &mut World, compared| {
        world.beat(true);
        world.look(&Evidence { copied: compared, compared, ..evidence(400, 0, 400, 0) }, 10 * MINUTE);
        world.state.weight.percent()
    };
    for _ in 0..20 {
        assert_eq!(look(&mut world, 0), 10.0, "nothing was compared");
    }
    assert_eq!(world.state.phase, Phase::Gating);
    // what is compared after the cohort was closed counts too, without waiting for many canaried requests
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
    assert_eq!(world.state.phase, Phase::Healthy);
}
