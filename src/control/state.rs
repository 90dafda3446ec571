//! How a rollout's state and history are written down: JSON with a schema version; N reads N−1.
//!
//! A mirror of `rollout::State`, so that a change of that is a choice here: what an older process
//! cannot read, it does not act on. Counts are arrays, durations milliseconds, weights basis
//! points.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::counts::{pad_with_zeros, trim_trailing_zeros};
use crate::cohort::Weight;
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::gate::{GateMemory, GateReport, Verdict};
use crate::rollout::sequential::SequentialScores;
use crate::rollout::{
    EpochRange, PausablePhase, PauseReason, RolloutEvent, RolloutPhase, RolloutState,
};
use crate::store::StoreError;
use crate::task::UnixMs;

const STATE_SCHEMA_VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
struct StoredRolloutState {
    v: u8,
    weight_bp: u16,
    changed_ms: u64,
    reason: String,
    /// All that follows is of schema version 2.
    #[serde(flatten)]
    more: Option<StoredRolloutV2>,
}

#[derive(Serialize, Deserialize)]
struct StoredRolloutV2 {
    epoch: u64,
    phase: String,
    pause: Option<String>,
    since_ms: u64,
    by: String,
    held: bool,
    soaked_ms: u64,
    waited_ms: u64,
    blind_ms: u64,
    sighted: u32,
    cohort: (u64, u64, Option<u64>),
    first: u64,
    prior: u64,
    #[serde(default)]
    healthy: u64,
    passes: u32,
    fails: u32,
    baseline: Option<StoredCounts>,
    memory: BTreeMap<String, StoredGateMemory>,
    seen: Vec<SeenEvidenceRecord>,
    gates: u64,
    frozen: Option<String>,
    reports: Vec<StoredGateReport>,
}

/// Counts: total, failed, client errors, then the buckets; by group of clients, the failed and the
/// client errors.
type StoredCounts = [Vec<u64>; 3];

#[derive(Serialize, Deserialize)]
struct StoredGateMemory {
    since_start: SequentialScores,
    since_worst: SequentialScores,
    over_limit: SequentialScores,
}

#[derive(Serialize, Deserialize)]
struct SeenEvidenceRecord {
    sync: StoredCounts,
    asynchronous: StoredCounts,
    acknowledged: Vec<u64>,
    /// Accepted, cancelled, refused, deferred, unavailable.
    rest: [u64; 5],
    #[serde(default)]
    rejected: u64,
    /// Copied, compared, mismatched.
    #[serde(default)]
    shadow: [u64; 3],
}

#[derive(Serialize, Deserialize)]
struct StoredGateReport {
    gate: String,
    kind: String,
    verdict: String,
    why: String,
    needs: Option<u64>,
    asynchronous: Option<(u64, u64)>,
    sync: Option<(u64, u64)>,
    value: Option<f64>,
    interval: Option<(f64, f64)>,
}

/// The state as text.
pub(super) fn serialize_state(state: &RolloutState) -> String {
    let (phase, pause) = match &state.phase {
        RolloutPhase::Paused { reason: why, resume_to: then } => {
            (RolloutPhase::from(*then), Some(why.as_str().to_owned()))
        }
        phase => (phase.clone(), None),
    };
    let EpochRange { from_epoch: from, to_epoch: to, closed_for: closed } = state.cohort;
    let more = StoredRolloutV2 {
        epoch: state.epoch,
        phase: phase.as_str().to_owned(),
        pause,
        since_ms: state.phase_since.0,
        by: state.actor.clone(),
        held: state.manual_hold,
        soaked_ms: to_millis(state.soak_elapsed),
        waited_ms: to_millis(state.phase_waited),
        blind_ms: to_millis(state.sources_down_for),
        sighted: state.sources_up_streak,
        cohort: (from, to, closed.map(to_millis)),
        first: state.first_epoch,
        prior: state.previous_step_epoch,
        healthy: state.healthy_since_epoch,
        passes: state.pass_streak,
        fails: state.fail_streak,
        baseline: state.sync_baseline.as_ref().map(counts_to_stored),
        memory: state
            .gate_memory
            .iter()
            .map(|(gate, memory)| (gate.clone(), memory.into()))
            .collect(),
        seen: state.seen_evidence.iter().map(Into::into).collect(),
        gates: state.gates_digest,
        frozen: state.blocked_reason.clone(),
        reports: state.gate_reports.iter().map(Into::into).collect(),
    };
    let stored = StoredRolloutState {
        v: STATE_SCHEMA_VERSION,
        weight_bp: state.weight.basis_points(),
        changed_ms: state.weight_changed_at.0,
        reason: state.reason.clone(),
        more: Some(more),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// The state of a text.
pub(super) fn parse_state(text: &str) -> Result<RolloutState, StoreError> {
    let stored: StoredRolloutState =
        serde_json::from_str(text).map_err(|error| malformed_error(&error.to_string()))?;
    if stored.v > STATE_SCHEMA_VERSION {
        return Err(malformed_error(&format!("rollout state of schema version {}", stored.v)));
    }
    let weight = Weight::from_basis_points(stored.weight_bp);
    let fresh = RolloutState {
        weight,
        reason: stored.reason,
        ..RolloutState::new(UnixMs(stored.changed_ms))
    };
    if stored.v > 1 && stored.more.is_none() {
        return Err(malformed_error("a rollout state with a field that cannot be read"));
    }
    let Some(more) = stored.more else {
        // schema version 1 knew no gates: all its rollouts were manual
        return Ok(RolloutState { phase: RolloutPhase::Manual, ..fresh });
    };
    let phase = parse_phase(&more.phase, more.pause.as_deref())
        .ok_or_else(|| malformed_error("a phase that is none"))?;
    let duration = Duration::from_millis;
    let (from, to, closed) = more.cohort;
    Ok(RolloutState {
        epoch: more.epoch,
        phase,
        phase_since: UnixMs(more.since_ms),
        actor: more.by,
        manual_hold: more.held,
        soak_elapsed: duration(more.soaked_ms),
        phase_waited: duration(more.waited_ms),
        sources_down_for: duration(more.blind_ms),
        sources_up_streak: more.sighted,
        cohort: EpochRange { from_epoch: from, to_epoch: to, closed_for: closed.map(duration) },
        first_epoch: more.first,
        previous_step_epoch: more.prior,
        healthy_since_epoch: more.healthy,
        pass_streak: more.passes,
        fail_streak: more.fails,
        sync_baseline: more.baseline.as_ref().map(counts_from_stored),
        gate_memory: more.memory.into_iter().map(|(gate, memory)| (gate, memory.into())).collect(),
        seen_evidence: more.seen.into_iter().map(Into::into).collect(),
        gates_digest: more.gates,
        blocked_reason: more.frozen,
        gate_reports: more.reports.into_iter().map(StoredGateReport::into_report).collect(),
        ..fresh
    })
}

/// A line of the history as JSON; what the API shows, and notifications say of `route`.
pub(super) fn event_to_json(route: &str, happened: &RolloutEvent) -> Value {
    let gates: Vec<_> = happened.gate_reports.iter().map(StoredGateReport::from).collect();
    json!({
        "route": route,
        "at_ms": happened.at.0,
        "event": happened.kind,
        "by": happened.actor,
        "reason": happened.reason,
        "from": happened.from_weight.percent(),
        "to": happened.to_weight.percent(),
        "epoch": happened.epoch,
        "phase": happened.phase.as_str(),
        "gates": gates,
    })
}

fn malformed_error(why: &str) -> StoreError {
    StoreError::Malformed(why.to_owned())
}

fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn parse_phase(word: &str, pause: Option<&str>) -> Option<RolloutPhase> {
    let phase = RolloutPhase::UNPAUSED.into_iter().find(|phase| phase.as_str() == word)?;
    let Some(pause) = pause else { return Some(phase) };
    let why = PauseReason::ALL.into_iter().find(|why| why.as_str() == pause)?;
    let then: PausablePhase = phase.as_pausable()?;
    Some(RolloutPhase::Paused { reason: why, resume_to: then })
}

fn counts_to_stored(counts: &EvidenceCounts) -> StoredCounts {
    let mut numbers = vec![counts.total, counts.failed, counts.client_errors];
    numbers.extend(trim_trailing_zeros(&counts.durations));
    [
        numbers,
        trim_trailing_zeros(&counts.failed_by_group),
        trim_trailing_zeros(&counts.client_errors_by_group),
    ]
}

fn counts_from_stored([numbers, failed_by, client_errors_by]: &StoredCounts) -> EvidenceCounts {
    let at = |place: usize| numbers.get(place).copied().unwrap_or_default();
    EvidenceCounts {
        total: at(0),
        failed: at(1),
        client_errors: at(2),
        durations: pad_with_zeros(numbers.get(3..).unwrap_or_default()),
        failed_by_group: pad_with_zeros(failed_by),
        client_errors_by_group: pad_with_zeros(client_errors_by),
    }
}

// === impl StoredMemory ===

impl From<&GateMemory> for StoredGateMemory {
    fn from(memory: &GateMemory) -> Self {
        let GateMemory {
            scores_from_start: since_start,
            restarting_scores: since_worst,
            ceiling_scores: over_limit,
        } = *memory;
        Self { since_start, since_worst, over_limit }
    }
}

impl From<StoredGateMemory> for GateMemory {
    fn from(stored: StoredGateMemory) -> Self {
        let StoredGateMemory { since_start, since_worst, over_limit } = stored;
        Self {
            scores_from_start: since_start,
            restarting_scores: since_worst,
            ceiling_scores: over_limit,
        }
    }
}

// === impl StoredEvidence ===

impl From<&RolloutEvidence> for SeenEvidenceRecord {
    fn from(evidence: &RolloutEvidence) -> Self {
        let RolloutEvidence {
            sync_counts: sync,
            async_counts: asynchronous,
            accepted_tasks: accepted,
            cancelled_tasks: cancelled,
            refused_requests: refused,
            rejected_requests: rejected,
            deferred_requests: deferred,
            acknowledgement_times: acknowledged,
            store_unavailable: unavailable,
            shadow_copied: copied,
            shadow_compared: compared,
            shadow_mismatched: mismatched,
        } = evidence;
        Self {
            sync: counts_to_stored(sync),
            asynchronous: counts_to_stored(asynchronous),
            acknowledged: trim_trailing_zeros(acknowledged),
            rest: [*accepted, *cancelled, *refused, *deferred, *unavailable],
            rejected: *rejected,
            shadow: [*copied, *compared, *mismatched],
        }
    }
}

impl From<SeenEvidenceRecord> for RolloutEvidence {
    fn from(stored: SeenEvidenceRecord) -> Self {
        let [accepted, cancelled, refused, deferred, unavailable] = stored.rest;
        let acknowledged = pad_with_zeros(&stored.acknowledged);
        let (sync, asynchronous) =
            (counts_from_stored(&stored.sync), counts_from_stored(&stored.asynchronous));
        let rejected = stored.rejected;
        let [copied, compared, mismatched] = stored.shadow;
        Self {
            sync_counts: sync,
            async_counts: asynchronous,
            accepted_tasks: accepted,
            cancelled_tasks: cancelled,
            refused_requests: refused,
            rejected_requests: rejected,
            deferred_requests: deferred,
            acknowledgement_times: acknowledged,
            store_unavailable: unavailable,
            shadow_copied: copied,
            shadow_compared: compared,
            shadow_mismatched: mismatched,
        }
    }
}

// === impl StoredReport ===

impl StoredGateReport {
    /// Kinds and verdicts that this release does not know are shown as doubt: nothing is decided by
    /// a stored report.
    fn into_report(self) -> GateReport {
        let kinds = [
            "error_ratio",
            "client_error_ratio",
            "deferred_ratio",
            "slow_ratio",
            "shadow_mismatch",
            "queue_oldest",
            "queue_depth",
        ];
        let verdicts = [Verdict::Pass, Verdict::Fail, Verdict::Error];
        let Self { gate, kind, verdict, why, needs, asynchronous, sync, value, interval } = self;
        GateReport {
            gate_name: gate,
            gate_kind: kinds.into_iter().find(|known| *known == kind).unwrap_or("prometheus"),
            verdict: verdicts
                .into_iter()
                .find(|known| known.as_str() == verdict)
                .unwrap_or(Verdict::Inconclusive),
            explanation: why,
            needed_outcomes: needs,
            async_bad_of_total: asynchronous,
            sync_bad_of_total: sync,
            value,
            interval,
        }
    }
}

impl From<&GateReport> for StoredGateReport {
    fn from(report: &GateReport) -> Self {
        let GateReport {
            gate_name: gate,
            gate_kind: kind,
            verdict,
            explanation: why,
            needed_outcomes: needs,
            async_bad_of_total: asynchronous,
            sync_bad_of_total: sync,
            value,
            interval,
        } = report.clone();
        let (kind, verdict) = (kind.to_owned(), verdict.as_str().to_owned());
        Self { gate, kind, verdict, why, needs, asynchronous, sync, value, interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cohort::CLIENT_GROUPS;
    use crate::config::{RolloutConfig, RolloutMode};
    use crate::rollout::{
        self, CONTROLLER_ACTOR, RolloutInput, RolloutObservation, RolloutPlan, Tick,
    };
    use crate::task::DURATION_BUCKET_COUNT;

    #[test]
    fn state_is_read_back_and_a_later_schema_is_refused() {
        let mut state = RolloutState {
            weight: Weight::FULL,
            epoch: 3,
            phase: RolloutPhase::Paused {
                reason: PauseReason::AwaitingApproval,
                resume_to: PausablePhase::Gating,
            },
            soak_elapsed: Duration::from_mins(7),
            cohort: EpochRange {
                from_epoch: 2,
                to_epoch: 3,
                closed_for: Some(Duration::from_secs(1)),
            },
            sync_baseline: Some(EvidenceCounts {
                total: 7,
                durations: [1; DURATION_BUCKET_COUNT],
                ..EvidenceCounts::default()
            }),
            actor: "ann".into(),
            ..RolloutState::new(UnixMs(7))
        };
        state.gate_memory.insert(
            "errors".into(),
            GateMemory { scores_from_start: [-1.5, 0.0, 2.0], ..GateMemory::default() },
        );
        let failed = EvidenceCounts { failed: 4, ..EvidenceCounts::default() };
        let copies = RolloutEvidence {
            shadow_copied: 9,
            shadow_compared: 8,
            shadow_mismatched: 7,
            ..RolloutEvidence::default()
        };
        state.seen_evidence =
            vec![RolloutEvidence { async_counts: failed, ..RolloutEvidence::default() }, copies];
        assert_eq!(parse_state(&serialize_state(&state)), Ok(state.clone()));
        assert!(parse_state(&serialize_state(&state).replace("\"v\":2", "\"v\":3")).is_err());
        assert!(
            parse_state(&serialize_state(&state).replace("\"epoch\":3", "\"epoch\":true")).is_err(),
            "never a manual one by mistake"
        );
    }

    /// A process that is killed after any event goes on as if nothing had been.
    #[test]
    fn at_every_point_of_a_climb_the_state_is_read_back_as_it_was() {
        let rollout = RolloutConfig::new("invoke", Weight::FULL, RolloutMode::Gated);
        let plan = RolloutPlan {
            route: "invoke",
            config: &rollout,
            task_deadline: Duration::from_hours(1),
        };
        let counts = EvidenceCounts {
            total: 400,
            durations: [3; DURATION_BUCKET_COUNT],
            failed_by_group: [0; CLIENT_GROUPS],
            client_errors_by_group: [1; CLIENT_GROUPS],
            ..EvidenceCounts::default()
        };
        let news = RolloutEvidence {
            sync_counts: counts,
            async_counts: counts,
            accepted_tasks: 400,
            ..RolloutEvidence::default()
        };
        let (mut state, mut known) =
            (RolloutState::new(UnixMs(1)), BTreeMap::<u64, RolloutEvidence>::new());
        let mut phases = std::collections::BTreeSet::new();
        for at in 0..300 {
            known.entry(state.epoch).or_default().add(&news);
            let evidence: Vec<RolloutEvidence> = state
                .evidence_epochs()
                .iter()
                .map(|epoch| known.get(epoch).copied().unwrap_or_default())
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
            let beat = Tick {
                elapsed: Duration::from_secs(1),
                lagging_replicas: &[],
                breaker_evidence: &window,
            };
            let event = match at {
                0 => RolloutInput::ConfigLoaded,
                at if at % 2 == 0 => RolloutInput::EvaluationDue(observation),
                _ => RolloutInput::Tick(beat),
            };
            state = rollout::decide(&state, plan, event, UnixMs(at)).expect("no order").state;
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
        let state = parse_state(r#"{"v":1,"weight_bp":2500,"changed_ms":7,"reason":"x"}"#)
            .expect("readable");
        assert_eq!(
            (state.weight.basis_points(), state.phase, state.actor.as_str()),
            (2500, RolloutPhase::Manual, CONTROLLER_ACTOR)
        );
    }
}
