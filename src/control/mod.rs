//! The single writer of rollout state, and the only publisher of snapshots.
//!
//! One loop: event → pure decision (`rollout/`) → persist by compare-and-set → publish. Every
//! second each replica meets the others in the store (`round.rs`): it says what it runs and what it
//! counted, learns the state of the routes, and one of them leads. The leader alone acts on
//! evidence and on its file (`lead.rs`), under a term that fences off a leader that was away; an
//! operator's order is followed by whichever replica gets it. With the store unreachable nobody
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
mod stored;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use self::attend::reconcile_external_queues;
pub use self::clock::StoreClock;
use self::counts::ProcessCounts;
pub use self::gone::warn_of_gone_routes;
use self::lead::{GateSamples, LeaderWatch};
pub use self::prometheus::{fetch_metric_names, query_prometheus};
pub use self::promql::extract_metric_names;
pub use self::queues::refresh_queues;
pub use self::reload::{ConfigReloader, ReloadStatus};
use self::round::SyncOutcome;
use self::view::PendingCommand;
pub use self::view::{
    ReplicaView, RolloutCommandError, RolloutCommandOutcome, RolloutHandle, RolloutsView,
    RouteRolloutView,
};
use crate::config::{Config, RouteConfig, max_task_duration};
use crate::metrics::Metrics;
use crate::rollout::{
    self, OperatorCommand, RolloutDecision, RolloutEvent, RolloutInput, RolloutPlan, RolloutState,
    is_shadow_allowed, running_weight,
};
use crate::snapshot::{RouteRunState, Snapshot, SnapshotHandle};
use crate::store::{Circuit, RolloutCommit, RolloutRecord, StoreError};
use crate::task::UnixMs;

/// After so long without an answer at start, the store is declared unreachable.
const STARTUP_STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often replicas meet.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// The same, until the first meeting.
const STARTUP_SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// Sends newly read configurations to the controller, each with who is told once requests see it.
pub type ConfigSender = mpsc::Sender<(Arc<Config>, oneshot::Sender<()>)>;

/// What the controller is given and hands out.
pub struct ControllerHandles {
    /// Where new configurations go.
    pub config_sender: ConfigSender,
    /// Whether the stored state is loaded, or the store declared unreachable.
    pub state_loaded: watch::Receiver<bool>,
    /// Where rollouts are shown and ordered.
    pub rollout_handle: RolloutHandle,
}

/// The controller, not yet running.
pub struct Controller {
    process_name: Arc<str>,
    snapshots: Arc<SnapshotHandle>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    config: Arc<Config>,
    /// Whether this process serves clients: one that only works has nothing to say about weights.
    serves_clients: bool,
    rollouts: BTreeMap<String, RouteRollout>,
    leader_term: Option<u64>,
    leader_process: Option<String>,
    replicas: Vec<ReplicaView>,
    store_reachable: bool,
    store_clock: StoreClock,
    last_published: Option<PublishedWeights>,
    last_sync_at: Option<Instant>,
    state_loaded: watch::Sender<bool>,
    view_sender: watch::Sender<Arc<RolloutsView>>,
    inbox: ControllerInbox,
}

/// What the snapshot says: a configuration, and what runs on its routes in their order.
type PublishedWeights = (Arc<Config>, Vec<RouteRunState>);

/// What wakes the loop.
struct ControllerInbox {
    config_updates: mpsc::Receiver<(Arc<Config>, oneshot::Sender<()>)>,
    commands: mpsc::Receiver<PendingCommand>,
    sync_outcomes: mpsc::Receiver<SyncOutcome>,
    sync_done: mpsc::Sender<SyncOutcome>,
    sample_results: mpsc::Receiver<GateSamples>,
    sampling_done: mpsc::Sender<GateSamples>,
}

/// A route's rollout, here.
struct RouteRollout {
    state: RolloutState,
    /// The stored version that `state` follows from; none while that is not known.
    stored_version: Option<u64>,
    /// Lines of the history that are not saved yet.
    unsaved_events: Vec<String>,
    is_unsaved: bool,
    /// The file is still to be followed, as soon as the stored state is known.
    config_pending: bool,
    /// The store has forgotten it.
    lost_by_store: bool,
    /// An abort that the store does not know yet.
    pending_abort: Option<OperatorCommand>,
    process_counts: ProcessCounts,
    leader_watch: LeaderWatch,
}

// === impl Controller ===

impl Controller {
    /// A controller that publishes into `snapshots`, which hold `config` at weight 0 until the
    /// stored state is loaded. With `serves` it is one of the replicas that share the rollouts.
    #[must_use]
    pub fn new(
        process: Arc<str>,
        serves: bool,
        snapshots: Arc<SnapshotHandle>,
        circuit: Arc<Circuit>,
        metrics: Arc<Metrics>,
    ) -> (Self, ControllerHandles) {
        let (send_config, configs) = mpsc::channel(4);
        let (send_order, orders) = mpsc::channel(16);
        let (round_done, rounds) = mpsc::channel(1);
        let (sampled, answers) = mpsc::channel(16);
        let (loaded, is_loaded) = watch::channel(false);
        let first = RolloutsView { own_process: process.to_string(), ..RolloutsView::default() };
        let (views, shown) = watch::channel(Arc::new(first));
        let config = snapshots.load().config.clone();
        let controller = Self {
            process_name: process,
            snapshots,
            circuit,
            metrics,
            config,
            serves_clients: serves,
            rollouts: BTreeMap::new(),
            leader_term: None,
            leader_process: None,
            replicas: Vec::new(),
            store_reachable: false,
            store_clock: StoreClock::default(),
            last_published: None,
            last_sync_at: None,
            state_loaded: loaded,
            view_sender: views,
            inbox: ControllerInbox {
                config_updates: configs,
                commands: orders,
                sync_outcomes: rounds,
                sync_done: round_done,
                sample_results: answers,
                sampling_done: sampled,
            },
        };
        let rollouts = RolloutHandle { view_receiver: shown, command_sender: send_order };
        (
            controller,
            ControllerHandles {
                config_sender: send_config,
                state_loaded: is_loaded,
                rollout_handle: rollouts,
            },
        )
    }

    /// Runs until `shutdown`, then gives up the lead.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.register_routes();
        self.publish();
        if !self.serves_clients {
            self.state_loaded.send_replace(true);
        }
        let begun = Instant::now();
        let (mut ticks, mut early) = (interval(SYNC_INTERVAL), interval(STARTUP_SYNC_INTERVAL));
        for ticks in [&mut ticks, &mut early] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut under_way = false;
        loop {
            let is_loaded = *self.state_loaded.borrow();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some((config, published)) = self.inbox.config_updates.recv() => self.receive_config(config, published).await,
                Some(order) = self.inbox.commands.recv() => self.handle_command(order).await,
                Some(round) = self.inbox.sync_outcomes.recv() => {
                    under_way = false;
                    self.apply_replica_sync(round).await;
                    self.announce_loaded(begun);
                }
                Some(sampled) = self.inbox.sample_results.recv() => self.apply_samples(sampled).await,
                _ = early.tick(), if !is_loaded => {}
                _ = ticks.tick() => {}
            }
            if self.serves_clients && !under_way && self.is_sync_due() {
                under_way = true;
                self.start_replica_sync();
            }
            self.publish();
            self.publish_view();
        }
        if self.serves_clients {
            let _ =
                self.circuit.call(self.circuit.store().remove_replica(&self.process_name)).await;
        }
    }

    /// Whether it is time to meet: every second, and sooner until the first meeting.
    fn is_sync_due(&self) -> bool {
        let pause = if *self.state_loaded.borrow() {
            SYNC_INTERVAL.mul_f64(0.9)
        } else {
            STARTUP_SYNC_INTERVAL.mul_f64(0.9)
        };
        self.last_sync_at.is_none_or(|last| last.elapsed() >= pause)
    }

    /// Says once that the stored weights are known, or that the store is unreachable.
    fn announce_loaded(&mut self, begun: Instant) {
        if *self.state_loaded.borrow()
            || !(self.store_reachable || begun.elapsed() >= STARTUP_STORE_TIMEOUT)
        {
            return;
        }
        self.publish();
        if self.store_reachable {
            for (route, rollout) in &self.rollouts {
                tracing::info!(route, weight = %rollout.state.weight, phase = rollout.state.phase.as_str(), "weight loaded");
            }
        } else {
            tracing::warn!("starting without the stored rollout state");
        }
        self.state_loaded.send_replace(true);
    }

    async fn receive_config(&mut self, config: Arc<Config>, published: oneshot::Sender<()>) {
        self.config = config;
        self.register_routes();
        for rollout in self.rollouts.values_mut() {
            rollout.config_pending = true;
        }
        self.publish();
        if self.leader_term.is_some() {
            self.apply_config_to_routes().await;
        }
        let _ = published.send(()); // whoever read it may have left
    }

    /// Has a rollout for every route; one that is no longer configured is kept, in case it comes
    /// back.
    fn register_routes(&mut self) {
        let now = self.store_clock.now();
        for route in &self.config.routes {
            self.rollouts.entry(route.name.clone()).or_insert_with(|| RouteRollout::new(now));
            self.metrics.declare_route(&route.name);
        }
        let routes = self.config.routes.iter();
        let gates = routes.flat_map(|route| {
            route.rollout.gates.iter().map(|gate| (route.name.as_str(), gate.name.as_str()))
        });
        self.metrics.declare_gates(gates);
        for topic in self.config.topics.keys() {
            self.metrics.declare_topic(topic.as_str());
        }
    }

    /// The leader's file counts, for every route whose stored state is known.
    async fn apply_config_to_routes(&mut self) {
        let config = self.config.clone();
        for route in &config.routes {
            let Some(rollout) = self.rollouts.get_mut(&route.name) else { continue };
            if rollout.stored_version.is_none() {
                continue;
            }
            let lost = std::mem::take(&mut rollout.lost_by_store);
            if std::mem::take(&mut rollout.config_pending) {
                self.decide_route(route, RolloutInput::ConfigLoaded).await;
            }
            if lost {
                self.decide_route(route, RolloutInput::StoreLost).await;
            }
        }
    }

    /// Decides on a route, and saves what that changed. The file and whatever lowers a weight count
    /// at once; what the evidence raises is published once it is saved, and all is told then.
    async fn decide_route(&mut self, route: &RouteConfig, event: RolloutInput<'_>) {
        let Some(rollout) = self.rollouts.get_mut(&route.name) else { return };
        let (deadline, before) = (task_deadline_for(&self.config, route), rollout.state.weight);
        let (by_file, now) = (matches!(event, RolloutInput::ConfigLoaded), self.store_clock.now());
        let Ok(decision) = rollout::decide(&rollout.state, build_plan(route, deadline), event, now)
        else {
            return;
        };
        let Some(happened) = rollout.apply_decision(route, decision) else { return };
        if by_file || rollout.state.weight < before {
            self.publish();
        }
        if self.save_route(&route.name).await {
            notify::notify_webhooks(route, &happened);
        }
    }

    /// Saves a route's state under the present term; false where that could not be done. What
    /// another writer changed meanwhile is learnt at the next meeting, and counts.
    async fn save_route(&mut self, route: &str) -> bool {
        let Some(rollout) = self.rollouts.get_mut(route) else { return false };
        match rollout.save_state(route, &self.circuit, self.leader_term).await {
            Ok(true) => return true,
            Ok(false) => tracing::info!(route, "somebody else changed the rollout first"),
            Err(error) => tracing::debug!(%error, route, "rollout state is not saved yet"),
        }
        false
    }

    /// Publishes what is new of weights, epochs and configuration.
    fn publish(&mut self) {
        let weight = |route: &RouteConfig| {
            let state = self.rollouts.get(&route.name).map(|rollout| &rollout.state);
            let running = |state: &RolloutState| {
                let (weight, epoch) = (running_weight(state, route.rollout.percent), state.epoch);
                RouteRunState { weight, epoch, copies_requests: is_shadow_allowed(state) }
            };
            state.map(running).unwrap_or_default()
        };
        let weights: Vec<RouteRunState> = self.config.routes.iter().map(weight).collect();
        for (route, RouteRunState { weight, epoch, .. }) in self.config.routes.iter().zip(&weights)
        {
            self.metrics.set_rollout_gauges(
                &route.name,
                weight.percent(),
                route.rollout.percent.percent(),
            );
            if let Some(rollout) = self.rollouts.get_mut(&route.name) {
                rollout.process_counts.start_epoch(*epoch, &route.name, &self.metrics);
                for report in rollout.state.gate_reports.iter().filter(|report| {
                    route.rollout.gates.iter().any(|gate| gate.name == report.gate_name)
                }) {
                    self.metrics.set_gate_verdict(
                        &route.name,
                        &report.gate_name,
                        report.verdict.as_metric(),
                    );
                }
            }
        }
        let new = (self.config.clone(), weights);
        let same =
            |(config, weights): &PublishedWeights| Arc::ptr_eq(config, &new.0) && *weights == new.1;
        if !self.last_published.as_ref().is_some_and(same) {
            let generation = self.snapshots.load().generation + 1;
            self.snapshots.publish(Snapshot::new(
                generation,
                self.config.clone(),
                &new.1,
                &self.metrics,
            ));
            self.last_published = Some(new);
        }
    }

    /// Shows what is new to whoever looks.
    fn publish_view(&mut self) {
        let shown = |route: &RouteConfig| {
            let rollout = self.rollouts.get(&route.name)?;
            Some((route.name.clone(), rollout.build_view(route)))
        };
        let view = RolloutsView {
            routes: self.config.routes.iter().filter_map(shown).collect(),
            leader_process: self.leader_process.clone(),
            own_process: self.process_name.to_string(),
            replicas: self.replicas.clone(),
            store_reachable: self.store_reachable,
            store_clock: self.store_clock,
        };
        self.view_sender.send_if_modified(|old| {
            let changed = **old != view;
            if changed {
                *old = Arc::new(view);
            }
            changed
        });
    }
}

// === impl Rollout ===

impl RouteRollout {
    fn new(now: UnixMs) -> Self {
        Self {
            state: RolloutState::new(now),
            stored_version: None,
            unsaved_events: Vec::new(),
            is_unsaved: false,
            config_pending: true,
            lost_by_store: false,
            pending_abort: None,
            process_counts: ProcessCounts::default(),
            leader_watch: LeaderWatch::default(),
        }
    }

    /// Takes a decision over, and gives what is to be told of it; none where it changed nothing.
    fn apply_decision(
        &mut self,
        route: &RouteConfig,
        decision: RolloutDecision,
    ) -> Option<Vec<RolloutEvent>> {
        let RolloutDecision { state, events: happened } = decision;
        if state == self.state {
            return None;
        }
        for happened in &happened {
            let (from, to, by) = (happened.from_weight, happened.to_weight, happened.actor.name());
            tracing::info!(route = route.name, event = happened.kind.as_str(), %from, %to, by, reason = happened.reason, "rollout");
            self.unsaved_events.push(stored::event_to_json(&route.name, happened).to_string());
        }
        if state.weight_changed_at != self.state.weight_changed_at {
            self.leader_watch.clear_recent_evidence();
        }
        self.state = state;
        self.is_unsaved = true;
        Some(happened)
    }

    /// Takes over what is stored; what was decided here and not saved is not any more.
    fn adopt_stored_state(&mut self, stored: RolloutState, version: u64) {
        if stored.weight_changed_at != self.state.weight_changed_at {
            self.leader_watch.clear_recent_evidence();
        }
        (self.state, self.stored_version) = (stored, Some(version));
        (self.is_unsaved, self.lost_by_store) = (false, false);
        self.unsaved_events.clear();
    }

    /// False where another writer was first, or leads now, or what is stored is not known.
    async fn save_state(
        &mut self,
        name: &str,
        circuit: &Circuit,
        term: Option<u64>,
    ) -> Result<bool, StoreError> {
        let store = circuit.store();
        let Some(version) = self.stored_version else { return Ok(false) };
        let record = RolloutRecord {
            version: version + 1,
            state_json: stored::serialize_state(&self.state),
        };
        let change =
            RolloutCommit { required_term: term, history_events: self.unsaved_events.clone() };
        let saved = circuit.call(store.save_rollout(name, &record, &change)).await?;
        self.stored_version = saved.then_some(record.version);
        if saved {
            (self.is_unsaved, self.pending_abort) = (false, None);
            self.unsaved_events.clear();
        }
        Ok(saved)
    }

    fn build_view(&self, route: &RouteConfig) -> RouteRolloutView {
        RouteRolloutView {
            state: self.state.clone(),
            is_saved: !self.is_unsaved,
            running_weight: running_weight(&self.state, route.rollout.percent),
            next_weight: route.rollout.next_weight_after(self.state.weight),
            lagging_replicas: self.leader_watch.lagging_replicas.clone(),
            judged_evidence: self.leader_watch.judged_evidence,
            requests_per_minute: self.leader_watch.requests_per_minute(),
        }
    }
}

fn build_plan(route: &RouteConfig, deadline: Duration) -> RolloutPlan<'_> {
    RolloutPlan { route: &route.name, config: &route.rollout, task_deadline: deadline }
}

fn task_deadline_for(config: &Config, route: &RouteConfig) -> Duration {
    config
        .topics
        .get(&route.topic)
        .map_or(Duration::ZERO, |topic| max_task_duration(topic, route.retry_canaried))
}
