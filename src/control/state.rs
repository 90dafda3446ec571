//! How a rollout's state and history are written down: JSON with a schema version; N reads N−1.
//!
//! A mirror of `rollout::State`, so that a change of that is a choice here: what an older process cannot read, it does not
//! act on. Counts are arrays, durations milliseconds, weights basis points.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::counts::{read_each, write_each};
use crate::cohort::Weight;
use crate::rollout::evidence::{Counts, Evidence};
use crate::rollout::gate::{Memory, Report, Verdict};
use crate::rollout::sequential::Scores;
use crate::rollout::{Cohort, Happened, Pause, Phase, Progress, State};
use crate::store::StoreError;
use crate::task::UnixMs;

const VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u8,
    weight_bp: u16,
    changed_ms: u64,
    reason: String,
    /// All that follows is of schema version 2.
    #[serde(flatten)]
    more: Option<More>,
}

#[derive(Serialize, Deserialize)]
struct More {
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
    baseline: Option<Numbers>,
    memory: BTreeMap<String, StoredMemory>,
    seen: Vec<StoredEvidence>,
    gates: u64,
    frozen: Option<String>,
    reports: Vec<StoredReport>,
}

/// Counts: total, failed, client errors, then the buckets; by group of clients, the failed and the client errors.
type Numbers = [Vec<u64>; 3];

#[derive(Serialize, Deserialize)]
struct StoredMemory {
    since_start: Scores,
    since_worst: Scores,
    over_limit: Scores,
}

#[derive(Serialize, Deserialize)]
struct StoredEvidence {
    sync: Numbers,
    asynchronous: Numbers,
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
struct StoredReport {
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
pub(super) fn write(state: &State) -> String {
    let (phase, pause) = match &state.phase {
        Phase::Paused { why, then } => (Phase::from(*then), Some(why.as_str().to_owned())),
        phase => (phase.clone(), None),
    };
    let Cohort { from, to, closed } = state.cohort;
    let more = More {
        epoch: state.epoch,
        phase: phase.as_str().to_owned(),
        pause,
        since_ms: state.since.0,
        by: state.by.clone(),
        held: state.held,
        soaked_ms: ms(state.soaked),
        waited_ms: ms(state.waited),
        blind_ms: ms(state.blind),
        sighted: state.sighted,
        cohort: (from, to, closed.map(ms)),
        first: state.first,
        prior: state.prior,
        healthy: state.healthy,
        passes: state.passes,
        fails: state.fails,
        baseline: state.baseline.as_ref().map(numbers),
        memory: state.memory.iter().map(|(gate, memory)| (gate.clone(), memory.into())).collect(),
        seen: state.seen.iter().map(Into::into).collect(),
        gates: state.gates,
        frozen: state.frozen.clone(),
        reports: state.reports.iter().map(Into::into).collect(),
    };
    let stored = Stored {
        v: VERSION,
        weight_bp: state.weight.basis_points(),
        changed_ms: state.changed.0,
        reason: state.reason.clone(),
        more: Some(more),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// The state of a text.
pub(super) fn read(text: &str) -> Result<State, StoreError> {
    let stored: Stored = serde_json::from_str(text).map_err(|error| malformed(&error.to_string()))?;
    if stored.v > VERSION {
        return Err(malformed(&format!("rollout state of schema version {}", stored.v)));
    }
    let weight = Weight::from_basis_points(stored.weight_bp);
    let fresh = State { weight, reason: stored.reason, ..State::fresh(UnixMs(stored.changed_ms)) };
    if stored.v > 1 && stored.more.is_none() {
        return Err(malformed("a rollout state with a field that cannot be read"));
    }
    let Some(more) = stored.more else {
        // schema version 1 knew no gates: all its rollouts were manual
        return Ok(State { phase: Phase::Manual, ..fresh });
    };
    let phase = phase(&more.phase, more.pause.as_deref()).ok_or_else(|| malformed("a phase that is none"))?;
    let duration = Duration::from_millis;
    let (from, to, closed) = more.cohort;
    Ok(State {
        epoch: more.epoch,
        phase,
        since: UnixMs(more.since_ms),
        by: more.by,
        held: more.held,
        soaked: duration(more.soaked_ms),
        waited: duration(more.waited_ms),
        blind: duration(more.blind_ms),
        sighted: more.sighted,
        cohort: Cohort { from, to, closed: closed.map(duration) },
        first: more.first,
        prior: more.prior,
        healthy: more.healthy,
        passes: more.passes,
        fails: more.fails,
        baseline: more.baseline.as_ref().map(counts),
        memory: more.memory.into_iter().map(|(gate, memory)| (gate, memory.into())).collect(),
        seen: more.seen.into_iter().map(Into::into).collect(),
        gates: more.gates,
        frozen: more.frozen,
        reports: more.reports.into_iter().map(StoredReport::into_report).collect(),
        ..fresh
    })
}

/// A line of the history as JSON; what the API shows, and notifications say of `route`.
pub(super) fn write_happened(route: &str, happened: &Happened) -> Value {
    let gates: Vec<_> = happened.reports.iter().map(StoredReport::from).collect();
    json!({
        "route": route,
        "at_ms": happened.at.0,
        "event": happened.event,
        "by": happened.by,
        "reason": happened.reason,
        "from": happened.from.percent(),
        "to": happened.to.percent(),
        "epoch": happened.epoch,
        "phase": happened.phase.as_str(),
        "gates": gates,
    })
}

fn malformed(why: &str) -> StoreError {
    StoreError::Malformed(why.to_owned())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn phase(word: &str, pause: Option<&str>) -> Option<Phase> {
    let phase = Phase::GOING.into_iter().find(|phase| phase.as_str() == word)?;
    let Some(pause) = pause else { return Some(phase) };
    let why = Pause::ALL.into_iter().find(|why| why.as_str() == pause)?;
    let then: Progress = phase.progress()?;
    Some(Phase::Paused { why, then })
}

fn numbers(counts: &Counts) -> Numbers {
    let mut numbers = vec![counts.total, counts.failed, counts.client_errors];
    numbers.extend(write_each(&counts.took));
    [numbers, write_each(&counts.failed_by), write_each(&counts.client_errors_by)]
}

fn counts([numbers, failed_by, client_errors_by]: &Numbers) -> Counts {
    let at = |place: usize| numbers.get(place).copied().unwrap_or_default();
    Counts {
        total: at(0),
        failed: at(1),
        client_errors: at(2),
        took: read_each(numbers.get(3..).unwrap_or_default()),
        failed_by: read_each(failed_by),
        client_errors_by: read_each(client_errors_by),
    }
}

// === impl StoredMemory ===

impl From<&Memory> for StoredMemory {
    fn from(memory: &Memory) -> Self {
        let Memory { since_start, since_worst, over_limit } = *memory;
        Self { since_start, since_worst, over_limit }
    }
}

impl From<StoredMemory> for Memory {
    fn from(stored: StoredMemory) -> Self {
        let StoredMemory { since_start, since_worst, over_limit } = stored;
        Self { since_start, since_worst, over_limit }
    }
}

// === impl StoredEvidence ===

impl From<&Evidence> for StoredEvidence {
    fn from(evidence: &Evidence) -> Self {
        let Evidence {
            sync,
            asynchronous,
            accepted,
            cancelled,
            refused,
            rejected,
            deferred,
            acknowledged,
            unavailable,
            copied,
            compared,
            mismatched,
        } = evidence;
        Self {
            sync: numbers(sync),
            asynchronous: numbers(asynchronous),
            acknowledged: write_each(acknowledged),
            rest: [*accepted, *cancelled, *refused, *deferred, *unavailable],
            rejected: *rejected,
            shadow: [*copied, *compared, *mismatched],
        }
    }
}

impl From<StoredEvidence> for Evidence {
    fn from(stored: StoredEvidence) -> Self {
        let [accepted, cancelled, refused, deferred, unavailable] = stored.rest;
        let acknowledged = read_each(&stored.acknowledged);
        let (sync, asynchronous) = (counts(&stored.sync), counts(&stored.asynchronous));
        let rejected = stored.rejected;
        let [copied, compared, mismatched] = stored.shadow;
        Self {
            sync,
            asynchronous,
            accepted,
            cancelled,
            refused,
            rejected,
            deferred,
            acknowledged,
            unavailable,
            copied,
            compared,
            mismatched,
        }
    }
}

// === impl StoredReport ===

impl StoredReport {
    /// Kinds and verdicts that this release does not know are shown as doubt: nothing is decided by a stored report.
    fn into_report(self) -> Report {
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
        Report {
            gate,
            kind: kinds.into_iter().find(|known| *known == kind).unwrap_or("prometheus"),
            verdict: verdicts.into_iter().find(|known| known.as_str() == verdict).unwrap_or(Verdict::Inconclusive),
            why,
            needs,
            asynchronous,
            sync,
            value,
            interval,
        }
    }
}

impl From<&Report> for StoredReport {
    fn from(report: &Report) -> Self {
        let Report { gate, kind, verdict, why, needs, asynchronous, sync, value, interval } = report.clone();
        let (kind, verdict) = (kind.to_owned(), verdict.as_str().to_owned());
        Self { gate, kind, verdict, why, needs, asynchronous, sync, value, interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cohort::GROUPS;
    use crate::config::{Rollout, RolloutMode};
    use crate::rollout::{self, Beat, CONTROLLER, Event, Observation, Plan};
    use crate::task::BUCKETS;

    #[test]
    fn state_is_read_back_and_a_later_schema_is_refused() {
        let mut state = State {
            weight: Weight::FULL,
            epoch: 3,
            phase: Phase::Paused { why: Pause::AwaitingApproval, then: Progress::Gating },
            soaked: Duration::from_mins(7),
            cohort: Cohort { from: 2, to: 3, closed: Some(Duration::from_secs(1)) },
            baseline: Some(Counts { total: 7, took: [1; BUCKETS], ..Counts::default() }),
            by: "ann".into(),
            ..State::fresh(UnixMs(7))
        };
        state.memory.insert("errors".into(), Memory { since_start: [-1.5, 0.0, 2.0], ..Memory::default() });
        let failed = Counts { failed: 4, ..Counts::default() };
        let copies = Evidence { copied: 9, compared: 8, mismatched: 7, ..Evidence::default() };
        state.seen = vec![Evidence { asynchronous: failed, ..Evidence::default() }, copies];
        assert_eq!(read(&write(&state)), Ok(state.clone()));
        assert!(read(&write(&state).replace("\"v\":2", "\"v\":3")).is_err());
        assert!(
            read(&write(&state).replace("\"epoch\":3", "\"epoch\":true")).is_err(),
            "never a manual one by mistake"
        );
    }

    /// A process that is killed after any event goes on as if nothing had been.
    #[test]
    fn at_every_point_of_a_climb_the_state_is_read_back_as_it_was() {
        let rollout = Rollout::new("invoke", Weight::FULL, RolloutMode::Gated);
        let plan = Plan { route: "invoke", rollout: &rollout, deadline: Duration::from_hours(1) };
        let counts = Counts {
            total: 400,
            took: [3; BUCKETS],
            failed_by: [0; GROUPS],
            client_errors_by: [1; GROUPS],
            ..Counts::default()
        };
        let news = Evidence { sync: counts, asynchronous: counts, accepted: 400, ..Evidence::default() };
        let (mut state, mut known) = (State::fresh(UnixMs(1)), BTreeMap::<u64, Evidence>::new());
        let mut phases = std::collections::BTreeSet::new();
        for at in 0..300 {
            known.entry(state.epoch).or_default().add(&news);
            let evidence: Vec<Evidence> =
                state.epochs().iter().map(|epoch| known.get(epoch).copied().unwrap_or_default()).collect();
            let observation = Observation {
                elapsed: Duration::from_mins(7),
                laggards: &[],
                evidence: &evidence,
                samples: &BTreeMap::new(),
                queue_depth: Some(1),
                queue_oldest: Some(Duration::from_secs(1)),
            };
            let window = Evidence::default();
            let beat = Beat { elapsed: Duration::from_secs(1), laggards: &[], window: &window };
            let event = match at {
                0 => Event::Planned,
                at if at % 2 == 0 => Event::Look(observation),
                _ => Event::Beat(beat),
            };
            state = rollout::decide(&state, plan, event, UnixMs(at)).expect("no order").state;
            assert_eq!(read(&write(&state)).as_ref(), Ok(&state));
            phases.insert(state.phase.as_str());
        }
        assert_eq!(phases.into_iter().collect::<Vec<_>>(), ["gating", "healthy", "shifting", "soaking"]);
    }

    #[test]
    fn a_state_of_schema_version_1_is_a_manual_rollout() {
        let state = read(r#"{"v":1,"weight_bp":2500,"changed_ms":7,"reason":"x"}"#).expect("readable");
        assert_eq!((state.weight.basis_points(), state.phase, state.by.as_str()), (2500, Phase::Manual, CONTROLLER));
    }
}
