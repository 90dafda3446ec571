//! The controller's fields and how it is built; each file below adds one part of its behaviour.
//!
//! `run_loop.rs` waits for what `inbox.rs` delivers and calls `replica_sync.rs`, `leader_tick.rs`
//! and `commands.rs`; these decide through `decide.rs` and show the result through `publish.rs`.

mod commands;
mod decide;
mod inbox;
mod leader_tick;
mod publish;
mod replica_sync;
mod run_loop;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::inbox::ControllerInbox;
use super::handle::RolloutHandle;
use super::reload::ConfigSender;
use super::route_rollout::RouteRollout;
use super::store_clock::StoreClock;
use super::views::{ReplicaView, RolloutsView};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::snapshot::{RouteRunState, SnapshotHandle};
use crate::store::Circuit;

/// The channels that connect a controller with the rest of the process.
pub struct ControllerHandles {
    /// Takes new configurations.
    pub config_sender: ConfigSender,
    /// True once the stored state is loaded, or the store is declared unreachable.
    pub state_loaded: watch::Receiver<bool>,
    /// Shows rollouts and takes commands to them.
    pub rollout_handle: RolloutHandle,
}

/// The controller, before [`Controller::run`] starts it.
pub struct Controller {
    process_name: Arc<str>,
    snapshots: Arc<SnapshotHandle>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    config: Arc<Config>,
    /// Whether this process serves clients. A process that only runs workers does not take part in
    /// replica syncs: it runs no weight.
    serves_clients: bool,
    rollouts: BTreeMap<String, RouteRollout>,
    /// The term under which this process leads; none while it does not lead.
    leader_term: Option<u64>,
    leader_process: Option<String>,
    replicas: Vec<ReplicaView>,
    /// Replicas that send no plan fields; each was logged once.
    replicas_without_plan_fields: BTreeSet<String>,
    store_reachable: bool,
    store_clock: StoreClock,
    last_published: Option<PublishedWeights>,
    last_sync_at: Option<Instant>,
    state_loaded: watch::Sender<bool>,
    view_sender: watch::Sender<Arc<RolloutsView>>,
    inbox: ControllerInbox,
}

/// The content of the last snapshot: a configuration, and what runs on its routes in their order.
type PublishedWeights = (Arc<Config>, Vec<RouteRunState>);

// === impl Controller ===

impl Controller {
    /// A controller that publishes into `snapshots`, which hold `config` at weight 0 until the
    /// stored state is loaded. With `serves_clients` it is one of the replicas that share the
    /// rollouts.
    #[must_use]
    pub fn new(
        process_name: Arc<str>,
        serves_clients: bool,
        snapshots: Arc<SnapshotHandle>,
        circuit: Arc<Circuit>,
        metrics: Arc<Metrics>,
    ) -> (Self, ControllerHandles) {
        let (config_sender, config_updates) = mpsc::channel(4);
        let (command_sender, commands) = mpsc::channel(16);
        let (loaded_sender, state_loaded) = watch::channel(false);
        let first_view =
            RolloutsView { own_process: process_name.to_string(), ..RolloutsView::default() };
        let (view_sender, view_receiver) = watch::channel(Arc::new(first_view));
        let config = snapshots.load().config.clone();
        let controller = Self {
            process_name,
            snapshots,
            circuit,
            metrics,
            config,
            serves_clients,
            rollouts: BTreeMap::new(),
            leader_term: None,
            leader_process: None,
            replicas: Vec::new(),
            replicas_without_plan_fields: BTreeSet::new(),
            store_reachable: false,
            store_clock: StoreClock::default(),
            last_published: None,
            last_sync_at: None,
            state_loaded: loaded_sender,
            view_sender,
            inbox: ControllerInbox::new(config_updates, commands),
        };
        let rollout_handle = RolloutHandle { view_receiver, command_sender };
        (controller, ControllerHandles { config_sender, state_loaded, rollout_handle })
    }
}
