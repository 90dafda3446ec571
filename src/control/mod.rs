//! The single writer of rollout state, and the only publisher of snapshots.
//!
//! One loop: event → pure decision (`rollout/`) → persist by compare-and-set → publish. Every second each replica meets the
//! others in the store (`round.rs`): it says what it runs and what it counted, learns the state of the routes, and one of
//! them leads. The leader alone acts on evidence and on its file (`lead.rs`), under a term that fences off a leader
//! that was away; an operator's order is followed by whichever replica gets it. With the store unreachable nobody
//! leads and nothing rises; an abort holds here at once and is saved when the store is back.

mod attend;
mod calls;
mod clock;
mod counts;
mod gone;
mod lead;
mod notify;
mod order;
mod prometheus;
mod promql;
mod queues;
mod reload;
mod round;
mod state;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use self::attend::attend_queues;
pub use self::clock::StoreClock;
use self::counts::Own;
pub use self::gone::warn_of_gone;
use self::lead::{Sampled, Watch};
pub use self::prometheus::{metric_names, query};
pub use self::promql::metrics_of;
pub use self::queues::watch_queues;
pub use self::reload::{ReloadStatus, Reloader};
use self::round::Round;
use self::view::Order;
pub use self::view::{ActError, Acted, ReplicaView, Rollouts, RouteView, View};
use crate::config::{Config, Route, deadline};
use crate::metrics::Metrics;
use crate::rollout::{self, Decision, Event, Happened, Plan, State, Verb, copies, running};
use crate::snapshot::{Running, Snapshot, Snapshots};
use crate::store::{Change, Circuit, RolloutRecord, StoreError};
use crate::task::UnixMs;

/// After so long without an answer at start, the store is declared unreachable.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often replicas meet.
const TICK: Duration = Duration::from_secs(1);
/// The same, until the first meeting.
const FIRST: Duration = Duration::from_millis(100);

/// Sends newly read configurations to the controller, each with who is told once requests see it.
pub type Configs = mpsc::Sender<(Arc<Config>, oneshot::Sender<()>)>;

/// What the controller is given and hands out.
pub struct Controls {
    /// Where new configurations go.
    pub configs: Configs,
    /// Whether the stored state is loaded, or the store declared unreachable.
    pub loaded: watch::Receiver<bool>,
    /// Where rollouts are shown and ordered.
    pub rollouts: Rollouts,
}

/// The controller, not yet running.
pub struct Controller {
    process: Arc<str>,
    snapshots: Arc<Snapshots>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    config: Arc<Config>,
    /// Whether this process serves clients: one that only works has nothing to say about weights.
    serves: bool,
    rollouts: BTreeMap<String, Rollout>,
    term: Option<u64>,
    leader: Option<String>,
    replicas: Vec<ReplicaView>,
    store: bool,
    clock: StoreClock,
    published: Option<Published>,
    last_round: Option<Instant>,
    loaded: watch::Sender<bool>,
    views: watch::Sender<Arc<View>>,
    inbox: Inbox,
}

/// What the snapshot says: a configuration, and what runs on its routes in their order.
type Published = (Arc<Config>, Vec<Running>);

/// What wakes the loop.
struct Inbox {
    configs: mpsc::Receiver<(Arc<Config>, oneshot::Sender<()>)>,
    orders: mpsc::Receiver<Order>,
    rounds: mpsc::Receiver<Round>,
    round_done: mpsc::Sender<Round>,
    answers: mpsc::Receiver<Sampled>,
    sampled: mpsc::Sender<Sampled>,
}

/// A route's rollout, here.
struct Rollout {
    state: State,
    /// The stored version that `state` follows from; none while that is not known.
    version: Option<u64>,
    /// Lines of the history that are not saved yet.
    events: Vec<String>,
    unsaved: bool,
    /// The file is still to be followed, as soon as the stored state is known.
    to_plan: bool,
    /// The store has forgotten it.
    lost: bool,
    /// An abort that the store does not know yet.
    abort: Option<Verb>,
    own: Own,
    watch: Watch,
}

// === impl Controller ===

impl Controller {
    /// A controller that publishes into `snapshots`, which hold `config` at weight 0 until the stored state is
    /// loaded. With `serves` it is one of the replicas that share the rollouts.
    #[must_use]
    pub fn new(
        process: Arc<str>,
        serves: bool,
        snapshots: Arc<Snapshots>,
        circuit: Arc<Circuit>,
        metrics: Arc<Metrics>,
    ) -> (Self, Controls) {
        let (send_config, configs) = mpsc::channel(4);
        let (send_order, orders) = mpsc::channel(16);
        let (round_done, rounds) = mpsc::channel(1);
        let (sampled, answers) = mpsc::channel(16);
        let (loaded, is_loaded) = watch::channel(false);
        let first = View { process: process.to_string(), ..View::default() };
        let (views, shown) = watch::channel(Arc::new(first));
        let config = snapshots.load().config.clone();
        let controller = Self {
            process,
            snapshots,
            circuit,
            metrics,
            config,
            serves,
            rollouts: BTreeMap::new(),
            term: None,
            leader: None,
            replicas: Vec::new(),
            store: false,
            clock: StoreClock::default(),
            published: None,
            last_round: None,
            loaded,
            views,
            inbox: Inbox { configs, orders, rounds, round_done, answers, sampled },
        };
        let rollouts = Rollouts { views: shown, orders: send_order };
        (controller, Controls { configs: send_config, loaded: is_loaded, rollouts })
    }

    /// Runs until `shutdown`, then gives up the lead.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.declare();
        self.publish();
        if !self.serves {
            self.loaded.send_replace(true);
        }
        let begun = Instant::now();
        let (mut ticks, mut early) = (interval(TICK), interval(FIRST));
        for ticks in [&mut ticks, &mut early] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut under_way = false;
        loop {
            let is_loaded = *self.loaded.borrow();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some((config, published)) = self.inbox.configs.recv() => self.take_config(config, published).await,
                Some(order) = self.inbox.orders.recv() => self.follow(order).await,
                Some(round) = self.inbox.rounds.recv() => {
                    under_way = false;
                    self.take_round(round).await;
                    self.load_once(begun);
                }
                Some(sampled) = self.inbox.answers.recv() => self.take_samples(sampled).await,
                _ = early.tick(), if !is_loaded => {}
                _ = ticks.tick() => {}
            }
            if self.serves && !under_way && self.is_due() {
                under_way = true;
                self.begin_round();
            }
            self.publish();
            self.show();
        }
        if self.serves {
            let _ = self.circuit.call(self.circuit.store().resign(&self.process)).await;
        }
    }

    /// Whether it is time to meet: every second, and sooner until the first meeting.
    fn is_due(&self) -> bool {
        let pause = if *self.loaded.borrow() { TICK.mul_f64(0.9) } else { FIRST.mul_f64(0.9) };
        self.last_round.is_none_or(|last| last.elapsed() >= pause)
    }

    /// Says once that the stored weights are known, or that the store is unreachable.
    fn load_once(&mut self, begun: Instant) {
        if *self.loaded.borrow() || !(self.store || begun.elapsed() >= PATIENCE) {
            return;
        }
        self.publish();
        if self.store {
            for (route, rollout) in &self.rollouts {
                tracing::info!(route, weight = %rollout.state.weight, phase = rollout.state.phase.as_str(), "weight loaded");
            }
        } else {
            tracing::warn!("starting without the stored rollout state");
        }
        self.loaded.send_replace(true);
    }

    async fn take_config(&mut self, config: Arc<Config>, published: oneshot::Sender<()>) {
        self.config = config;
        self.declare();
        for rollout in self.rollouts.values_mut() {
            rollout.to_plan = true;
        }
        self.publish();
        if self.term.is_some() {
            self.plan().await;
        }
        let _ = published.send(()); // whoever read it may have left
    }

    /// Has a rollout for every route; one that is no longer configured is kept, in case it comes back.
    fn declare(&mut self) {
        let now = self.clock.now();
        for route in &self.config.routes {
            self.rollouts.entry(route.name.clone()).or_insert_with(|| Rollout::fresh(now));
            self.metrics.declare_route(&route.name);
        }
        let routes = self.config.routes.iter();
        let gates =
            routes.flat_map(|route| route.rollout.gates.iter().map(|gate| (route.name.as_str(), gate.name.as_str())));
        self.metrics.declare_gates(gates);
        for topic in self.config.topics.keys() {
            self.metrics.declare_topic(topic.as_str());
        }
    }

    /// The leader's file counts, for every route whose stored state is known.
    async fn plan(&mut self) {
        let config = self.config.clone();
        for route in &config.routes {
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { continue };
            if rollout.version.is_none() {
                continue;
            }
            let lost = std::mem::take(&mut rollout.lost);
            if std::mem::take(&mut rollout.to_plan) {
                self.decide(route, Event::Planned).await;
            }
            if lost {
                self.decide(route, Event::Lost).await;
            }
        }
    }

    /// Decides on a route, and saves what that changed. The file and whatever lowers a weight count at once; what the
    /// evidence raises is published once it is saved, and all is told then.
    async fn decide(&mut self, route: &Route, event: Event<'_>) {
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        let (deadline, before) = (deadline_of(&self.config, route), rollout.state.weight);
        let (by_file, now) = (matches!(event, Event::Planned), self.clock.now());
        let Ok(decision) = rollout::decide(&rollout.state, plan_of(route, deadline), event, now) else { return };
        let Some(happened) = rollout.apply(route, decision) else { return };
        if by_file || rollout.state.weight < before {
            self.publish();
        }
        if self.save(&route.name).await {
            notify::tell(route, &happened);
        }
    }

    /// Saves a route's state under the present term; false where that could not be done. What another writer changed
    /// meanwhile is learnt at the next meeting, and counts.
    async fn save(&mut self, route: &str) -> bool {
        let Some(rollout) = self.rollouts.get_mut(route) else { return false };
        match rollout.save(route, &self.circuit, self.term).await {
            Ok(true) => return true,
            Ok(false) => tracing::info!(route, "somebody else changed the rollout first"),
            Err(error) => tracing::debug!(%error, route, "rollout state is not saved yet"),
        }
        false
    }

    /// Publishes what is new of weights, epochs and configuration.
    fn publish(&mut self) {
        let weight = |route: &Route| {
            let state = self.rollouts.get(&route.name).map(|rollout| &rollout.state);
            let running = |state: &State| {
                let (weight, epoch) = (running(state, route.rollout.percent), state.epoch);
                Running { weight, epoch, copies: copies(state) }
            };
            state.map(running).unwrap_or_default()
        };
        let weights: Vec<Running> = self.config.routes.iter().map(weight).collect();
        for (route, Running { weight, epoch, .. }) in self.config.routes.iter().zip(&weights) {
            self.metrics.set_rollout(&route.name, weight.percent(), route.rollout.percent.percent());
            if let Some(rollout) = self.rollouts.get_mut(&route.name) {
                rollout.own.begin(*epoch, &route.name, &self.metrics);
                for report in rollout
                    .state
                    .reports
                    .iter()
                    .filter(|report| route.rollout.gates.iter().any(|gate| gate.name == report.gate))
                {
                    self.metrics.set_gate(&route.name, &report.gate, report.verdict.number());
                }
            }
        }
        let new = (self.config.clone(), weights);
        let same = |(config, weights): &Published| Arc::ptr_eq(config, &new.0) && *weights == new.1;
        if !self.published.as_ref().is_some_and(same) {
            let generation = self.snapshots.load().generation + 1;
            self.snapshots.publish(Snapshot::new(generation, self.config.clone(), &new.1, &self.metrics));
            self.published = Some(new);
        }
    }

    /// Shows what is new to whoever looks.
    fn show(&mut self) {
        let shown = |route: &Route| {
            let rollout = self.rollouts.get(&route.name)?;
            Some((route.name.clone(), rollout.view(route)))
        };
        let view = View {
            routes: self.config.routes.iter().filter_map(shown).collect(),
            leader: self.leader.clone(),
            process: self.process.to_string(),
            replicas: self.replicas.clone(),
            store: self.store,
            clock: self.clock,
        };
        self.views.send_if_modified(|old| {
            let changed = **old != view;
            if changed {
                *old = Arc::new(view);
            }
            changed
        });
    }
}

// === impl Rollout ===

impl Rollout {
    fn fresh(now: UnixMs) -> Self {
        Self {
            state: State::fresh(now),
            version: None,
            events: Vec::new(),
            unsaved: false,
            to_plan: true,
            lost: false,
            abort: None,
            own: Own::default(),
            watch: Watch::default(),
        }
    }

    /// Takes a decision over, and gives what is to be told of it; none where it changed nothing.
    fn apply(&mut self, route: &Route, decision: Decision) -> Option<Vec<Happened>> {
        let Decision { state, happened } = decision;
        if state == self.state {
            return None;
        }
        for happened in &happened {
            let (from, to, by) = (happened.from, happened.to, &happened.by);
            tracing::info!(route = route.name, event = happened.event, %from, %to, by, reason = happened.reason, "rollout");
            self.events.push(state::write_happened(&route.name, happened).to_string());
        }
        if state.changed != self.state.changed {
            self.watch.forget();
        }
        self.state = state;
        self.unsaved = true;
        Some(happened)
    }

    /// Takes over what is stored; what was decided here and not saved is not any more.
    fn take(&mut self, stored: State, version: u64) {
        if stored.changed != self.state.changed {
            self.watch.forget();
        }
        (self.state, self.version) = (stored, Some(version));
        (self.unsaved, self.lost) = (false, false);
        self.events.clear();
    }

    /// False where another writer was first, or leads now, or what is stored is not known.
    async fn save(&mut self, name: &str, circuit: &Circuit, term: Option<u64>) -> Result<bool, StoreError> {
        let store = circuit.store();
        let Some(version) = self.version else { return Ok(false) };
        let record = RolloutRecord { version: version + 1, state: state::write(&self.state) };
        let change = Change { term, events: self.events.clone() };
        let saved = circuit.call(store.save_rollout(name, &record, &change)).await?;
        self.version = saved.then_some(record.version);
        if saved {
            (self.unsaved, self.abort) = (false, None);
            self.events.clear();
        }
        Ok(saved)
    }

    fn view(&self, route: &Route) -> RouteView {
        RouteView {
            state: self.state.clone(),
            saved: !self.unsaved,
            running: running(&self.state, route.rollout.percent),
            next: route.rollout.next_after(self.state.weight),
            laggards: self.watch.laggards.clone(),
            evidence: self.watch.judged,
            per_minute: self.watch.per_minute(),
        }
    }
}

fn plan_of(route: &Route, deadline: Duration) -> Plan<'_> {
    Plan { route: &route.name, rollout: &route.rollout, deadline }
}

fn deadline_of(config: &Config, route: &Route) -> Duration {
    config.topics.get(&route.topic).map_or(Duration::ZERO, |topic| deadline(topic, route.retry_canaried))
}
