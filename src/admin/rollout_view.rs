//! A rollout as the API and the command line show it.

use std::time::Duration;

use serde_json::{Value, json};

use super::AdminServices;
use crate::cohort::Weight;
use crate::config::{GateConfig, GateKind, RatioLimits, RolloutConfig, RouteConfig};
use crate::control::{RolloutsView, RouteRolloutView};
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::explain::{ExplanationInput, RolloutExplanation, explain_rollout};
use crate::rollout::gate::{GateReport, UnreadGateReport};
use crate::rollout::{BlockedReason, RolloutPhase, RolloutState};
use crate::snapshot::{Snapshot, SnapshotRoute};

/// A route with all that is known of its rollout.
pub(super) struct RolloutPresenter<'a> {
    route: &'a RouteConfig,
    running_percent: f64,
    /// What the controller knows; nothing while it has not loaded the route.
    controller_state: Option<(&'a RouteRolloutView, RolloutExplanation)>,
    fleet_view: &'a RolloutsView,
}

// === impl Seen ===

impl<'a> RolloutPresenter<'a> {
    pub(super) fn new(
        parts: &'a AdminServices,
        snapshot: &'a Snapshot,
        live: &SnapshotRoute,
        fleet_view: &'a RolloutsView,
    ) -> Self {
        let route = snapshot.route_config(live);
        let controller_state = fleet_view
            .routes
            .get(&route.name)
            .map(|known| (known, explain_route(parts, route, known, fleet_view)));
        Self { route, running_percent: live.weight.percent(), controller_state, fleet_view }
    }

    pub(super) fn explanation(&self) -> Option<&RolloutExplanation> {
        self.controller_state.as_ref().map(|(_, explanation)| explanation)
    }

    /// The line of a list.
    pub(super) fn render_summary(&self) -> Value {
        let rollout = &self.route.rollout;
        let known = self.controller_state.as_ref();
        json!({
            "route": self.route.name,
            "mode": rollout.mode.as_str(),
            "phase": known.map(|(known, _)| known.state.phase.as_str()),
            "weight": self.running_percent,
            "desired": known.map(|(known, _)| known.state.weight.percent()),
            "percent": rollout.percent.percent(),
            "next": known.and_then(|(known, _)| known.next_weight).map(Weight::percent),
            "waiting_for": known.map(|(_, explanation)| explanation.waiting_for.as_str()),
            "deprecation": self.route.deprecation.mode.as_str(),
        })
    }

    /// Everything.
    pub(super) fn render_document(&self) -> Value {
        let mut document = self.render_summary();
        document["plan"] = render_plan(&self.route.rollout);
        let Some((known, explanation)) = &self.controller_state else { return document };
        let (state, rollout) = (&known.state, &self.route.rollout);
        let more = json!({
            "epoch": state.epoch,
            "since": state.phase_since.to_rfc3339(),
            "by": state.actor.name(),
            "reason": state.reason,
            "pause_reason": pause_reason(state),
            "frozen": state.blocked_text(),
            "blocked_code": state.blocked_reason.as_ref().map(BlockedReason::code),
            "held": state.manual_hold,
            "saved": known.is_saved,
            "store": self.fleet_view.store_reachable,
            "soak": {"done": round_to_seconds(state.soak_elapsed), "of": rollout.soak_at(state.weight).as_secs()},
            "countdown": explanation.continues_in.map(round_to_seconds),
            "pauses_in": explanation.pauses_in.map(round_to_seconds),
            "explain": explanation.text,
            "to_do": explanation.next_action,
            "passes": state.pass_streak,
            "fails": state.fail_streak,
            "gates": rollout.gates.iter().map(|gate| render_gate(gate, state)).collect::<Vec<_>>(),
            "cohort": {"from": state.cohort.from_epoch, "to": state.cohort.to_epoch, "closed": state.cohort.closed_for.is_some()},
            "evidence": known.judged_evidence.as_ref().map(render_evidence),
            "per_minute": known.requests_per_minute,
            "laggards": known.lagging_replicas,
            "leader": self.fleet_view.leader_process,
            "replicas": render_replicas(self.fleet_view, &self.route.name),
        });
        if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
            document.extend(more);
        }
        document
    }
}

fn explain_route(
    parts: &AdminServices,
    route: &RouteConfig,
    known: &RouteRolloutView,
    view: &RolloutsView,
) -> RolloutExplanation {
    explain_rollout(&ExplanationInput {
        route: &route.name,
        config: &route.rollout,
        config_file: parts.config_file.as_deref(),
        state: &known.state,
        running_weight: known.running_weight,
        next_weight: known.next_weight,
        lagging_replicas: &known.lagging_replicas,
        cohort_evidence: known.judged_evidence.as_ref(),
        requests_per_minute: known.requests_per_minute,
        store_reachable: view.store_reachable,
        now: view.store_clock.now(),
    })
}

/// Rounded as the explanation rounds.
pub(super) fn round_to_seconds(time: Duration) -> u64 {
    (time + Duration::from_millis(500)).as_secs()
}

fn pause_reason(state: &RolloutState) -> Option<&'static str> {
    match state.phase {
        RolloutPhase::Paused { reason: why, .. } => Some(why.as_str()),
        _ => None,
    }
}

/// A gate of the file with its last report; nulls where it has not been evaluated yet. Of a report
/// whose verdict this release does not know, the stored words are shown.
fn render_gate(gate: &GateConfig, state: &RolloutState) -> Value {
    let said = state.gate_reports.iter().find(|report| report.gate_name == gate.name);
    let counts = |pick: fn(&GateReport) -> Option<(u64, u64)>| {
        said.and_then(pick).map(|(hits, of)| json!({"x": hits, "n": of}))
    };
    let unread = state.unread_gate_reports.iter().find(|report| report.gate_name == gate.name);
    let unread_why =
        |report: &UnreadGateReport| format!("{} (of another version)", report.explanation);
    json!({
        "gate": gate.name,
        "type": gate.kind.as_str(),
        "verdict": said
            .map(|said| said.verdict.as_str())
            .or(unread.map(|report| report.verdict.as_str())),
        "why": said.map(|said| said.explanation.clone()).or(unread.map(unread_why)),
        "needs": said.and_then(|said| said.needed_outcomes),
        "async": counts(|said| said.async_bad_of_total),
        "sync": counts(|said| said.sync_bad_of_total),
        "value": said.and_then(|said| said.value),
        "interval": said.and_then(|said| said.interval).map(|(low, high)| [low, high]),
    })
}

fn render_evidence(evidence: &RolloutEvidence) -> Value {
    let counts = |counts: &EvidenceCounts| json!({"total": counts.total, "failed": counts.failed, "client_errors": counts.client_errors});
    json!({
        "sync": counts(&evidence.sync_counts),
        "async": counts(&evidence.async_counts),
        "canaried": evidence.canaried_requests(),
        "accepted": evidence.accepted_tasks,
        "open": evidence.open_tasks(),
        "cancelled": evidence.cancelled_tasks,
        "refused": evidence.refused_requests,
        "rejected": evidence.rejected_requests,
        "deferred": evidence.deferred_requests,
        "unavailable": evidence.store_unavailable,
        "copied": evidence.shadow_copied,
        "compared": evidence.shadow_compared,
        "mismatched": evidence.shadow_mismatched,
    })
}

fn render_replicas(view: &RolloutsView, route: &str) -> Value {
    let replica = |replica: &crate::control::ReplicaView| {
        let runs = replica.weights_by_route.get(route);
        json!({
            "process": replica.process_name,
            "weight": runs.map(|(weight, _)| weight.percent()),
            "epoch": runs.map(|(_, epoch)| epoch),
            "config": replica.config_digest,
            "this": replica.process_name == view.own_process,
            "leader": view.leader_process.as_ref() == Some(&replica.process_name),
        })
    };
    view.replicas.iter().map(replica).collect()
}

/// What the file says about a rollout: what `rollout plan` compares.
#[must_use]
pub fn render_plan(rollout: &RolloutConfig) -> Value {
    let step = |step: &crate::config::StepConfig| {
        json!({
            "weight": step.weight.percent(),
            "soak": rollout.soak_at(step.weight).as_secs(),
            "approval": step.needs_approval,
        })
    };
    json!({
        "percent": rollout.percent.percent(),
        "mode": rollout.mode.as_str(),
        "steps": rollout.steps.iter().map(step).collect::<Vec<_>>(),
        "min_samples": {"async": rollout.min_samples.async_requests, "sync": rollout.min_samples.sync_requests},
        "max_wait": rollout.max_step_wait.as_secs(),
        "interval": rollout.evaluation_interval.as_secs_f64(),
        "on_fail": match rollout.on_fail {
            crate::config::GateFailureAction::Rollback => "rollback",
            crate::config::GateFailureAction::Pause => "pause",
        },
        "gates": rollout.gates.iter().map(render_gate_plan).collect::<Vec<_>>(),
        "shadow": rollout.shadow.as_ref().map_or(0.0, |shadow| shadow.percent.percent()),
    })
}

fn render_gate_plan(gate: &GateConfig) -> Value {
    let ratio = |limits: &RatioLimits| json!({"max": limits.max, "margin": limits.margin, "tolerated_ratio": limits.tolerated_ratio, "alpha": limits.alpha});
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
        GateKind::PrometheusQuery { query, min, max, .. } => {
            json!({"query": query, "min": min, "max": max})
        }
    };
    plan["gate"] = gate.name.clone().into();
    plan["type"] = gate.kind.as_str().into();
    plan
}
