//! What every role of the program has: store, metrics, snapshots and the controller, and the
//! services that run beside requests and tasks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::AppError;
use crate::admin::{self, AdminServices, ProcessHealth, ProcessRole};
use crate::background::{
    CapacityRefresher, reconcile_external_queues, refresh_queues, warn_of_gone_routes,
};
use crate::capacity::CapacityHandle;
use crate::config::{Config, EnvVars};
use crate::control::{ConfigReloader, Controller, ControllerHandles, ReloadStatus};
use crate::metrics::Metrics;
use crate::snapshot::{Snapshot, SnapshotHandle};
use crate::store::{self, Circuit};
use crate::task::UnixMs;
use crate::worker::{HandlerRegistry, WorkerPool};

/// The parts that every role has: the store behind its circuit breaker, metrics, snapshots, and
/// the controller that publishes them.
pub(super) struct AppCore {
    pub(super) config: Arc<Config>,
    pub(super) process_name: Arc<str>,
    pub(super) circuit: Arc<Circuit>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) capacity: Arc<CapacityHandle>,
    pub(super) snapshots: Arc<SnapshotHandle>,
    controller: Controller,
    controls: ControllerHandles,
    reload_status: Arc<ReloadStatus>,
    started_at: UnixMs,
}

/// What a hot reload reads: the configuration file, and the requests to read it again.
pub(super) struct ReloadSource {
    pub(super) path: PathBuf,
    pub(super) env: EnvVars,
    pub(super) content_digest: String,
    pub(super) requests: mpsc::Receiver<()>,
}

// === impl AppCore ===

impl AppCore {
    /// Opens the store, and builds the parts for `threads` data-plane threads.
    pub(super) fn new(config: Config, threads: usize, role: ProcessRole) -> Result<Self, AppError> {
        let metrics = Arc::new(Metrics::new(threads));
        let store = store::open(&config.store)?;
        let circuit = Arc::new(Circuit::new(store, config.store.timeout));
        let config = Arc::new(config);
        let first = Snapshot::new(0, config.clone(), &[], &metrics);
        let snapshots = Arc::new(SnapshotHandle::new(first));
        let process_name = Arc::<str>::from(new_process_name());
        let started_at = UnixMs::from(jiff::Timestamp::now());
        let serves_clients = matches!(role, ProcessRole::Serve);
        let (controller, controls) = Controller::new(
            process_name.clone(),
            serves_clients,
            snapshots.clone(),
            circuit.clone(),
            metrics.clone(),
        );
        let reload_status = Arc::default();
        Ok(Self {
            config,
            process_name,
            circuit,
            metrics,
            capacity: Arc::default(),
            snapshots,
            controller,
            controls,
            reload_status,
            started_at,
        })
    }

    /// A pool of `workers` workers; none takes the number of the configuration.
    pub(super) fn build_pool(
        &self,
        handlers: HandlerRegistry,
        workers: Option<usize>,
    ) -> WorkerPool {
        WorkerPool::new(
            self.process_name.to_string(),
            self.circuit.clone(),
            self.snapshots.clone(),
            self.metrics.clone(),
            handlers,
            self.capacity.clone(),
            workers,
        )
    }

    /// What the admin plane shows and changes.
    pub(super) fn admin_services(
        &self,
        role: ProcessRole,
        config_file: Option<&PathBuf>,
        draining: CancellationToken,
    ) -> AdminServices {
        let weights_loaded = self.controls.state_loaded.clone();
        AdminServices {
            snapshots: self.snapshots.clone(),
            circuit: self.circuit.clone(),
            metrics: self.metrics.clone(),
            health: Arc::new(ProcessHealth { role, weights_loaded, draining }),
            reload_status: self.reload_status.clone(),
            rollouts: self.controls.rollout_handle.clone(),
            config_file: config_file.map(|path| path.display().to_string().into()),
            started_at: self.started_at,
        }
    }

    /// Starts the services of every role; they run until `shutdown`.
    pub(super) fn spawn_services(
        self,
        reload: Option<ReloadSource>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let (store, stop) = (self.circuit.store().clone(), shutdown.clone());
        tasks.spawn(async move { store.run_background(stop).await });
        let (circuit, stop) = (self.circuit.clone(), shutdown.clone());
        let ttl = self.config.results.ttl;
        tasks.spawn(async move { circuit.run(ttl, stop).await });
        tasks.spawn(self.controller.run(shutdown.clone()));
        let shared = || (self.snapshots.clone(), self.circuit.clone(), self.metrics.clone());
        let (snapshots, circuit, metrics) = shared();
        tasks.spawn(reconcile_external_queues(snapshots, circuit, metrics, shutdown.clone()));
        let (snapshots, circuit, metrics) = shared();
        tasks.spawn(refresh_queues(snapshots, circuit, metrics, shutdown.clone()));
        if let Some(source) = reload {
            let reloader = ConfigReloader {
                config_path: source.path,
                env: source.env,
                current_config: self.config,
                current_digest: source.content_digest,
                config_sender: self.controls.config_sender,
                metrics: self.metrics,
                reload_status: self.reload_status,
            };
            tasks.spawn(reloader.run(source.requests, shutdown.clone()));
        }
    }

    /// Starts the refresh of the fleet's capacity, for the role that admits calls.
    pub(super) fn spawn_capacity_refresh(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let refresher = CapacityRefresher::new(
            self.process_name.clone(),
            self.snapshots.clone(),
            self.circuit.clone(),
            self.metrics.clone(),
            self.capacity.clone(),
        );
        tasks.spawn(refresher.run(shutdown.clone()));
    }

    /// Starts the warnings about routes that are `gone`, for the role that serves them.
    pub(super) fn spawn_gone_route_warnings(
        &self,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let (snapshots, circuit) = (self.snapshots.clone(), self.circuit.clone());
        tasks.spawn(warn_of_gone_routes(snapshots, circuit, shutdown.clone()));
    }
}

/// Logs the address that a plane listens on.
pub(super) fn log_listening(plane: &str, address: SocketAddr) {
    tracing::info!(plane, addr = %address, "listening");
}

/// Serves the admin plane until `shutdown`.
pub(super) async fn serve_admin(
    listener: TcpListener,
    services: AdminServices,
    shutdown: CancellationToken,
) {
    if let Err(error) = admin::run(listener, services, shutdown).await {
        tracing::error!(%error, "the admin plane ended");
    }
}

/// `<host>.<pid>.<random>`: a restarted process has another name.
fn new_process_name() -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!("{host}.{}.{:08x}", std::process::id(), rand::random::<u32>())
}
