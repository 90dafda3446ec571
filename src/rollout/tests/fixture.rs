//! A rollout for tests, and random steps for it.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::cohort_hash::Weight;
use crate::config::{RolloutConfig, RolloutMode};
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::{
    OperatorAction, OperatorCommand, RolloutDecision, RolloutEvent, RolloutInput,
    RolloutObservation, RolloutPlan, RolloutState, Tick, decide,
};
use crate::task::{UnixMs, duration_bucket};

pub(super) const MINUTE: Duration = Duration::from_mins(1);

/// A step of a random walk.
#[derive(Clone, Debug)]
pub(super) enum RandomStep {
    EditConfig(u8, bool),
    Tick { converged: bool },
    Evaluate { good: u64, failed: u64, sync: u64, store_down: bool },
    Command(OperatorAction),
}

/// A rollout and the rollout that it is in.
pub(super) struct RolloutFixture {
    pub(super) config: RolloutConfig,
    pub(super) state: RolloutState,
    pub(super) evidence: BTreeMap<u64, RolloutEvidence>,
    pub(super) now_ms: u64,
}

impl RolloutFixture {
    pub(super) fn new(percent: u8) -> Self {
        let percent = Weight::from_percent(f64::from(percent)).expect("in range");
        let config = RolloutConfig::new("invoke", percent, RolloutMode::Gated);
        let mut rollout = Self {
            config,
            state: RolloutState::new(UnixMs(0)),
            evidence: BTreeMap::new(),
            now_ms: 0,
        };
        rollout.apply_input(RolloutInput::ConfigLoaded);
        rollout
    }

    pub(super) fn apply_input(&mut self, input: RolloutInput<'_>) -> Vec<RolloutEvent> {
        self.now_ms += 1000;
        let plan = RolloutPlan {
            route: "invoke",
            config: &self.config,
            task_deadline: Duration::from_hours(1),
        };
        match decide(&self.state, plan, input, UnixMs(self.now_ms)) {
            Ok(RolloutDecision { state, events }) => {
                self.state = state;
                events
            }
            Err(_) => Vec::new(),
        }
    }

    pub(super) fn issue_command(&mut self, action: OperatorAction) -> Vec<RolloutEvent> {
        let command = OperatorCommand { action, actor: "ann".into(), reason: "because".into() };
        self.apply_input(RolloutInput::Command(&command))
    }

    pub(super) fn tick_once(&mut self, converged: bool) -> Vec<RolloutEvent> {
        let lagging: &[String] =
            if converged { &[] } else { &["other (its file differs)".to_owned()] };
        self.apply_input(RolloutInput::Tick(Tick {
            elapsed: Duration::from_secs(1),
            lagging_replicas: lagging,
            breaker_evidence: &RolloutEvidence::default(),
        }))
    }

    pub(super) fn evaluate_once(
        &mut self,
        new: &RolloutEvidence,
        elapsed: Duration,
    ) -> Vec<RolloutEvent> {
        self.evidence.entry(self.state.epoch).or_default().add(new);
        let evidence: Vec<RolloutEvidence> = self
            .state
            .evidence_epochs()
            .iter()
            .map(|epoch| self.evidence.get(epoch).copied().unwrap_or_default())
            .collect();
        self.apply_input(RolloutInput::EvaluationDue(RolloutObservation {
            elapsed,
            lagging_replicas: &[],
            epoch_evidence: &evidence,
            prometheus_samples: &BTreeMap::new(),
            queue_depth: Some(0),
            queue_oldest: Some(Duration::ZERO),
        }))
    }

    pub(super) fn apply_step(&mut self, step: &RandomStep) -> Vec<RolloutEvent> {
        match step {
            RandomStep::EditConfig(percent, manual) => {
                self.config.percent = Weight::from_percent(f64::from(*percent)).expect("in range");
                self.config.mode = if *manual { RolloutMode::Manual } else { RolloutMode::Gated };
                self.apply_input(RolloutInput::ConfigLoaded)
            }
            RandomStep::Tick { converged } => self.tick_once(*converged),
            RandomStep::Evaluate { good, failed, sync, store_down } => self.evaluate_once(
                &make_evidence(*good, *failed, *sync, u64::from(*store_down)),
                10 * MINUTE,
            ),
            RandomStep::Command(action) => self.issue_command(*action),
        }
    }

    /// Evaluates healthy evidence until an event, at most `most` times.
    pub(super) fn evaluate_until_event(&mut self, most: usize) -> Vec<RolloutEvent> {
        for _ in 0..most {
            self.tick_once(true);
            let events = self.evaluate_once(&make_evidence(400, 0, 400, 0), 10 * MINUTE);
            if !events.is_empty() {
                return events;
            }
        }
        panic!("no event: {:?}", self.state);
    }
}

pub(super) fn make_evidence(
    good: u64,
    failed: u64,
    sync: u64,
    unavailable: u64,
) -> RolloutEvidence {
    let counts = |total, failed| {
        let mut counts = EvidenceCounts { total, failed, ..EvidenceCounts::default() };
        counts.durations[duration_bucket(Duration::from_millis(20))] = total;
        counts
    };
    RolloutEvidence {
        sync_counts: counts(sync, 0),
        async_counts: counts(good + failed, failed),
        accepted_tasks: good + failed,
        store_unavailable: unavailable,
        ..RolloutEvidence::default()
    }
}

fn arb_step() -> impl Strategy<Value = RandomStep> {
    let action = prop_oneof![
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
        1 => (0u8..=100, any::<bool>())
            .prop_map(|(percent, manual)| RandomStep::EditConfig(percent, manual)),
        4 => any::<bool>().prop_map(|converged| RandomStep::Tick { converged }),
        8 => (
            0u64..2000, prop_oneof![4 => Just(0u64), 1 => 0u64..50], 0u64..2000, any::<bool>(),
        )
            .prop_map(|(good, failed, sync, store_down)| RandomStep::Evaluate {
                good, failed, sync, store_down: store_down && good % 3 == 0,
            }),
        1 => action.prop_map(RandomStep::Command),
    ]
}

pub(super) fn arb_steps() -> impl Strategy<Value = Vec<RandomStep>> {
    proptest::collection::vec(arb_step(), 1..120)
}
