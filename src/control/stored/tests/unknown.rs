//! What a later release stored, and this one does not know, is kept and decides nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cohort_hash::Weight;
use crate::config::{RolloutConfig, RolloutMode};
use crate::control::stored::{parse_state, serialize_state};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::ReportedGateKind;
use crate::rollout::{
    self, BlockedReason, RolloutInput, RolloutPhase, RolloutPlan, RolloutState, Tick,
};
use crate::task::UnixMs;

/// A healthy rollout at 10 %, as stored, with these reports.
fn healthy_record(reports: &Value) -> Value {
    let state = RolloutState {
        weight: Weight::from_basis_points(1_000),
        phase: RolloutPhase::Healthy,
        ..RolloutState::new(UnixMs(1))
    };
    let mut record = serde_json::from_str::<Value>(&serialize_state(&state)).expect("JSON");
    record["reports"] = reports.clone();
    record
}

fn report(kind: &str, verdict: &str) -> Value {
    json!({
        "gate": "errors", "kind": kind, "verdict": verdict, "why": "errors: fine", "needs": null,
        "asynchronous": [0, 143], "sync": null, "value": 0.0, "interval": [0.0, 0.024],
    })
}

fn rewrite(record: &Value) -> (RolloutState, Value) {
    let state = parse_state(&record.to_string()).expect("readable");
    let written = serde_json::from_str(&serialize_state(&state)).expect("JSON");
    (state, written)
}

/// The weight after a tick of a leader whose file allows 50 %.
fn weight_after_tick(state: &RolloutState) -> f64 {
    let percent = Weight::from_basis_points(5_000);
    let config = RolloutConfig::new("invoke", percent, RolloutMode::Gated);
    let plan = RolloutPlan { route: "invoke", config: &config, task_deadline: Duration::ZERO };
    let tick = Tick {
        elapsed: Duration::from_secs(1),
        lagging_replicas: &[],
        breaker_evidence: &RolloutEvidence::default(),
    };
    let decision = rollout::decide(state, plan, RolloutInput::Tick(tick), UnixMs(2));
    decision.expect("no command").state.weight.percent()
}

#[test]
fn an_unknown_stored_gate_kind_survives_a_read_and_a_write() {
    let reports = json!([report("token_ratio", "pass"), report("prometheus", "pass")]);
    let (state, written) = rewrite(&healthy_record(&reports));
    assert_eq!(state.gate_reports[0].gate_kind, ReportedGateKind::Unknown("token_ratio".into()));
    assert_eq!(state.gate_reports[0].gate_kind.as_str(), "token_ratio");
    assert_eq!(written["reports"], reports);
}

#[test]
fn an_unknown_stored_verdict_survives_a_read_and_a_write_and_raises_no_weight() {
    let mut later = report("error_ratio", "degrading");
    later["trend"] = json!(0.3);
    let (state, written) = rewrite(&healthy_record(&json!([later])));
    assert_eq!(written["reports"], json!([later]), "fields that are not known included");
    assert_eq!(state.unread_gate_reports[0].verdict, "degrading");
    assert_eq!(weight_after_tick(&state).to_string(), "10");
    let (passing, _) = rewrite(&healthy_record(&json!([report("error_ratio", "pass")])));
    assert_eq!(weight_after_tick(&passing).to_string(), "25");
}

#[test]
fn an_unknown_blocked_code_blocks_and_survives_a_read_and_a_write() {
    let mut record = healthy_record(&json!([]));
    let code = json!({"code": "quota_exceeded", "tenant": "a"});
    record["blocked"] = code.clone();
    record["frozen"] = json!("the quota of a is exceeded");
    let (state, written) = rewrite(&record);
    let reason = state.blocked_reason.clone().expect("blocked");
    assert!(matches!(reason, BlockedReason::Unrecognized { .. }), "{reason:?}");
    assert_eq!(reason.render(state.weight), "the quota of a is exceeded");
    assert_eq!((&written["blocked"], &written["frozen"]), (&code, &record["frozen"]));
    assert_eq!(weight_after_tick(&state).to_string(), "10");
}

#[test]
fn a_gates_digest_of_another_form_is_adopted_and_restarts_no_soak() {
    let mut config =
        RolloutConfig::new("invoke", Weight::from_basis_points(1_000), RolloutMode::Gated);
    let soaked = Duration::from_mins(7);
    let load = |state: &RolloutState, config: &RolloutConfig| {
        let plan = RolloutPlan { route: "invoke", config, task_deadline: Duration::ZERO };
        let decision = rollout::decide(state, plan, RolloutInput::ConfigLoaded, UnixMs(2));
        decision.expect("no command").state
    };
    let state = RolloutState {
        weight: Weight::from_basis_points(1_000),
        phase: RolloutPhase::Soaking,
        soak_elapsed: soaked,
        legacy_gates_digest: 17,
        ..RolloutState::new(UnixMs(1))
    };
    let mut record = serde_json::from_str::<Value>(&serialize_state(&state)).expect("JSON");
    for stored in [Value::Null, json!({"form": 200, "hash": "ff"}), json!("ff")] {
        record["gates_digest"] = stored;
        let adopted = load(&parse_state(&record.to_string()).expect("readable"), &config);
        assert_eq!(adopted.soak_elapsed, soaked);
        assert_eq!(adopted.gates_digest, Some(config.gates_digest()));
        assert_eq!(adopted.legacy_gates_digest, 17, "an older leader finds its own value");
    }
    let adopted = load(&state, &config);
    let (reread, _) = rewrite(&serde_json::from_str(&serialize_state(&adopted)).expect("JSON"));
    assert_eq!(load(&reread, &config).soak_elapsed, soaked);
    config.gates.truncate(1);
    assert_eq!(load(&reread, &config).soak_elapsed, Duration::ZERO, "an edit after the adoption");
}
