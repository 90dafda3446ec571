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

use crate::admin::{self, Health, Role};
use crate::config::{self, Config, Env, Loaded, Problems, StoreUrl};
use crate::control::{Controller, Controls, ReloadStatus, Reloader, attend_queues, watch_queues};
use crate::metrics::Metrics;
use crate::proxy::{self, Proxy};
use crate::snapshot::{Snapshot, Snapshots};
use crate::store::{self, Circuit, StoreError};
use crate::task::{Topic, UnixMs};
use crate::worker::{Handler, Handlers, Pool, Supervisor};

/// How long the services may take to end once they are told.
const SERVICES_END: Duration = Duration::from_millis(500);

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
    Config(#[from] Problems),
    /// The admin plane would be open to the network.
    #[error(
        "--admin-listen {address} is not loopback, and there is no token: set admin.token (or OMNIDAEMON_ADMIN_TOKEN), \
         or listen on 127.0.0.1"
    )]
    Open {
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
    loaded: Loaded,
    source: Option<(PathBuf, Env)>,
    handlers: Handlers,
    hangups: mpsc::Receiver<()>,
    hang_up: mpsc::Sender<()>,
}

/// A process that has its store and its ports, and does nothing yet.
pub struct Bound {
    app: App,
    proxy: Proxy,
    admin: TcpListener,
    core: Core,
}

/// What every role of the program has: the store behind its breaker, metrics, snapshots, and who feeds them.
struct Core {
    config: Arc<Config>,
    process: Arc<str>,
    circuit: Arc<Circuit>,
    metrics: Arc<Metrics>,
    snapshots: Arc<Snapshots>,
    controller: Controller,
    controls: Controls,
    reloads: Arc<ReloadStatus>,
    started: UnixMs,
}

// === impl App ===

impl App {
    /// A process with this configuration.
    #[must_use]
    pub fn new(loaded: Loaded) -> Self {
        let (hang_up, hangups) = mpsc::channel(1);
        Self { loaded, source: None, handlers: Handlers::new(), hangups, hang_up }
    }

    /// Follows the file that the configuration came from: an edit is applied while running.
    #[must_use]
    pub fn watching(mut self, path: PathBuf, env: Env) -> Self {
        self.source = Some((path, env));
        self
    }

    /// Has `handler` run the tasks of `topic`, whatever the configuration says runs them.
    #[must_use]
    pub fn handler(mut self, topic: Topic, handler: impl Handler + 'static) -> Self {
        self.handlers = self.handlers.with(topic, handler);
        self
    }

    /// What to send to for a reload, as SIGHUP does.
    #[must_use]
    pub fn hang_up(&self) -> mpsc::Sender<()> {
        self.hang_up.clone()
    }

    /// Opens the store and binds both ports.
    ///
    /// # Errors
    /// When either cannot be had; the message says what to do.
    pub async fn bind(self) -> Result<Bound, AppError> {
        let config = &self.loaded.config;
        let list = config::own_upstreams(config).await;
        if !list.is_empty() {
            let file = self.source.as_ref().map_or_else(|| "arguments".into(), |(path, _)| path.display().to_string());
            return Err(Problems { file, list }.into());
        }
        let threads = match config.proxy.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let proxy = Proxy::bind(config.proxy.listen, threads)
            .map_err(|error| in_use("proxy.listen", config.proxy.listen, error))?;
        let admin = TcpListener::bind(config.admin.listen)
            .await
            .map_err(|error| in_use("admin.listen", config.admin.listen, error))?;
        let core = Core::new(config.clone(), threads, Role::Serve)?;
        Ok(Bound { proxy, admin, core, app: self })
    }

    /// Runs one worker and nothing else, until `shutdown`: the tasks of a store that other processes fill. The
    /// admin plane is served on `admin`, where one is given.
    ///
    /// # Errors
    /// When the store cannot be shared, or the port cannot be bound.
    pub async fn run_worker(self, admin: Option<SocketAddr>, shutdown: CancellationToken) -> Result<(), AppError> {
        refuse_embedded(&self.loaded.config)?;
        let core = Core::new(self.loaded.config.clone(), 1, Role::Worker)?;
        let pool = core.pool(self.handlers.clone(), Some(1));
        self.beside(core, admin, pool.run(shutdown.clone()), shutdown).await
    }

    /// Supervises worker processes, until `shutdown`; with the admin plane on `admin`, where one is given.
    ///
    /// # Errors
    /// As [`Self::run_worker`].
    pub async fn run_supervisor(
        self,
        supervisor: Supervisor,
        admin: Option<SocketAddr>,
        shutdown: CancellationToken,
    ) -> Result<(), AppError> {
        refuse_embedded(&self.loaded.config)?;
        let core = Core::new(self.loaded.config.clone(), 1, Role::Worker)?;
        let snapshots = core.snapshots.clone();
        let configured = move || snapshots.load().config.workers.count;
        let work = supervisor.run(configured, core.metrics.clone(), shutdown.clone());
        self.beside(core, admin, work, shutdown).await
    }

    /// Runs `work` with what every role has beside it.
    async fn beside(
        self,
        core: Core,
        admin: Option<SocketAddr>,
        work: impl Future<Output = ()>,
        shutdown: CancellationToken,
    ) -> Result<(), AppError> {
        let (tasks, services) = (TaskTracker::new(), CancellationToken::new());
        if let Some(address) = admin {
            if !address.ip().to_canonical().is_loopback() && self.loaded.config.admin.token.is_none() {
                return Err(AppError::Open { address });
            }
            let bound = TcpListener::bind(address).await;
            let listener = bound.map_err(|error| in_use("--admin-listen", address, error))?;
            say_listening("admin", listener.local_addr()?);
            tasks.spawn(serve_admin(listener, core.admin(Role::Worker, shutdown), services.clone()));
        }
        core.spawn(self, &tasks, &services);
        work.await;
        end(&services, &tasks).await;
        Ok(())
    }
}

/// The embedded store is one process's: workers beside a `serve` need a store that both can reach.
fn refuse_embedded(config: &Config) -> Result<(), StoreError> {
    match &config.store.url {
        StoreUrl::Sqlite(path) => Err(StoreError::Setup(format!(
            "workers of their own need a store that processes share, and sqlite:{} is one process's: set REDIS_URL \
             (or store.url), or let `omnidaemon serve` run the workers (workers.count)",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn in_use(key: &'static str, address: SocketAddr, error: io::Error) -> AppError {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => ": another process has the port; stop it, or choose another port",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need a privilege; choose a higher one",
        io::ErrorKind::AddrNotAvailable => ": this machine does not have the address",
        _ => "",
    };
    AppError::Bind { address, key, error, hint }
}

fn say_listening(plane: &str, address: SocketAddr) {
    tracing::info!(plane, addr = %address, "listening");
}

async fn serve_admin(listener: TcpListener, parts: admin::Parts, shutdown: CancellationToken) {
    if let Err(error) = admin::run(listener, parts, shutdown).await {
        tracing::error!(%error, "the admin plane ended");
    }
}

// === impl Core ===

impl Core {
    fn new(config: Config, threads: usize, role: Role) -> Result<Self, AppError> {
        let metrics = Arc::new(Metrics::new(threads));
        let store = store::open(&config.store)?;
        let circuit = Arc::new(Circuit::new(store, config.store.timeout));
        let config = Arc::new(config);
        let first = Snapshot::new(0, config.clone(), &[], &metrics);
        let snapshots = Arc::new(Snapshots::new(first));
        let (process, started) = (Arc::<str>::from(process_name()), UnixMs::from(jiff::Timestamp::now()));
        let serves = matches!(role, Role::Serve);
        let (controller, controls) =
            Controller::new(process.clone(), serves, snapshots.clone(), circuit.clone(), metrics.clone());
        let reloads = Arc::default();
        Ok(Self { config, process, circuit, metrics, snapshots, controller, controls, reloads, started })
    }

    fn pool(&self, handlers: Handlers, workers: Option<usize>) -> Pool {
        let process = self.process.to_string();
        Pool::new(process, self.circuit.clone(), self.snapshots.clone(), self.metrics.clone(), handlers, workers)
    }

    fn admin(&self, role: Role, draining: CancellationToken) -> admin::Parts {
        admin::Parts {
            snapshots: self.snapshots.clone(),
            circuit: self.circuit.clone(),
            metrics: self.metrics.clone(),
            health: Arc::new(Health { role, loaded: self.controls.loaded.clone(), draining }),
            reloads: self.reloads.clone(),
            rollouts: self.controls.rollouts.clone(),
            started: self.started,
        }
    }

    /// Starts what runs beside requests and tasks, until `shutdown`.
    fn spawn(self, app: App, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let store = self.circuit.store().clone();
        let (circuit, ttl) = (self.circuit.clone(), self.config.results.ttl);
        let stop = shutdown.clone();
        tasks.spawn(async move { store.run(stop).await });
        let stop = shutdown.clone();
        tasks.spawn(async move { circuit.run(ttl, stop).await });
        tasks.spawn(self.controller.run(shutdown.clone()));
        let shared = || (self.snapshots.clone(), self.circuit.clone(), self.metrics.clone());
        let (snapshots, circuit, metrics) = shared();
        tasks.spawn(attend_queues(snapshots, circuit, metrics, shutdown.clone()));
        let (snapshots, circuit, metrics) = shared();
        tasks.spawn(watch_queues(snapshots, circuit, metrics, shutdown.clone()));
        if let Some((path, env)) = app.source {
            let reloader = Reloader {
                path,
                env,
                current: self.config,
                digest: app.loaded.digest,
                configs: self.controls.configs,
                metrics: self.metrics,
                status: self.reloads,
            };
            tasks.spawn(reloader.run(app.hangups, shutdown.clone()));
        }
    }
}

/// `<host>.<pid>.<boot>`: a restarted process is another one.
fn process_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!("{host}.{}.{:08x}", std::process::id(), rand::random::<u32>())
}

// === impl Bound ===

impl Bound {
    /// Where the data plane listens.
    #[must_use]
    pub fn data(&self) -> SocketAddr {
        self.proxy.address()
    }

    /// Where the admin plane listens.
    ///
    /// # Errors
    /// As the system's `getsockname`.
    pub fn admin(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// The process's metrics.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        self.core.metrics.clone()
    }

    /// Serves until `shutdown`, then drains: not ready → `drain_delay` → no new connections → requests and tasks
    /// finish → the rest is released or cut, within `proxy.drain`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AppError> {
        let Self { app, proxy, admin, core } = self;
        let (config, snapshots) = (core.config.clone(), core.snapshots.clone());
        let (tasks, services, draining) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        say_listening("data", proxy.address());
        say_listening("admin", admin.local_addr()?);
        let parts = proxy::Parts {
            snapshots: core.snapshots.clone(),
            circuit: core.circuit.clone(),
            metrics: core.metrics.clone(),
            process: core.process.clone(),
        };
        let stop = proxy::Stop::default();
        let threads = proxy.start(&parts, &stop)?;
        tasks.spawn(serve_admin(admin, core.admin(Role::Serve, draining.clone()), services.clone()));
        let stop_workers = CancellationToken::new();
        let workers = tokio::spawn(core.pool(app.handlers.clone(), None).run(stop_workers.clone()));
        core.spawn(app, &tasks, &services);
        tasks.spawn(warn_hidden_paths(config, services.clone()));

        shutdown.cancelled().await;
        tracing::info!("draining");
        draining.cancel();
        let now = snapshots.load().config.clone();
        sleep(now.proxy.drain_delay).await;
        drain(&now, &stop, threads, &stop_workers, workers).await;
        end(&services, &tasks).await;
        tracing::info!("drained");
        Ok(())
    }
}

/// Ends what runs beside requests and tasks; a connection to the admin plane that does not end is left.
async fn end(services: &CancellationToken, tasks: &TaskTracker) {
    services.cancel();
    tasks.close();
    if timeout(SERVICES_END, tasks.wait()).await.is_err() {
        tracing::debug!("an admin connection was still open");
    }
}

/// Requests first, while workers still serve those that wait for a task; then the workers; what still runs at the
/// deadline is cut.
async fn drain(
    config: &Config,
    stop: &proxy::Stop,
    threads: Vec<JoinHandle<()>>,
    stop_workers: &CancellationToken,
    workers: tokio::task::JoinHandle<()>,
) {
    let deadline = Instant::now() + config.proxy.drain;
    let for_workers = config.workers.drain.min(config.proxy.drain.mul_f64(0.75));
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
            .filter(|route| !route.path.text.contains('{'))
            .map(|route| format!("{}/async", route.path.text)),
    );
    if config.proxy.expose_metrics {
        own.push("/metrics".into());
    }
    for path in own {
        let asked = crate::worker::probe(&config.upstream, &path);
        let Some(Some(status)) = shutdown.run_until_cancelled(asked).await else { continue };
        if status != http::StatusCode::NOT_FOUND && !status.is_server_error() {
            tracing::warn!(path, %status, "the upstream serves this path too, and clients no longer reach it there");
        }
    }
}
