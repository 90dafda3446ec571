//! The composition root: opens, binds, spawns; and at the end drains in order.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use omnidaemon::{app::App, config};
//! let env = std::env::vars().collect();
//! let loaded = config::from_upstream("http://127.0.0.1:9000", None, None, &env)?;
//! let bound = App::new(loaded).bind().await?;
//! println!("listening on http://{}", bound.data());
//! bound.run(tokio_util::sync::CancellationToken::new()).await?;
//! # Ok(()) }
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, ProcessHealth, ProcessRole};
use crate::config::{self, Config, ConfigProblems, EnvVars, LoadedConfig, StoreUrl};
use crate::control::{
    ConfigReloader, Controller, ControllerHandles, ReloadStatus, reconcile_external_queues,
    refresh_queues, warn_of_gone_routes,
};
use crate::metrics::Metrics;
use crate::proxy::{self, Proxy};
use crate::snapshot::{Snapshot, SnapshotHandle};
use crate::store::{self, Circuit, StoreError};
use crate::task::{Topic, UnixMs};
use crate::worker::{Handler, HandlerRegistry, Supervisor, WorkerPool};

/// How long the services may take to end once they are told.
const SERVICE_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port cannot be bound.
    #[error("cannot listen on {address} ({key}): {error}{hint}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The key that says so.
        key: &'static str,
        /// The system's reason.
        error: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The configuration turns out to be wrong on this machine.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// The admin plane would be open to the network.
    #[error(
        "--admin-listen {address} is not loopback, and there is no token: set admin.token (or OMNIDAEMON_ADMIN_TOKEN), \
         or listen on 127.0.0.1"
    )]
    UnprotectedAdmin {
        /// The address.
        address: SocketAddr,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread cannot be started, or a listener failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A process to be: a configuration, and what a library adds to it.
pub struct App {
    loaded: LoadedConfig,
    config_source: Option<(PathBuf, EnvVars)>,
    handlers: HandlerRegistry,
    reload_requests: mpsc::Receiver<()>,
    reload_sender: mpsc::Sender<()>,
}

/// A process that has its store and its ports, and does nothing yet.
pub struct BoundApp {
    app: App,
    proxy: Proxy,
    admin_listener: TcpListener,
    core: AppCore,
}

/// What every role of the program has: the store behind its breaker, metrics, snapshots, and who
/// feeds them.
struct AppCore {
    config: Arc<Config>,
    process_name: Arc<str>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    snapshots: Arc<SnapshotHandle>,
    controller: Controller,
    controls: ControllerHandles,
    reload_status: Arc<ReloadStatus>,
    started_at: UnixMs,
}

// === impl App ===

impl App {
    /// A process with this configuration.
    #[must_use]
    pub fn new(loaded: LoadedConfig) -> Self {
        let (reload_sender, reload_requests) = mpsc::channel(1);
        Self {
            loaded,
            config_source: None,
            handlers: HandlerRegistry::new(),
            reload_requests,
            reload_sender,
        }
    }

    /// Follows the file that the configuration came from: an edit is applied while running.
    #[must_use]
    pub fn with_config_file(mut self, path: PathBuf, env: EnvVars) -> Self {
        self.config_source = Some((path, env));
        self
    }

    /// Has `handler` run the tasks of `topic`, whatever the configuration says runs them.
    #[must_use]
    pub fn with_handler(mut self, topic: Topic, handler: impl Handler + 'static) -> Self {
        self.handlers = self.handlers.with_handler(topic, handler);
        self
    }

    /// What to send to for a reload, as SIGHUP does.
    #[must_use]
    pub fn reload_sender(&self) -> mpsc::Sender<()> {
        self.reload_sender.clone()
    }

    /// Opens the store and binds both ports.
    ///
    /// # Errors
    /// When either cannot be had; the message says what to do.
    pub async fn bind(self) -> Result<BoundApp, AppError> {
        let config = &self.loaded.config;
        let list = config::find_self_upstreams(config).await;
        if !list.is_empty() {
            let file = self
                .config_source
                .as_ref()
                .map_or_else(|| "arguments".into(), |(path, _)| path.display().to_string());
            return Err(ConfigProblems { file, problems: list }.into());
        }
        let threads = match config.proxy.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let proxy = Proxy::bind(config.proxy.listen, threads)
            .map_err(|error| bind_error("proxy.listen", config.proxy.listen, error))?;
        let admin = TcpListener::bind(config.admin.listen)
            .await
            .map_err(|error| bind_error("admin.listen", config.admin.listen, error))?;
        let core = AppCore::new(config.clone(), threads, ProcessRole::Serve)?;
        Ok(BoundApp { proxy, admin_listener: admin, core, app: self })
    }

    /// Runs one worker and nothing else, until `shutdown`: the tasks of a store that other
    /// processes fill. The admin plane is served on `admin`, where one is given.
    ///
    /// # Errors
    /// When the store cannot be shared, or the port cannot be bound.
    pub async fn run_worker(
        self,
        admin: Option<SocketAddr>,
        shutdown: CancellationToken,
    ) -> Result<(), AppError> {
        require_shared_store(&self.loaded.config)?;
        let core = AppCore::new(self.loaded.config.clone(), 1, ProcessRole::Worker)?;
        let pool = core.build_pool(self.handlers.clone(), Some(1));
        self.run_with_services(core, admin, pool.run(shutdown.clone()), shutdown).await
    }

    /// Supervises worker processes, until `shutdown`; with the admin plane on `admin`, where one is
    /// given.
    ///
    /// # Errors
    /// As [`Self::run_worker`].
    pub async fn run_supervisor(
        self,
        supervisor: Supervisor,
        admin: Option<SocketAddr>,
        shutdown: CancellationToken,
    ) -> Result<(), AppError> {
        require_shared_store(&self.loaded.config)?;
        let core = AppCore::new(self.loaded.config.clone(), 1, ProcessRole::Worker)?;
        let snapshots = core.snapshots.clone();
        let configured = move || snapshots.load().config.workers.count;
        let work = supervisor.run(configured, core.metrics.clone(), shutdown.clone());
        self.run_with_services(core, admin, work, shutdown).await
    }

    /// Runs `work` with what every role has beside it.
    async fn run_with_services(
        self,
        core: AppCore,
        admin: Option<SocketAddr>,
        work: impl Future<Output = ()>,
        shutdown: CancellationToken,
    ) -> Result<(), AppError> {
        let (tasks, services) = (TaskTracker::new(), CancellationToken::new());
        if let Some(address) = admin {
            if !address.ip().to_canonical().is_loopback()
                && self.loaded.config.admin.token.is_none()
            {
                return Err(AppError::UnprotectedAdmin { address });
            }
            let bound = TcpListener::bind(address).await;
            let listener = bound.map_err(|error| bind_error("--admin-listen", address, error))?;
            log_listening("admin", listener.local_addr()?);
            tasks.spawn(serve_admin(
                listener,
                core.admin_parts(ProcessRole::Worker, &self, shutdown),
                services.clone(),
            ));
        }
        core.spawn_services(self, &tasks, &services);
        work.await;
        stop_services(&services, &tasks).await;
        Ok(())
    }
}

/// The embedded store is one process's: workers beside a `serve` need a store that both can reach.
fn require_shared_store(config: &Config) -> Result<(), StoreError> {
    match &config.store.url {
        StoreUrl::Sqlite(path) => Err(StoreError::InvalidSetup(format!(
            "workers of their own need a store that processes share, and sqlite:{} is one process's: set REDIS_URL \
             (or store.url), or let `omnidaemon serve` run the workers (workers.count)",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn bind_error(key: &'static str, address: SocketAddr, error: io::Error) -> AppError {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another process has the port; stop it, or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            ": ports below 1024 need a privilege; choose a higher one"
        }
        io::ErrorKind::AddrNotAvailable => ": this machine does not have the address",
        _ => "",
    };
    AppError::Bind { address, key, error, hint }
}

fn log_listening(plane: &str, address: SocketAddr) {
    tracing::info!(plane, addr = %address, "listening");
}

async fn serve_admin(
    listener: TcpListener,
    parts: admin::AdminServices,
    shutdown: CancellationToken,
) {
    if let Err(error) = admin::run(listener, parts, shutdown).await {
        tracing::error!(%error, "the admin plane ended");
    }
}

// === impl Core ===

impl AppCore {
    fn new(config: Config, threads: usize, role: ProcessRole) -> Result<Self, AppError> {
        let metrics = Arc::new(Metrics::new(threads));
        let store = store::open(&config.store)?;
        let circuit = Arc::new(Circuit::new(store, config.store.timeout));
        let config = Arc::new(config);
        let first = Snapshot::new(0, config.clone(), &[], &metrics);
        let snapshots = Arc::new(SnapshotHandle::new(first));
        let (process, started) =
            (Arc::<str>::from(process_name()), UnixMs::from(jiff::Timestamp::now()));
        let serves = matches!(role, ProcessRole::Serve);
        let (controller, controls) = Controller::new(
            process.clone(),
            serves,
            snapshots.clone(),
            circuit.clone(),
            metrics.clone(),
        );
        let reloads = Arc::default();
        Ok(Self {
            config,
            process_name: process,
            circuit,
            metrics,
            snapshots,
            controller,
            controls,
            reload_status: reloads,
            started_at: started,
        })
    }

    fn build_pool(&self, handlers: HandlerRegistry, workers: Option<usize>) -> WorkerPool {
        let process = self.process_name.to_string();
        WorkerPool::new(
            process,
            self.circuit.clone(),
            self.snapshots.clone(),
            self.metrics.clone(),
            handlers,
            workers,
        )
    }

    fn admin_parts(
        &self,
        role: ProcessRole,
        app: &App,
        draining: CancellationToken,
    ) -> admin::AdminServices {
        admin::AdminServices {
            snapshots: self.snapshots.clone(),
            circuit: self.circuit.clone(),
            metrics: self.metrics.clone(),
            health: Arc::new(ProcessHealth {
                role,
                weights_loaded: self.controls.state_loaded.clone(),
                draining,
            }),
            reload_status: self.reload_status.clone(),
            rollouts: self.controls.rollout_handle.clone(),
            config_file: app
                .config_source
                .as_ref()
                .map(|(path, _)| path.display().to_string().into()),
            started_at: self.started_at,
        }
    }

    /// Starts what runs beside requests and tasks, until `shutdown`.
    fn spawn_services(self, app: App, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let store = self.circuit.store().clone();
        let (circuit, ttl) = (self.circuit.clone(), self.config.results.ttl);
        let stop = shutdown.clone();
        tasks.spawn(async move { store.run_background(stop).await });
        let stop = shutdown.clone();
        tasks.spawn(async move { circuit.run(ttl, stop).await });
        tasks.spawn(self.controller.run(shutdown.clone()));
        let shared = || (self.snapshots.clone(), self.circuit.clone(), self.metrics.clone());
        let (snapshots, circuit, metrics) = shared();
        tasks.spawn(reconcile_external_queues(snapshots, circuit, metrics, shutdown.clone()));
        let (snapshots, circuit, metrics) = shared();
        tasks.spawn(refresh_queues(snapshots, circuit, metrics, shutdown.clone()));
        if let Some((path, env)) = app.config_source {
            let reloader = ConfigReloader {
                config_path: path,
                env,
                current_config: self.config,
                current_digest: app.loaded.content_digest,
                config_sender: self.controls.config_sender,
                metrics: self.metrics,
                reload_status: self.reload_status,
            };
            tasks.spawn(reloader.run(app.reload_requests, shutdown.clone()));
        }
    }
}

/// `<host>.<pid>.<boot>`: a restarted process is another one.
fn process_name() -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!("{host}.{}.{:08x}", std::process::id(), rand::random::<u32>())
}

// === impl Bound ===

impl BoundApp {
    /// Where the data plane listens.
    #[must_use]
    pub fn data_address(&self) -> SocketAddr {
        self.proxy.address()
    }

    /// Where the admin plane listens.
    ///
    /// # Errors
    /// As the system's `getsockname`.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin_listener.local_addr()
    }

    /// The process's metrics.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        self.core.metrics.clone()
    }

    /// Serves until `shutdown`, then drains: not ready → `drain_delay` → no new connections →
    /// requests and tasks finish → the rest is released or cut, within `proxy.drain`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AppError> {
        let Self { app, proxy, admin_listener: admin, core } = self;
        let (config, snapshots, circuit) =
            (core.config.clone(), core.snapshots.clone(), core.circuit.clone());
        let (tasks, services, draining) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        log_listening("data", proxy.address());
        log_listening("admin", admin.local_addr()?);
        let parts = proxy::ProxyServices {
            snapshots: core.snapshots.clone(),
            circuit: core.circuit.clone(),
            metrics: core.metrics.clone(),
            process_name: core.process_name.clone(),
        };
        let stop = proxy::ProxyShutdown::default();
        let threads = proxy.start(&parts, &stop)?;
        tasks.spawn(serve_admin(
            admin,
            core.admin_parts(ProcessRole::Serve, &app, draining.clone()),
            services.clone(),
        ));
        let stop_workers = CancellationToken::new();
        let workers =
            tokio::spawn(core.build_pool(app.handlers.clone(), None).run(stop_workers.clone()));
        core.spawn_services(app, &tasks, &services);
        tasks.spawn(warn_hidden_paths(config, services.clone()));
        tasks.spawn(warn_of_gone_routes(snapshots.clone(), circuit, services.clone()));

        shutdown.cancelled().await;
        tracing::info!("draining");
        draining.cancel();
        let now = snapshots.load().config.clone();
        sleep(now.proxy.drain_delay).await;
        drain_process(&now, &stop, threads, &stop_workers, workers).await;
        stop_services(&services, &tasks).await;
        tracing::info!("drained");
        Ok(())
    }
}

/// Ends what runs beside requests and tasks; a connection to the admin plane that does not end is
/// left.
async fn stop_services(services: &CancellationToken, tasks: &TaskTracker) {
    services.cancel();
    tasks.close();
    if timeout(SERVICE_SHUTDOWN_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::debug!("an admin connection was still open");
    }
}

/// Requests first, while workers still serve those that wait for a task; then the workers; what
/// still runs at the deadline is cut.
async fn drain_process(
    config: &Config,
    stop: &proxy::ProxyShutdown,
    threads: Vec<JoinHandle<()>>,
    stop_workers: &CancellationToken,
    workers: tokio::task::JoinHandle<()>,
) {
    let deadline = Instant::now() + config.proxy.drain_timeout;
    let for_workers = config.workers.drain_timeout.min(config.proxy.drain_timeout.mul_f64(0.75));
    stop.drain.cancel();
    let mut served = tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread panicked");
            }
        }
    });
    let finished = timeout_at(deadline - for_workers, &mut served).await.is_ok();
    stop_workers.cancel();
    if timeout_at(deadline, workers).await.is_err() {
        tracing::warn!("workers did not end in time: their leases run out by themselves");
    }
    if !finished && timeout_at(deadline, &mut served).await.is_err() {
        tracing::warn!("requests that did not end in time are cut off");
        stop.abort.cancel();
        let _ = timeout_at(deadline + Duration::from_secs(1), served).await;
    }
}

/// Warns where an own path hides one that the upstream serves.
async fn warn_hidden_paths(config: Arc<Config>, shutdown: CancellationToken) {
    let mut own = vec![config.proxy.task_path.clone()];
    own.extend(
        config
            .routes
            .iter()
            .filter(|route| !route.path.source_text.contains('{'))
            .map(|route| format!("{}/async", route.path.source_text)),
    );
    if config.proxy.expose_metrics {
        own.push("/metrics".into());
    }
    for path in own {
        let asked = crate::worker::probe_upstream(&config.upstream, &path);
        let Some(Some(status)) = shutdown.run_until_cancelled(asked).await else { continue };
        if status != http::StatusCode::NOT_FOUND && !status.is_server_error() {
            tracing::warn!(path, %status, "the upstream serves this path too, and clients no longer reach it there");
        }
    }
}
