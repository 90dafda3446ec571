//! A rollout's state as JSON with a schema version. Version 2 is written, 1 and 2 are read; a later
//! version is refused.
//!
//! The version stays 2 as long as adjacent releases can read each other's records, because a
//! process that cannot read a record makes no decision on its route. So new fields are optional,
//! and fields that an earlier release needs are still written. Durations are in milliseconds,
//! weights in basis points.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::blocked;
use super::capacity::{StoredCapacitySlot, capacity_from_stored, capacity_to_stored};
use super::evidence::{SeenEvidenceRecord, StoredCounts, counts_from_stored, counts_to_stored};
use super::gate_report::{StoredGateMemory, reports_from_stored, reports_to_stored};
use crate::cohort_hash::Weight;
use crate::config::GatesDigest;
use crate::rollout::gate::LatencyThreshold;
use crate::rollout::{Actor, EpochRange, PauseReason, RolloutPhase, RolloutState};
use crate::store::StoreError;
use crate::task::UnixMs;

const STATE_SCHEMA_VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
struct StoredRolloutState {
    v: u8,
    weight_bp: u16,
    changed_ms: u64,
    reason: String,
    /// The fields of schema version 2.
    #[serde(flatten)]
    version_2: Option<StoredRolloutV2>,
}

#[derive(Serialize, Deserialize)]
struct StoredRolloutV2 {
    epoch: u64,
    phase: String,
    pause: Option<String>,
    since_ms: u64,
    by: String,
    /// The kind of the actor in `by`: `controller`, `file` or `operator`. Absent in records of
    /// earlier releases, in which the name determines the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor_kind: Option<String>,
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
    /// When `baseline` was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    baseline_ms: Option<u64>,
    /// Whether `latency` is among the default gates. Absent in records of releases without it,
    /// whose rollouts keep their gates.
    #[serde(default)]
    has_latency_gate: bool,
    /// The latency threshold in ms, and the epoch in which it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latency: Option<(u64, u64)>,
    memory: BTreeMap<String, StoredGateMemory>,
    seen: Vec<SeenEvidenceRecord>,
    /// The digest that earlier releases use instead of `gates_digest`; written as it was read.
    gates: u64,
    /// `{"form": 1, "hash": "<hex>"}`. This field, `blocked` and the reports are JSON values, since
    /// a typed field that cannot be parsed would make `version_2` none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gates_digest: Option<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    capacity: Vec<StoredCapacitySlot>,
    /// The text of `blocked`.
    frozen: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocked: Option<Value>,
    reports: Vec<Value>,
}

/// Serializes a state as JSON.
pub(in crate::control) fn serialize_state(state: &RolloutState) -> String {
    let stored = StoredRolloutState {
        v: STATE_SCHEMA_VERSION,
        weight_bp: state.weight.basis_points(),
        changed_ms: state.weight_changed_at.0,
        reason: state.reason.clone(),
        version_2: Some(StoredRolloutV2::from(state)),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// Parses a state that [`serialize_state`] wrote.
///
/// # Errors
/// If the text is no such record, or has a schema version, phase or pause reason that this release
/// does not know.
pub(in crate::control) fn parse_state(text: &str) -> Result<RolloutState, StoreError> {
    let stored: StoredRolloutState =
        serde_json::from_str(text).map_err(|error| malformed_error(&error.to_string()))?;
    if stored.v > STATE_SCHEMA_VERSION {
        return Err(malformed_error(&format!("rollout state of schema version {}", stored.v)));
    }
    if stored.v > 1 && stored.version_2.is_none() {
        return Err(malformed_error("a rollout state with a field that cannot be read"));
    }
    let base = RolloutState {
        weight: Weight::from_basis_points(stored.weight_bp),
        reason: stored.reason,
        ..RolloutState::new(UnixMs(stored.changed_ms))
    };
    match stored.version_2 {
        Some(version_2) => version_2.into_state(base),
        // schema version 1 has no gates: all rollouts of that version are manual
        None => Ok(RolloutState { phase: RolloutPhase::Manual, ..base }),
    }
}

// === impl StoredRolloutV2 ===

impl From<&RolloutState> for StoredRolloutV2 {
    fn from(state: &RolloutState) -> Self {
        let (phase, pause) = match &state.phase {
            RolloutPhase::Paused { reason, resume_to } => {
                (RolloutPhase::from(*resume_to), Some(reason.as_str().to_owned()))
            }
            phase => (phase.clone(), None),
        };
        let EpochRange { from_epoch, to_epoch, closed_for } = state.cohort;
        let blocked = state.blocked_reason.as_ref();
        let (blocked, frozen) =
            blocked.map(|reason| blocked::to_stored(reason, state.weight)).unzip();
        let memory = state.gate_memory.iter().map(|(gate, memory)| (gate.clone(), memory.into()));
        Self {
            epoch: state.epoch,
            phase: phase.as_str().to_owned(),
            pause,
            since_ms: state.phase_since.0,
            by: state.actor.name().to_owned(),
            actor_kind: Some(state.actor.kind_code().to_owned()),
            held: state.manual_hold,
            soaked_ms: to_millis(state.soak_elapsed),
            waited_ms: to_millis(state.phase_waited),
            blind_ms: to_millis(state.sources_down_for),
            sighted: state.sources_up_streak,
            cohort: (from_epoch, to_epoch, closed_for.map(to_millis)),
            first: state.first_epoch,
            prior: state.previous_step_epoch,
            healthy: state.healthy_since_epoch,
            passes: state.pass_streak,
            fails: state.fail_streak,
            baseline: state.sync_baseline.as_ref().map(counts_to_stored),
            baseline_ms: state.sync_baseline_at.map(|at| at.0),
            has_latency_gate: state.has_latency_gate,
            latency: state.latency_threshold.map(|it| (to_millis(it.threshold), it.epoch)),
            memory: memory.collect(),
            seen: state.seen_evidence.iter().map(Into::into).collect(),
            gates: state.legacy_gates_digest,
            gates_digest: state.gates_digest.map(digest_to_stored),
            capacity: capacity_to_stored(&state.capacity_window),
            frozen,
            blocked: blocked.flatten(),
            reports: reports_to_stored(&state.gate_reports, &state.unread_gate_reports),
        }
    }
}

impl StoredRolloutV2 {
    /// The state. The fields that schema version 1 has too are taken from `base`.
    fn into_state(self, base: RolloutState) -> Result<RolloutState, StoreError> {
        let phase = parse_phase(&self.phase, self.pause.as_deref()).ok_or_else(|| {
            let pause = self.pause.as_deref().unwrap_or("none");
            malformed_error(&format!("unknown phase {:?} (pause: {pause})", self.phase))
        })?;
        let duration = Duration::from_millis;
        let (from_epoch, to_epoch, closed_for) = self.cohort;
        let (gate_reports, unread_gate_reports) = reports_from_stored(self.reports);
        let gates_digest = self.gates_digest.as_ref().and_then(digest_from_stored);
        if gates_digest.is_none() {
            tracing::debug!(
                "the stored rollout has no gates digest of this form: the present digest is used"
            );
        }
        let memory = self.memory.into_iter().map(|(gate, memory)| (gate, memory.into()));
        Ok(RolloutState {
            epoch: self.epoch,
            phase,
            phase_since: UnixMs(self.since_ms),
            actor: Actor::from_record(self.actor_kind.as_deref(), &self.by),
            manual_hold: self.held,
            soak_elapsed: duration(self.soaked_ms),
            phase_waited: duration(self.waited_ms),
            sources_down_for: duration(self.blind_ms),
            sources_up_streak: self.sighted,
            cohort: EpochRange { from_epoch, to_epoch, closed_for: closed_for.map(duration) },
            first_epoch: self.first,
            previous_step_epoch: self.prior,
            healthy_since_epoch: self.healthy,
            pass_streak: self.passes,
            fail_streak: self.fails,
            sync_baseline: self.baseline.as_ref().map(counts_from_stored),
            sync_baseline_at: self.baseline_ms.map(UnixMs),
            has_latency_gate: self.has_latency_gate,
            latency_threshold: self.latency.map(|(threshold, epoch)| LatencyThreshold {
                threshold: duration(threshold),
                epoch,
            }),
            gate_memory: memory.collect(),
            seen_evidence: self.seen.into_iter().map(Into::into).collect(),
            gates_digest,
            legacy_gates_digest: self.gates,
            capacity_window: capacity_from_stored(&self.capacity),
            blocked_reason: blocked::from_stored(self.blocked, self.frozen),
            gate_reports,
            unread_gate_reports,
            ..base
        })
    }
}

fn digest_to_stored(digest: GatesDigest) -> Value {
    json!({"form": digest.form, "hash": format!("{:016x}", digest.hash)})
}

/// The digest; none if this release cannot read it, so that the digest of the present gates is
/// used.
fn digest_from_stored(stored: &Value) -> Option<GatesDigest> {
    let form = u8::try_from(stored["form"].as_u64()?).ok()?;
    let hash = u64::from_str_radix(stored["hash"].as_str()?, 16).ok()?;
    Some(GatesDigest { form, hash })
}

fn parse_phase(word: &str, pause: Option<&str>) -> Option<RolloutPhase> {
    let phase = RolloutPhase::UNPAUSED.into_iter().find(|phase| phase.as_str() == word)?;
    let Some(pause) = pause else { return Some(phase) };
    let reason = PauseReason::ALL.into_iter().find(|reason| reason.as_str() == pause)?;
    Some(RolloutPhase::Paused { reason, resume_to: phase.as_pausable()? })
}

fn malformed_error(why: &str) -> StoreError {
    StoreError::Malformed(why.to_owned())
}

fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
