//! Records as the release before `blocked`, `actor_kind` and `gates_digest` wrote them.
//!
//! `records.tsv` has a name and a record a line. `decisions.txt` has what that release decided for
//! each record and input, in the form that `summarize` gives. Both are data of that release: they
//! are never edited.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::cohort_hash::Weight;
use crate::config::{RolloutConfig, RolloutMode};
use crate::control::stored::{event_to_json, parse_state, serialize_state};
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::{
    self, BlockedReason, CommandRefusal, OperatorAction, OperatorCommand, RolloutDecision,
    RolloutInput, RolloutObservation, RolloutPlan, RolloutState, Tick,
};
use crate::task::UnixMs;

const RECORDS: &str = include_str!("../previous_build/records.tsv");
const DECISIONS: &str = include_str!("../previous_build/decisions.txt");

fn records() -> Vec<(&'static str, &'static str)> {
    RECORDS.lines().map(|line| line.split_once('\t').expect("a name and a record")).collect()
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

/// The evidence that `state` has seen, and `new` in its last epoch.
#[allow(clippy::large_types_passed_by_value)] // consumed into the result
fn evidence_with(state: &RolloutState, new: RolloutEvidence) -> Vec<RolloutEvidence> {
    let mut evidence = state.seen_evidence.clone();
    evidence.resize(state.evidence_epochs().len(), RolloutEvidence::default());
    evidence.last_mut().expect("an epoch").add(&new);
    evidence
}

/// What a decision changed, without its sentences.
fn summarize(decision: Result<RolloutDecision, CommandRefusal>) -> String {
    const FIELDS: [&str; 14] = [
        "phase",
        "pause",
        "weight_bp",
        "epoch",
        "held",
        "by",
        "passes",
        "fails",
        "soaked_ms",
        "waited_ms",
        "blind_ms",
        "cohort",
        "first",
        "prior",
    ];
    let Ok(decision) = decision else { return "refused".into() };
    let stored: Value =
        serde_json::from_str(&serialize_state(&decision.state)).expect("a record is JSON");
    let blocked = match stored["frozen"].as_str() {
        None => "no",
        Some("percent in the file is 0") => "percent_zero",
        Some(_) => "yes",
    };
    let unquoted = |value: &Value| value.to_string().replace('"', "");
    let fields: Vec<String> = FIELDS.map(|field| unquoted(&stored[field])).into();
    let event = |event| {
        let event = event_to_json("invoke", event);
        ["event", "by", "from", "to", "phase"].map(|field| unquoted(&event[field])).join(":")
    };
    let events: Vec<String> = decision.events.iter().map(event).collect();
    format!("{} blocked={blocked} events={}", fields.join(" "), events.join(","))
}

fn tick<'a>(lagging_replicas: &'a [String], window: &'a RolloutEvidence) -> RolloutInput<'a> {
    let elapsed = Duration::from_secs(1);
    RolloutInput::Tick(Tick { elapsed, lagging_replicas, breaker_evidence: window })
}

fn evaluation<'a>(
    epoch_evidence: &'a [RolloutEvidence],
    lagging_replicas: &'a [String],
) -> RolloutInput<'a> {
    static NO_SAMPLES: BTreeMap<String, rollout::gate::PrometheusSample> = BTreeMap::new();
    RolloutInput::EvaluationDue(RolloutObservation {
        elapsed: Duration::from_mins(2),
        lagging_replicas,
        epoch_evidence,
        prometheus_samples: &NO_SAMPLES,
        queue_depth: Some(1),
        queue_oldest: Some(Duration::from_secs(1)),
    })
}

/// A line for each input, as in `decisions.txt`.
fn decide_on_every_input(name: &str, state: &RolloutState) -> String {
    let percent = Weight::from_basis_points(5_000);
    let config = RolloutConfig::new("invoke", percent, RolloutMode::Gated);
    let stopped = RolloutConfig { percent: Weight::ZERO, ..config.clone() };
    let window = RolloutEvidence::default();
    let lagging = ["web.2 (its file differs)".to_owned()];
    let good = evidence_with(state, make_evidence(4_000, 0, 9_000, 0));
    let bad = evidence_with(state, make_evidence(100, 100, 900, 0));
    let down = evidence_with(state, make_evidence(100, 0, 100, 7));
    let commands = [
        OperatorAction::Promote { full: false },
        OperatorAction::Pause,
        OperatorAction::Resume,
        OperatorAction::Abort,
        OperatorAction::Retry,
        OperatorAction::SetWeight(Weight::from_basis_points(1_500)),
    ]
    .map(|action| OperatorCommand { action, actor: "bob".into(), reason: "x".into() });
    let mut inputs = vec![
        ("config_loaded", &config, RolloutInput::ConfigLoaded),
        ("config_with_percent_0", &stopped, RolloutInput::ConfigLoaded),
        ("tick", &config, tick(&[], &window)),
        ("tick_with_lagging_replica", &config, tick(&lagging, &window)),
        ("tick_at_percent_0", &stopped, tick(&[], &window)),
        ("evaluation_good", &config, evaluation(&good, &[])),
        ("evaluation_bad", &config, evaluation(&bad, &[])),
        ("evaluation_store_gone", &config, evaluation(&down, &[])),
        ("evaluation_with_lagging_replica", &config, evaluation(&good, &lagging)),
        ("evaluation_at_percent_0", &stopped, evaluation(&good, &[])),
        ("store_lost", &config, RolloutInput::StoreLost),
    ];
    inputs.extend(commands.iter().map(|c| (c.action.as_str(), &config, RolloutInput::Command(c))));
    let mut lines = String::new();
    for (input_name, config, input) in inputs {
        let task_deadline = Duration::from_hours(1);
        let plan = RolloutPlan { route: "invoke", config, task_deadline };
        let decision = rollout::decide(state, plan, input, UnixMs(1_795_521_660_000));
        writeln!(lines, "{name} {input_name}: {}", summarize(decision)).expect("a string");
    }
    lines
}

#[test]
fn a_stored_rollout_of_the_previous_build_is_read_and_decides_the_same() {
    let mut decided = String::new();
    for (name, record) in records() {
        let state = parse_state(record).unwrap_or_else(|error| panic!("{name}: {error}"));
        decided.push_str(&decide_on_every_input(name, &state));
    }
    for (decided, expected) in decided.lines().zip(DECISIONS.lines()) {
        assert_eq!(decided, expected);
    }
    assert_eq!(decided.lines().count(), DECISIONS.lines().count());
}

#[test]
fn the_previous_build_reads_in_a_rewritten_record_what_it_wrote() {
    for (name, record) in records() {
        let state = parse_state(record).expect(name);
        let before: Value = serde_json::from_str(record).expect("JSON");
        let after: Value = serde_json::from_str(&serialize_state(&state)).expect("JSON");
        for (field, value) in before.as_object().expect("an object") {
            assert_eq!(&after[field], value, "{field} of {name}");
        }
    }
}

#[test]
fn only_the_constant_sentence_of_the_previous_build_is_percent_zero() {
    for (name, record) in records() {
        let state = parse_state(record).expect(name);
        let is_zero = state.blocked_reason == Some(BlockedReason::PercentZero);
        assert_eq!(is_zero, name.contains("percent_zero"), "{name}");
        let stored: Value = serde_json::from_str(record).expect("JSON");
        assert_eq!(state.blocked_text().as_deref(), stored["frozen"].as_str(), "{name}");
    }
}
