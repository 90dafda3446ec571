//! The single writer of rollout state, and the only publisher of snapshots.
//!
//! One loop: event → pure decision (`rollout/`) → persist by compare-and-set → publish. With the store
//! unreachable the decision holds locally and is persisted when the store is back; lowering never waits.

mod attend;
mod queues;
mod reload;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

pub use self::attend::attend_queues;
pub use self::queues::watch_queues;
pub use self::reload::{ReloadStatus, Reloader};
use crate::cohort::Weight;
use crate::config::{Config, Route};
use crate::metrics::Metrics;
use crate::rollout::{self, Event, Plan, State};
use crate::snapshot::{Snapshot, Snapshots};
use crate::store::{Change, Circuit, RolloutRecord, StoreError};
use crate::task::UnixMs;

/// After so long without an answer at start, the store is declared unreachable.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a first load waits before it asks again.
const AGAIN: Duration = Duration::from_millis(200);
/// How often unsaved state is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// Sends newly read configurations to the controller.
pub type Configs = mpsc::Sender<Arc<Config>>;

/// The controller, not yet running.
pub struct Controller {
    snapshots: Arc<Snapshots>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    config: Arc<Config>,
    configs: mpsc::Receiver<Arc<Config>>,
    rollouts: BTreeMap<String, Rollout>,
    loaded: watch::Sender<bool>,
}

/// A route's state, as decided here and as saved.
struct Rollout {
    state: State,
    /// The stored version that `state` follows from; none while the store has not been asked.
    version: Option<u64>,
    unsaved: bool,
}

// === impl Controller ===

impl Controller {
    /// A controller that publishes into `snapshots`, which hold `config` at weight 0 until the stored state is
    /// loaded. The returned handles feed it, and tell when that is.
    #[must_use]
    pub fn new(
        snapshots: Arc<Snapshots>,
        circuit: Arc<Circuit>,
        metrics: Arc<Metrics>,
    ) -> (Self, Configs, watch::Receiver<bool>) {
        let (sender, configs) = mpsc::channel(4);
        let (loaded, is_loaded) = watch::channel(false);
        let config = snapshots.load().config.clone();
        let rollouts = BTreeMap::new();
        (Self { snapshots, circuit, metrics, config, configs, rollouts, loaded }, sender, is_loaded)
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        if shutdown.run_until_cancelled(self.load()).await.is_none() {
            return;
        }
        self.plan();
        self.publish();
        for (route, rollout) in &self.rollouts {
            tracing::info!(route, weight = %rollout.state.weight, "weight loaded");
        }
        self.loaded.send_replace(true);
        let mut ticks = interval(SAVE_AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(config) = self.configs.recv() => {
                    self.config = config;
                    self.plan();
                    self.publish();
                    self.save().await;
                }
                _ = ticks.tick() => self.save().await,
            }
        }
    }

    /// Asks the store for each route's state, for a while.
    async fn load(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let names: Vec<String> = self.config.routes.iter().map(|route| route.name.clone()).collect();
            match self.load_routes(&names).await {
                Ok(()) => return,
                Err(error) if Instant::now() >= deadline => {
                    return tracing::warn!(%error, "starting without the stored rollout state");
                }
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    async fn load_routes(&mut self, names: &[String]) -> Result<(), StoreError> {
        for name in names {
            let stored = self.circuit.attempt(self.circuit.store().load_rollout(name)).await?;
            let version = Some(stored.as_ref().map_or(0, |record| record.version));
            let state = match stored {
                Some(record) => state::read(&record.state)?,
                None => State::fresh(now()),
            };
            self.rollouts.insert(name.clone(), Rollout { state, version, unsaved: false });
        }
        Ok(())
    }

    /// Decides on every route of the present configuration.
    fn plan(&mut self) {
        let now = now();
        for route in &self.config.routes {
            let new = || Rollout { state: State::fresh(now), version: None, unsaved: false };
            let rollout = self.rollouts.entry(route.name.clone()).or_insert_with(new);
            if let Some(next) = rollout::decide(&rollout.state, Event::Planned(plan_of(route)), now) {
                if *self.loaded.borrow() {
                    tracing::info!(route = route.name, from = %rollout.state.weight, to = %next.weight, "weight changed");
                }
                rollout.state = next;
                rollout.unsaved = true;
            }
        }
    }

    fn publish(&self) {
        let weight = |route: &Route| {
            let rollout = self.rollouts.get(&route.name);
            rollout.map_or(Weight::ZERO, |rollout| rollout::running(&rollout.state, plan_of(route)))
        };
        let weights: Vec<Weight> = self.config.routes.iter().map(weight).collect();
        for (route, weight) in self.config.routes.iter().zip(&weights) {
            self.metrics.declare_route(&route.name);
            self.metrics.set_rollout(&route.name, weight.percent(), route.rollout.percent.percent());
        }
        for topic in self.config.topics.keys() {
            self.metrics.declare_topic(topic.as_str());
        }
        let generation = self.snapshots.load().generation + 1;
        let running: Vec<(Weight, u64)> = weights.into_iter().map(|weight| (weight, 0)).collect();
        self.snapshots.publish(Snapshot::new(generation, self.config.clone(), &running, &self.metrics));
    }

    /// Saves what was decided and is not saved yet; what fails is tried again at the next tick.
    async fn save(&mut self) {
        for (name, rollout) in self.rollouts.iter_mut().filter(|(_, rollout)| rollout.unsaved) {
            if let Err(error) = rollout.save(name, &self.circuit).await {
                return tracing::debug!(%error, route = name, "rollout state is not saved yet");
            }
        }
    }
}

// === impl Rollout ===

impl Rollout {
    /// In manual mode the last edit wins: where another replica saved first, its version is followed and ours is saved on top.
    async fn save(&mut self, name: &str, circuit: &Circuit) -> Result<(), StoreError> {
        let store = circuit.store();
        let version = match self.version {
            Some(version) => version,
            None => circuit.call(store.load_rollout(name)).await?.map_or(0, |record| record.version),
        };
        let record = RolloutRecord { version: version + 1, state: state::write(&self.state) };
        let saved = circuit.call(store.save_rollout(name, &record, &Change::default())).await?;
        self.version = saved.then_some(record.version);
        self.unsaved = !saved;
        Ok(())
    }
}

fn plan_of(route: &Route) -> Plan {
    Plan { percent: route.rollout.percent }
}

fn now() -> UnixMs {
    jiff::Timestamp::now().into()
}
