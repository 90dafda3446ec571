//! A state is read back as it was written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cohort_hash::{CLIENT_GROUPS, Weight};
use crate::config::{GatesDigest, RolloutConfig, RolloutMode};
use crate::control::stored::{parse_state, serialize_state};
use crate::rollout::assignments::AssignmentCounts;
use crate::rollout::capacity_window::{CapacityCounts, CapacitySlot, CapacityWindow};
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::fallbacks::FallbackCounts;
use crate::rollout::gate::{GateMemory, LatencyThreshold};
use crate::rollout::{
    self, Actor, BlockedReason, EpochRange, PausablePhase, PauseReason, RolloutInput,
    RolloutObservation, RolloutPhase, RolloutPlan, RolloutState, Tick,
};
use crate::task::{DURATION_BUCKET_COUNT, UnixMs};

fn paused_state() -> RolloutState {
    let failed = EvidenceCounts { failed: 4, ..EvidenceCounts::default() };
    let copies = RolloutEvidence {
        shadow_copied: 9,
        shadow_compared: 8,
        shadow_mismatched: 7,
        fallbacks: FallbackCounts::from_counts(|reason| reason as u64),
        assignments: AssignmentCounts { async_random: 1, sync_random: 2, mismatched: 3 },
        ..RolloutEvidence::default()
    };
    let memory = GateMemory { scores_from_start: [-1.5, 0.0, 2.0], ..GateMemory::default() };
    RolloutState {
        weight: Weight::FULL,
        epoch: 3,
        phase: RolloutPhase::Paused {
            reason: PauseReason::AwaitingApproval,
            resume_to: PausablePhase::Gating,
        },
        soak_elapsed: Duration::from_mins(7),
        cohort: EpochRange { from_epoch: 2, to_epoch: 3, closed_for: Some(Duration::from_secs(1)) },
        sync_baseline: Some(EvidenceCounts {
            total: 7,
            durations: [1; DURATION_BUCKET_COUNT],
            ..EvidenceCounts::default()
        }),
        sync_baseline_at: Some(UnixMs(5)),
        has_latency_gate: true,
        latency_threshold: Some(LatencyThreshold { threshold: Duration::from_secs(2), epoch: 2 }),
        actor: Actor::Operator("ann".into()),
        gate_memory: [("errors".to_owned(), memory)].into(),
        seen_evidence: vec![
            RolloutEvidence { async_counts: failed, ..RolloutEvidence::default() },
            copies,
        ],
        gates_digest: Some(GatesDigest { form: 1, hash: u64::MAX - 1 }),
        capacity_window: CapacityWindow::from_slots(vec![CapacitySlot {
            elapsed: Duration::from_secs(30),
            counts: CapacityCounts { assigned: 9, saturated: 2, without_worker: 1 },
        }]),
        legacy_gates_digest: u64::MAX,
        ..RolloutState::new(UnixMs(7))
    }
}

#[test]
fn state_is_read_back_and_a_later_schema_is_refused() {
    let state = paused_state();
    let text = serialize_state(&state);
    assert_eq!(parse_state(&text), Ok(state));
    assert!(parse_state(&text.replace("\"v\":2", "\"v\":3")).is_err());
    assert!(
        parse_state(&text.replace("\"epoch\":3", "\"epoch\":true")).is_err(),
        "a record with a field that cannot be read is no record of version 1"
    );
    let unknown = parse_state(&text.replace("\"gating\"", "\"dancing\"")).expect_err("refused");
    assert!(unknown.to_string().contains("dancing"), "{unknown}");
}

#[test]
fn every_blocked_reason_is_read_back_with_its_code() {
    let reasons = [
        BlockedReason::PercentZero,
        BlockedReason::StoreUnavailable { requests: 7 },
        BlockedReason::ReplicasLagging { replicas: vec!["web.2 (its file differs)".into()] },
        BlockedReason::SourceError { gate: "lag".into(), explanation: "lag: refused".into() },
        BlockedReason::Saturated { calls: 81, assigned: 1_204 },
        BlockedReason::NoWorker { calls: 9, assigned: 9 },
        BlockedReason::SampleRatio { mismatched: 1, async_random: 2, random_requests: 3 },
        BlockedReason::Unrecognized { text: "a sentence".into(), stored_json: None },
    ];
    for reason in reasons {
        let state = RolloutState { blocked_reason: Some(reason.clone()), ..paused_state() };
        let text = serialize_state(&state);
        assert_eq!(parse_state(&text).map(|state| state.blocked_reason), Ok(Some(reason.clone())));
        let stored: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let code = stored["blocked"]["code"].as_str().unwrap_or("unrecognized");
        assert_eq!(code, reason.code());
        assert!(stored["frozen"].is_string(), "{text}");
    }
}

#[test]
fn an_operator_named_like_an_actor_is_read_back_as_an_operator() {
    for actor in [
        Actor::Controller,
        Actor::ConfigFile,
        Actor::Operator("controller".into()),
        Actor::Operator("ann".into()),
    ] {
        let state = RolloutState { actor, ..paused_state() };
        assert_eq!(parse_state(&serialize_state(&state)), Ok(state));
    }
}

/// A process that is killed after any input continues as if it had not been.
#[test]
fn at_every_point_of_a_climb_the_state_is_read_back_as_it_was() {
    let config = RolloutConfig::new("invoke", Weight::FULL, RolloutMode::Gated);
    let plan =
        RolloutPlan { route: "invoke", config: &config, task_deadline: Duration::from_hours(1) };
    let counts = EvidenceCounts {
        total: 400,
        durations: [3; DURATION_BUCKET_COUNT],
        failed_by_group: [0; CLIENT_GROUPS],
        client_errors_by_group: [1; CLIENT_GROUPS],
        ..EvidenceCounts::default()
    };
    let new = RolloutEvidence {
        sync_counts: counts,
        async_counts: counts,
        accepted_tasks: 400,
        ..RolloutEvidence::default()
    };
    let mut state = RolloutState::new(UnixMs(1));
    let mut by_epoch = BTreeMap::<u64, RolloutEvidence>::new();
    let mut phases = BTreeSet::new();
    for at in 0..300 {
        by_epoch.entry(state.epoch).or_default().add(&new);
        let evidence: Vec<RolloutEvidence> = state
            .evidence_epochs()
            .iter()
            .map(|epoch| by_epoch.get(epoch).copied().unwrap_or_default())
            .collect();
        let observation = RolloutObservation {
            elapsed: Duration::from_mins(7),
            lagging_replicas: &[],
            epoch_evidence: &evidence,
            prometheus_samples: &BTreeMap::new(),
            queue_depth: Some(1),
            queue_oldest: Some(Duration::from_secs(1)),
        };
        let window = RolloutEvidence::default();
        let tick = Tick {
            elapsed: Duration::from_secs(1),
            lagging_replicas: &[],
            breaker_evidence: &window,
        };
        let input = match at {
            0 => RolloutInput::ConfigLoaded,
            at if at % 2 == 0 => RolloutInput::EvaluationDue(observation),
            _ => RolloutInput::Tick(tick),
        };
        state = rollout::decide(&state, plan, input, UnixMs(at)).expect("no command").state;
        assert_eq!(parse_state(&serialize_state(&state)).as_ref(), Ok(&state));
        phases.insert(state.phase.as_str());
    }
    assert_eq!(
        phases.into_iter().collect::<Vec<_>>(),
        ["gating", "healthy", "shifting", "soaking"]
    );
}

#[test]
fn a_state_of_schema_version_1_is_a_manual_rollout() {
    let state =
        parse_state(r#"{"v":1,"weight_bp":2500,"changed_ms":7,"reason":"x"}"#).expect("readable");
    assert_eq!(
        (state.weight.basis_points(), state.phase, state.actor),
        (2500, RolloutPhase::Manual, Actor::Controller)
    );
}
