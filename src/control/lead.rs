//! What the leader does: every second it sees to convergence and the breaker, every `interval` it looks at the gates.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::{Controller, prometheus};
use crate::config::{Gate, GateKind, Route};
use crate::rollout::evidence::Evidence;
use crate::rollout::gate::Sample;
use crate::rollout::{Beat, Event, Observation};

/// How far back rates are looked at, and the longest window of a breaker.
const LATELY: Duration = Duration::from_mins(5);

/// What the leader knows of a route beside its state; a new leader begins with nothing.
#[derive(Default)]
pub(super) struct Watch {
    pub(super) laggards: Vec<String>,
    /// What the gates looked at last.
    pub(super) judged: Option<Evidence>,
    last_beat: Option<Instant>,
    last_look: Option<Instant>,
    /// The last evidence, by epoch.
    known: BTreeMap<u64, Evidence>,
    /// What came of late, and when.
    lately: VecDeque<(Instant, Evidence)>,
    sampling: bool,
}

/// Answers of Prometheus for a route's gates.
pub(super) struct Sampled {
    route: String,
    samples: BTreeMap<String, Sample>,
}

// === impl Controller ===

impl Controller {
    pub(super) async fn lead(&mut self, mut evidence: BTreeMap<String, (Vec<u64>, Vec<Evidence>)>) {
        let config = self.config.clone();
        for route in &config.routes {
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { continue };
            if rollout.version.is_none() {
                continue; // somebody else changed it: the next second knows how
            }
            // asked for before somebody else changed the state: the next second has it
            let Some((epochs, known)) = evidence.remove(&route.name) else { continue };
            if epochs != rollout.state.epochs() {
                continue;
            }
            let now = Instant::now();
            rollout.watch.learn(now, epochs.iter().copied().zip(known));
            let elapsed = rollout.watch.last_beat.replace(now).map_or(Duration::ZERO, |last| now - last);
            let window = rollout.watch.window(now, route.rollout.breaker.window);
            let laggards = rollout.watch.laggards.clone();
            self.decide(route, Event::Beat(Beat { elapsed, laggards: &laggards, window: &window })).await;
            self.look_if_due(route, now).await;
        }
    }

    async fn look_if_due(&mut self, route: &Route, now: Instant) {
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        let watch = &mut rollout.watch;
        let last = *watch.last_look.get_or_insert(now);
        if watch.sampling || now - last < route.rollout.interval {
            return;
        }
        let asked: Vec<Gate> = route.rollout.gates.iter().filter(|gate| is_prometheus(gate)).cloned().collect();
        let Some(server) = route.rollout.prometheus.clone().filter(|_| !asked.is_empty()) else {
            return self.look(route, &BTreeMap::new()).await;
        };
        watch.sampling = true;
        let (name, done) = (route.name.clone(), self.inbox.sampled.clone());
        tokio::spawn(async move {
            let samples = prometheus::ask_all(&server, &asked).await;
            let _ = done.send(Sampled { route: name, samples }).await; // the loop has ended
        });
    }

    pub(super) async fn take_samples(&mut self, sampled: Sampled) {
        let config = self.config.clone();
        let Some(rollout) = self.rollouts.get_mut(&sampled.route) else { return };
        rollout.watch.sampling = false;
        if self.term.is_some()
            && let Some(route) = config.routes.iter().find(|route| route.name == sampled.route)
        {
            self.look(route, &sampled.samples).await;
        }
    }

    async fn look(&mut self, route: &Route, samples: &BTreeMap<String, Sample>) {
        let (queue_depth, queue_oldest) = self.metrics.queue(route.topic.as_str());
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        let (state, watch) = (&rollout.state, &mut rollout.watch);
        let known: Option<Vec<Evidence>> = state.epochs().iter().map(|epoch| watch.known.get(epoch).copied()).collect();
        // an epoch that has only just begun: at the next round
        let Some(evidence) = known else { return };
        let now = Instant::now();
        let elapsed = watch.last_look.replace(now).map_or(Duration::ZERO, |last| now - last);
        let cohort = state.cohort;
        let judged = watch.known.range(cohort.from..=cohort.to.max(cohort.from));
        watch.judged = Some(judged.map(|(_, evidence)| evidence).sum());
        let laggards = watch.laggards.clone();
        let observation = Observation {
            // a machine that slept has not watched
            elapsed: elapsed.min(route.rollout.interval * 2),
            laggards: &laggards,
            evidence: &evidence,
            samples,
            queue_depth: Some(queue_depth),
            queue_oldest: Some(queue_oldest),
        };
        self.decide(route, Event::Look(observation)).await;
    }
}

// === impl Watch ===

impl Watch {
    /// The lead begins here: what was known of it before is too old.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// Another weight: what came before says nothing about it.
    pub(super) fn forget(&mut self) {
        self.lately.clear();
        self.judged = None;
    }

    fn learn(&mut self, now: Instant, evidence: impl Iterator<Item = (u64, Evidence)>) {
        let (mut news, mut known) = (Evidence::default(), BTreeMap::new());
        let is_first = self.known.is_empty();
        for (epoch, evidence) in evidence {
            let before = self.known.get(&epoch).copied().unwrap_or_default();
            news.add(&evidence.since(&before));
            known.insert(epoch, evidence);
        }
        self.known = known;
        if !is_first {
            self.lately.push_back((now, news));
        }
        while self.lately.front().is_some_and(|(at, _)| now - *at > LATELY) {
            self.lately.pop_front();
        }
    }

    /// What came in the last `window`.
    fn window(&self, now: Instant, window: Duration) -> Evidence {
        let recent = self.lately.iter().rev().take_while(|(at, _)| now - *at <= window);
        recent.map(|(_, news)| news).sum()
    }

    /// Canaried requests a minute, lately; none while that is not known.
    pub(super) fn per_minute(&self) -> Option<f64> {
        let (first, last) = (self.lately.front()?.0, self.lately.back()?.0);
        let canaried: u64 = self.lately.iter().map(|(_, news)| news.canaried()).sum();
        let span = (last - first).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // requests of five minutes
        let rate = canaried as f64 * 60.0 / span;
        (span >= 5.0).then_some(rate)
    }
}

fn is_prometheus(gate: &Gate) -> bool {
    matches!(gate.kind, GateKind::Prometheus { .. })
}
