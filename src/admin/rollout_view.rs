//! A rollout as the API and the command line show it.

use std::time::Duration;

use serde_json::{Value, json};

use super::Parts;
use crate::cohort::Weight;
use crate::config::{Gate, GateKind, Limits, Rollout, Route};
use crate::control::{RouteView, View};
use crate::rollout::evidence::{Counts, Evidence};
use crate::rollout::explain::{Explanation, Standing, explain};
use crate::rollout::gate::Report;
use crate::rollout::{Phase, State};
use crate::snapshot::{LiveRoute, Snapshot};

/// A route with all that is known of its rollout.
pub(super) struct Seen<'a> {
    route: &'a Route,
    running: f64,
    /// What the controller knows; nothing while it has not loaded the route.
    known: Option<(&'a RouteView, Explanation)>,
    view: &'a View,
}

// === impl Seen ===

impl<'a> Seen<'a> {
    pub(super) fn new(parts: &'a Parts, snapshot: &'a Snapshot, live: &LiveRoute, view: &'a View) -> Self {
        let route = snapshot.route(live);
        let known = view.routes.get(&route.name).map(|known| (known, explained(parts, route, known, view)));
        Self { route, running: live.weight.percent(), known, view }
    }

    pub(super) fn explanation(&self) -> Option<&Explanation> {
        self.known.as_ref().map(|(_, explanation)| explanation)
    }

    /// The line of a list.
    pub(super) fn brief(&self) -> Value {
        let rollout = &self.route.rollout;
        let known = self.known.as_ref();
        json!({
            "route": self.route.name,
            "mode": rollout.mode.as_str(),
            "phase": known.map(|(known, _)| known.state.phase.as_str()),
            "weight": self.running,
            "desired": known.map(|(known, _)| known.state.weight.percent()),
            "percent": rollout.percent.percent(),
            "next": known.and_then(|(known, _)| known.next).map(Weight::percent),
            "waiting_for": known.map(|(_, explanation)| explanation.waiting_for.as_str()),
            "deprecation": self.route.deprecation.mode.as_str(),
        })
    }

    /// Everything.
    pub(super) fn document(&self) -> Value {
        let mut document = self.brief();
        document["plan"] = plan_view(&self.route.rollout);
        let Some((known, explanation)) = &self.known else { return document };
        let (state, rollout) = (&known.state, &self.route.rollout);
        let more = json!({
            "epoch": state.epoch,
            "since": state.since.rfc3339(),
            "by": state.by,
            "reason": state.reason,
            "pause_reason": pause_reason(state),
            "frozen": state.frozen,
            "held": state.held,
            "saved": known.saved,
            "store": self.view.store,
            "soak": {"done": whole_seconds(state.soaked), "of": rollout.soak_at(state.weight).as_secs()},
            "countdown": explanation.countdown.map(whole_seconds),
            "pauses_in": explanation.pauses_in.map(whole_seconds),
            "explain": explanation.text,
            "to_do": explanation.next,
            "passes": state.passes,
            "fails": state.fails,
            "gates": rollout.gates.iter().map(|gate| gate_view(gate, state)).collect::<Vec<_>>(),
            "cohort": {"from": state.cohort.from, "to": state.cohort.to, "closed": state.cohort.closed.is_some()},
            "evidence": known.evidence.as_ref().map(evidence_view),
            "per_minute": known.per_minute,
            "laggards": known.laggards,
            "leader": self.view.leader,
            "replicas": replicas(self.view, &self.route.name),
        });
        if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
            document.extend(more);
        }
        document
    }
}

fn explained(parts: &Parts, route: &Route, known: &RouteView, view: &View) -> Explanation {
    explain(&Standing {
        route: &route.name,
        rollout: &route.rollout,
        file: parts.file.as_deref(),
        state: &known.state,
        running: known.running,
        next: known.next,
        laggards: &known.laggards,
        evidence: known.evidence.as_ref(),
        per_minute: known.per_minute,
        store: view.store,
        now: view.clock.now(),
    })
}

/// Rounded as the explanation rounds.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    (time + Duration::from_millis(500)).as_secs()
}

fn pause_reason(state: &State) -> Option<&'static str> {
    match state.phase {
        Phase::Paused { why, .. } => Some(why.as_str()),
        _ => None,
    }
}

/// A gate of the file with what it said last; nothing, where it was not asked yet.
fn gate_view(gate: &Gate, state: &State) -> Value {
    let said = state.reports.iter().find(|report| report.gate == gate.name);
    let counts =
        |pick: fn(&Report) -> Option<(u64, u64)>| said.and_then(pick).map(|(hits, of)| json!({"x": hits, "n": of}));
    json!({
        "gate": gate.name,
        "type": gate.kind.as_str(),
        "verdict": said.map(|said| said.verdict.as_str()),
        "why": said.map(|said| &said.why),
        "needs": said.and_then(|said| said.needs),
        "async": counts(|said| said.asynchronous),
        "sync": counts(|said| said.sync),
        "value": said.and_then(|said| said.value),
        "interval": said.and_then(|said| said.interval).map(|(low, high)| [low, high]),
    })
}

fn evidence_view(evidence: &Evidence) -> Value {
    let counts = |counts: &Counts| json!({"total": counts.total, "failed": counts.failed, "client_errors": counts.client_errors});
    json!({
        "sync": counts(&evidence.sync),
        "async": counts(&evidence.asynchronous),
        "canaried": evidence.canaried(),
        "accepted": evidence.accepted,
        "open": evidence.open(),
        "cancelled": evidence.cancelled,
        "refused": evidence.refused,
        "rejected": evidence.rejected,
        "deferred": evidence.deferred,
        "unavailable": evidence.unavailable,
        "copied": evidence.copied,
        "compared": evidence.compared,
        "mismatched": evidence.mismatched,
    })
}

fn replicas(view: &View, route: &str) -> Value {
    let replica = |replica: &crate::control::ReplicaView| {
        let runs = replica.weights.get(route);
        json!({
            "process": replica.process,
            "weight": runs.map(|(weight, _)| weight.percent()),
            "epoch": runs.map(|(_, epoch)| epoch),
            "config": replica.config,
            "this": replica.process == view.process,
            "leader": view.leader.as_ref() == Some(&replica.process),
        })
    };
    view.replicas.iter().map(replica).collect()
}

/// What the file says about a rollout: what `rollout plan` compares.
#[must_use]
pub fn plan_view(rollout: &Rollout) -> Value {
    let step = |step: &crate::config::Step| {
        json!({
            "weight": step.weight.percent(),
            "soak": rollout.soak_at(step.weight).as_secs(),
            "approval": step.approval,
        })
    };
    json!({
        "percent": rollout.percent.percent(),
        "mode": rollout.mode.as_str(),
        "steps": rollout.steps.iter().map(step).collect::<Vec<_>>(),
        "min_samples": {"async": rollout.min_samples.asynchronous, "sync": rollout.min_samples.sync},
        "max_wait": rollout.max_wait.as_secs(),
        "interval": rollout.interval.as_secs_f64(),
        "on_fail": match rollout.on_fail {
            crate::config::OnFail::Rollback => "rollback",
            crate::config::OnFail::Pause => "pause",
        },
        "gates": rollout.gates.iter().map(gate_plan).collect::<Vec<_>>(),
        "shadow": rollout.shadow.as_ref().map_or(0.0, |shadow| shadow.percent.percent()),
    })
}

fn gate_plan(gate: &Gate) -> Value {
    let ratio = |limits: &Limits| json!({"max": limits.max, "margin": limits.margin, "tolerated_ratio": limits.tolerated_ratio, "alpha": limits.alpha});
    let mut plan = match &gate.kind {
        GateKind::ErrorRatio(limits)
        | GateKind::ClientErrorRatio(limits)
        | GateKind::DeferredRatio(limits)
        | GateKind::ShadowMismatch(limits) => ratio(limits),
        GateKind::SlowRatio { threshold, limits, .. } => {
            let mut plan = ratio(limits);
            plan["threshold"] = threshold.as_secs_f64().into();
            plan
        }
        GateKind::QueueOldest { max } => json!({"max": max.as_secs_f64()}),
        GateKind::QueueDepth { max } => json!({"max": max}),
        GateKind::Prometheus { query, min, max, .. } => json!({"query": query, "min": min, "max": max}),
    };
    plan["gate"] = gate.name.clone().into();
    plan["type"] = gate.kind.as_str().into();
    plan
}
