//! What the leader does: every second it sees to convergence and the breaker, every `interval` it
//! looks at the gates.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::{Controller, prometheus};
use crate::config::{GateConfig, GateKind, RouteConfig};
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::PrometheusSample;
use crate::rollout::{RolloutInput, RolloutObservation, Tick};

/// How far back rates are looked at, and the longest window of a breaker.
const RECENT_WINDOW: Duration = Duration::from_mins(5);

/// What the leader knows of a route beside its state; a new leader begins with nothing.
#[derive(Default)]
pub(super) struct LeaderWatch {
    pub(super) lagging_replicas: Vec<String>,
    /// What the gates looked at last.
    pub(super) judged_evidence: Option<RolloutEvidence>,
    last_tick_at: Option<Instant>,
    last_evaluation_at: Option<Instant>,
    /// The last evidence, by epoch.
    evidence_by_epoch: BTreeMap<u64, RolloutEvidence>,
    /// What came of late, and when.
    recent_evidence: VecDeque<(Instant, RolloutEvidence)>,
    is_sampling: bool,
}

/// Answers of Prometheus for a route's gates.
pub(super) struct GateSamples {
    route: String,
    samples_by_gate: BTreeMap<String, PrometheusSample>,
}

// === impl Controller ===

impl Controller {
    pub(super) async fn run_leader_tick(
        &mut self,
        mut evidence: BTreeMap<String, (Vec<u64>, Vec<RolloutEvidence>)>,
    ) {
        let config = self.config.clone();
        for route in &config.routes {
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { continue };
            if rollout.stored_version.is_none() {
                continue; // somebody else changed it: the next second knows how
            }
            // asked for before somebody else changed the state: the next second has it
            let Some((epochs, known)) = evidence.remove(&route.name) else { continue };
            if epochs != rollout.state.evidence_epochs() {
                continue;
            }
            let now = Instant::now();
            rollout.leader_watch.record_evidence(now, epochs.iter().copied().zip(known));
            let elapsed = rollout
                .leader_watch
                .last_tick_at
                .replace(now)
                .map_or(Duration::ZERO, |last| now - last);
            let window =
                rollout.leader_watch.sum_recent_evidence(now, route.rollout.breaker.window);
            let laggards = rollout.leader_watch.lagging_replicas.clone();
            self.decide_route(
                route,
                RolloutInput::Tick(Tick {
                    elapsed,
                    lagging_replicas: &laggards,
                    breaker_evidence: &window,
                }),
            )
            .await;
            self.evaluate_if_due(route, now).await;
        }
    }

    async fn evaluate_if_due(&mut self, route: &RouteConfig, now: Instant) {
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        let watch = &mut rollout.leader_watch;
        let last = *watch.last_evaluation_at.get_or_insert(now);
        if watch.is_sampling || now - last < route.rollout.evaluation_interval {
            return;
        }
        let asked: Vec<GateConfig> =
            route.rollout.gates.iter().filter(|gate| is_prometheus_gate(gate)).cloned().collect();
        let Some(server) = route.rollout.prometheus.clone().filter(|_| !asked.is_empty()) else {
            return self.evaluate_route(route, &BTreeMap::new()).await;
        };
        watch.is_sampling = true;
        let (name, done) = (route.name.clone(), self.inbox.sampling_done.clone());
        tokio::spawn(async move {
            let samples = prometheus::query_gates(&server, &asked).await;
            let _ = done.send(GateSamples { route: name, samples_by_gate: samples }).await; // the loop has ended
        });
    }

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
        samples: &BTreeMap<String, PrometheusSample>,
    ) {
        let (queue_depth, queue_oldest) = self.metrics.read_queue_gauges(route.topic.as_str());
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        let (state, watch) = (&rollout.state, &mut rollout.leader_watch);
        let known: Option<Vec<RolloutEvidence>> = state
            .evidence_epochs()
            .iter()
            .map(|epoch| watch.evidence_by_epoch.get(epoch).copied())
            .collect();
        // an epoch that has only just begun: at the next round
        let Some(evidence) = known else { return };
        let now = Instant::now();
        let elapsed =
            watch.last_evaluation_at.replace(now).map_or(Duration::ZERO, |last| now - last);
        let cohort = state.cohort;
        let judged = watch
            .evidence_by_epoch
            .range(cohort.from_epoch..=cohort.to_epoch.max(cohort.from_epoch));
        watch.judged_evidence = Some(judged.map(|(_, evidence)| evidence).sum());
        let laggards = watch.lagging_replicas.clone();
        let observation = RolloutObservation {
            // a machine that slept has not watched
            elapsed: elapsed.min(route.rollout.evaluation_interval * 2),
            lagging_replicas: &laggards,
            epoch_evidence: &evidence,
            prometheus_samples: samples,
            queue_depth: Some(queue_depth),
            queue_oldest: Some(queue_oldest),
        };
        self.decide_route(route, RolloutInput::EvaluationDue(observation)).await;
    }
}

// === impl Watch ===

impl LeaderWatch {
    /// The lead begins here: what was known of it before is too old.
    pub(super) fn reset_watch(&mut self) {
        *self = Self::default();
    }

    /// Another weight: what came before says nothing about it.
    pub(super) fn clear_recent_evidence(&mut self) {
        self.recent_evidence.clear();
        self.judged_evidence = None;
    }

    fn record_evidence(
        &mut self,
        now: Instant,
        evidence: impl Iterator<Item = (u64, RolloutEvidence)>,
    ) {
        let (mut news, mut known) = (RolloutEvidence::default(), BTreeMap::new());
        let is_first = self.evidence_by_epoch.is_empty();
        for (epoch, evidence) in evidence {
            let before = self.evidence_by_epoch.get(&epoch).copied().unwrap_or_default();
            news.add(&evidence.delta_since(&before));
            known.insert(epoch, evidence);
        }
        self.evidence_by_epoch = known;
        if !is_first {
            self.recent_evidence.push_back((now, news));
        }
        while self.recent_evidence.front().is_some_and(|(at, _)| now - *at > RECENT_WINDOW) {
            self.recent_evidence.pop_front();
        }
    }

    /// What came in the last `window`.
    fn sum_recent_evidence(&self, now: Instant, window: Duration) -> RolloutEvidence {
        let recent = self.recent_evidence.iter().rev().take_while(|(at, _)| now - *at <= window);
        recent.map(|(_, news)| news).sum()
    }

    /// Canaried requests a minute, lately; none while that is not known.
    pub(super) fn requests_per_minute(&self) -> Option<f64> {
        let (first, last) = (self.recent_evidence.front()?.0, self.recent_evidence.back()?.0);
        let canaried: u64 =
            self.recent_evidence.iter().map(|(_, news)| news.canaried_requests()).sum();
        let span = (last - first).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // requests of five minutes
        let rate = canaried as f64 * 60.0 / span;
        (span >= 5.0).then_some(rate)
    }
}

fn is_prometheus_gate(gate: &GateConfig) -> bool {
    matches!(gate.kind, GateKind::PrometheusQuery { .. })
}
