//! The leader's tick, which only the replica that leads runs: every second it checks convergence
//! and the breaker of each route, and every `interval` it evaluates the gates, once Prometheus has
//! answered their queries.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Controller;
use super::inbox::{EvidenceByRoute, GateSamples};
use crate::config::{GateConfig, GateKind, RouteConfig};
use crate::control::prometheus;
use crate::rollout::gate::PrometheusSample;
use crate::rollout::{RolloutInput, RolloutObservation, Tick};

// === impl Controller ===

impl Controller {
    /// Passes a tick to every route whose stored state and evidence are known. A route whose record
    /// another process has changed is skipped, until the next replica sync loads its state and
    /// evidence.
    pub(super) async fn run_leader_tick(&mut self, mut evidence: EvidenceByRoute) {
        let config = self.config.clone();
        for route in &config.routes {
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { continue };
            if rollout.stored_version.is_none() {
                continue;
            }
            let Some((epochs, known)) = evidence.remove(&route.name) else { continue };
            if epochs != rollout.state.evidence_epochs() {
                continue;
            }
            let now = Instant::now();
            let watch = &mut rollout.leader_watch;
            watch.record_evidence(now, epochs.iter().copied().zip(known));
            let elapsed = watch.start_tick(now);
            let breaker_evidence = watch.sum_recent_evidence(now, route.rollout.breaker.window);
            let lagging_replicas = watch.lagging_replicas.clone();
            let tick = Tick {
                elapsed,
                lagging_replicas: &lagging_replicas,
                breaker_evidence: &breaker_evidence,
            };
            self.decide_route(route, RolloutInput::Tick(tick)).await;
            self.evaluate_if_due(route, now).await;
        }
    }

    /// Starts an evaluation of the gates if one is due. If gates query Prometheus, the queries run
    /// in a task of their own, and [`Self::apply_samples`] evaluates the gates with the samples.
    async fn evaluate_if_due(&mut self, route: &RouteConfig, now: Instant) {
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        let watch = &mut rollout.leader_watch;
        if !watch.is_evaluation_due(now, route.rollout.evaluation_interval) {
            return;
        }
        let gates: Vec<GateConfig> =
            route.rollout.gates.iter().filter(|gate| is_prometheus_gate(gate)).cloned().collect();
        let Some(server) = route.rollout.prometheus.clone().filter(|_| !gates.is_empty()) else {
            return self.evaluate_route(route, &BTreeMap::new()).await;
        };
        watch.is_sampling = true;
        let (name, done) = (route.name.clone(), self.inbox.sampling_done.clone());
        tokio::spawn(async move {
            let samples_by_gate = prometheus::query_gates(&server, &gates).await;
            // an error means that the controller's loop has ended
            let _ = done.send(GateSamples { route: name, samples_by_gate }).await;
        });
    }

    /// Evaluates a route's gates with the samples that its queries returned.
    pub(super) async fn apply_samples(&mut self, sampled: GateSamples) {
        let config = self.config.clone();
        let Some(rollout) = self.rollouts.get_mut(&sampled.route) else { return };
        rollout.leader_watch.is_sampling = false;
        if self.leader_term.is_some()
            && let Some(route) = config.routes.iter().find(|route| route.name == sampled.route)
        {
            self.evaluate_route(route, &sampled.samples_by_gate).await;
        }
    }

    async fn evaluate_route(
        &mut self,
        route: &RouteConfig,
        prometheus_samples: &BTreeMap<String, PrometheusSample>,
    ) {
        let (queue_depth, queue_oldest) = self.metrics.read_queue_gauges(route.topic.as_str());
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        let (state, watch) = (&rollout.state, &mut rollout.leader_watch);
        // the evidence of an epoch that has just begun is loaded by the next replica sync
        let Some(evidence) = watch.evidence_of(&state.evidence_epochs()) else { return };
        let elapsed = watch.start_evaluation(Instant::now());
        watch.record_judged_evidence(state.cohort);
        if let Some(noisy) = watch.find_new_noisy_group() {
            tracing::warn!(route = route.name, group = noisy.group, "failures: {noisy}");
        }
        let lagging_replicas = watch.lagging_replicas.clone();
        let observation = RolloutObservation {
            // while a machine is suspended, its leader observes nothing
            elapsed: elapsed.min(route.rollout.evaluation_interval * 2),
            lagging_replicas: &lagging_replicas,
            epoch_evidence: &evidence,
            prometheus_samples,
            queue_depth: Some(queue_depth),
            queue_oldest: Some(queue_oldest),
        };
        self.decide_route(route, RolloutInput::EvaluationDue(observation)).await;
    }
}

fn is_prometheus_gate(gate: &GateConfig) -> bool {
    matches!(gate.kind, GateKind::PrometheusQuery { .. })
}
