//! Builds a rollout's documents from the snapshot and from what the controller knows.

use std::time::Duration;

use super::services::AdminServices;
use super::views::{
    CohortDocument, EvidenceDocument, ExplanationDocument, GateDocument, PlanDocument,
    ReplicaDocument, RolloutDetailsDocument, RolloutDocument, RolloutSummaryDocument,
    ShareDocument, SoakDocument,
};
use crate::cohort_hash::Weight;
use crate::config::{GateConfig, RouteConfig};
use crate::control::{ReplicaView, RolloutsView, RouteRolloutView};
use crate::rollout::explain::{ExplanationInput, QueueLoad, RolloutExplanation, explain_rollout};
use crate::rollout::gate::UnreadGateReport;
use crate::rollout::{RolloutPhase, RolloutState};
use crate::snapshot::{Snapshot, SnapshotRoute};

/// A route with all that is known of its rollout.
pub(super) struct RolloutPresenter<'a> {
    route: &'a RouteConfig,
    /// What this replica runs, percent.
    running_percent: f64,
    /// The controller's state of the route; none until it has loaded the route.
    controller_state: Option<(&'a RouteRolloutView, RolloutExplanation)>,
    fleet_view: &'a RolloutsView,
}

impl<'a> RolloutPresenter<'a> {
    pub(super) fn new(
        services: &'a AdminServices,
        snapshot: &'a Snapshot,
        live: &SnapshotRoute,
        fleet_view: &'a RolloutsView,
    ) -> Self {
        let route = snapshot.route_config(live);
        let controller_state = fleet_view
            .routes
            .get(&route.name)
            .map(|known| (known, explain_route(services, route, known, fleet_view)));
        Self { route, running_percent: live.weight.percent(), controller_state, fleet_view }
    }

    /// The explanation as plain text and as a document; none until the controller has loaded the
    /// route.
    pub(super) fn explanation(&self) -> Option<ExplanationDocument> {
        let (_, explanation) = self.controller_state.as_ref()?;
        Some(ExplanationDocument {
            route: self.route.name.clone(),
            waiting_for: explanation.waiting_for.as_str().to_owned(),
            explain: explanation.text.clone(),
            to_do: explanation.next_action.clone(),
            countdown: explanation.continues_in.map(round_to_seconds),
            pauses_in: explanation.pauses_in.map(round_to_seconds),
        })
    }

    /// The rollout as an entry of a list.
    pub(super) fn summary(&self) -> RolloutSummaryDocument {
        let rollout = &self.route.rollout;
        let known = self.controller_state.as_ref().map(|(known, _)| *known);
        let explanation = self.controller_state.as_ref().map(|(_, explanation)| explanation);
        RolloutSummaryDocument {
            route: self.route.name.clone(),
            mode: rollout.mode.as_str().to_owned(),
            phase: known.map(|known| known.state.phase.as_str().to_owned()),
            weight: self.running_percent,
            desired: known.map(|known| known.state.weight.percent()),
            percent: rollout.percent.percent(),
            next: known.and_then(|known| known.next_weight).map(Weight::percent),
            waiting_for: explanation.map(|explanation| explanation.waiting_for.as_str().to_owned()),
            deprecation: self.route.deprecation.mode.as_str().to_owned(),
        }
    }

    /// The whole document.
    pub(super) fn document(&self) -> RolloutDocument {
        RolloutDocument {
            summary: self.summary(),
            plan: PlanDocument::from(&self.route.rollout),
            details: self
                .controller_state
                .as_ref()
                .map(|(known, explanation)| self.details(known, explanation)),
        }
    }

    fn details(
        &self,
        known: &RouteRolloutView,
        explanation: &RolloutExplanation,
    ) -> RolloutDetailsDocument {
        let (state, rollout) = (&known.state, &self.route.rollout);
        RolloutDetailsDocument {
            epoch: state.epoch,
            since: state.phase_since.to_rfc3339(),
            by: state.actor.name().to_owned(),
            reason: state.reason.clone(),
            pause_reason: pause_reason(state).map(str::to_owned),
            frozen: state.blocked_text(),
            blocked_code: state.blocked_reason.as_ref().map(|reason| reason.code().to_owned()),
            held: state.manual_hold,
            saved: known.is_saved,
            store: self.fleet_view.store_reachable,
            soak: SoakDocument {
                done: round_to_seconds(state.soak_elapsed),
                of: rollout.soak_at(state.weight).as_secs(),
            },
            countdown: explanation.continues_in.map(round_to_seconds),
            pauses_in: explanation.pauses_in.map(round_to_seconds),
            explain: explanation.text.clone(),
            to_do: explanation.next_action.clone(),
            passes: state.pass_streak,
            fails: state.fail_streak,
            gates: rollout
                .judging_gates(state.has_latency_gate)
                .map(|gate| describe_gate(gate, state))
                .collect(),
            cohort: CohortDocument {
                from: state.cohort.from_epoch,
                to: state.cohort.to_epoch,
                closed: state.cohort.closed_for.is_some(),
            },
            evidence: known.judged_evidence.as_ref().map(EvidenceDocument::from),
            per_minute: known.requests_per_minute,
            laggards: known.lagging_replicas.clone(),
            leader: self.fleet_view.leader_process.clone(),
            replicas: self.replicas(),
        }
    }

    fn replicas(&self) -> Vec<ReplicaDocument> {
        let view = self.fleet_view;
        let replica = |replica: &ReplicaView| {
            let running = replica.weights_by_route.get(&self.route.name);
            ReplicaDocument {
                process: replica.process_name.clone(),
                weight: running.map(|(weight, _)| weight.percent()),
                epoch: running.map(|(_, epoch)| *epoch),
                config: replica.config_digest.clone(),
                this: replica.process_name == view.own_process,
                leader: view.leader_process.as_ref() == Some(&replica.process_name),
            }
        };
        view.replicas.iter().map(replica).collect()
    }
}

fn explain_route(
    services: &AdminServices,
    route: &RouteConfig,
    known: &RouteRolloutView,
    view: &RolloutsView,
) -> RolloutExplanation {
    let (topic, metrics) = (route.topic.as_str(), &services.metrics);
    let (waiting, _) = metrics.read_queue_gauges(topic);
    explain_rollout(&ExplanationInput {
        route: &route.name,
        topic,
        queue_load: Some(QueueLoad { slots: metrics.read_topic_slots(topic), waiting }),
        config: &route.rollout,
        config_file: services.config_file.as_deref(),
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

/// Rounded to the nearest second, as the explanation's text rounds.
fn round_to_seconds(time: Duration) -> u64 {
    (time + Duration::from_millis(500)).as_secs()
}

fn pause_reason(state: &RolloutState) -> Option<&'static str> {
    match state.phase {
        RolloutPhase::Paused { reason, .. } => Some(reason.as_str()),
        _ => None,
    }
}

/// A gate of the file with its last report, where it was evaluated already. Of a report whose
/// verdict this release does not know, the stored words are shown.
fn describe_gate(gate: &GateConfig, state: &RolloutState) -> GateDocument {
    let report = state.gate_reports.iter().find(|report| report.gate_name == gate.name);
    let unread = state.unread_gate_reports.iter().find(|report| report.gate_name == gate.name);
    let unread_why =
        |report: &UnreadGateReport| format!("{} (of another version)", report.explanation);
    let share = |counts: Option<(u64, u64)>| counts.map(|(x, n)| ShareDocument { x, n });
    GateDocument {
        gate: gate.name.clone(),
        kind: gate.kind.as_str().to_owned(),
        verdict: report
            .map(|report| report.verdict.as_str())
            .or(unread.map(|report| report.verdict.as_str()))
            .map(str::to_owned),
        why: report.map(|report| report.explanation.clone()).or(unread.map(unread_why)),
        needs: report.and_then(|report| report.needed_outcomes),
        async_share: report.and_then(|report| share(report.async_bad_of_total)),
        sync_share: report.and_then(|report| share(report.sync_bad_of_total)),
        value: report.and_then(|report| report.value),
        interval: report.and_then(|report| report.interval).map(|(low, high)| [low, high]),
    }
}
