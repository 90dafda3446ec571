//! The composition root: opens the store, binds the ports, starts every part of a process, and at
//! the end drains them in order.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use omnidaemon::{app::App, config};
//! let env = std::env::vars().collect();
//! let loaded = config::load_for_upstream("http://127.0.0.1:9000", None, None, &env)?;
//! let bound = App::new(loaded).bind().await?;
//! println!("listening on http://{}", bound.data_address());
//! bound.run(tokio_util::sync::CancellationToken::new()).await?;
//! # Ok(()) }
//! ```

mod drain;
mod error;
mod services;
mod startup_checks;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::drain::{drain_process, stop_services};
pub use self::error::AppError;
use self::services::{AppCore, ReloadSource, log_listening, serve_admin};
use self::startup_checks::{
    bind_error, refuse_self_upstreams, require_protected_admin, require_shared_store,
    warn_hidden_paths,
};
use crate::admin::ProcessRole;
use crate::config::{EnvVars, LoadedConfig};
use crate::metrics::Metrics;
use crate::proxy::{Proxy, ProxyServices, ProxyShutdown};
use crate::task::Topic;
use crate::worker::{GuardCommand, Handler, HandlerRegistry, Supervisor, WorkerDrain};

/// A process before its start: its configuration, and the handlers that a program which uses this
/// library has added.
pub struct App {
    loaded: LoadedConfig,
    config_source: Option<(PathBuf, EnvVars)>,
    handlers: HandlerRegistry,
    reload_requests: mpsc::Receiver<()>,
    reload_sender: mpsc::Sender<()>,
}

/// A process with its store open and its ports bound, before [`BoundApp::run`] serves requests.
pub struct BoundApp {
    app: App,
    proxy: Proxy,
    admin_listener: TcpListener,
    core: AppCore,
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

    /// Watches the file that the configuration was read from: an edit is applied while running.
    #[must_use]
    pub fn with_config_file(mut self, path: PathBuf, env: EnvVars) -> Self {
        self.config_source = Some((path, env));
        self
    }

    /// Runs the tasks of `topic` with `handler`, whatever handler the configuration names.
    #[must_use]
    pub fn with_handler(mut self, topic: Topic, handler: impl Handler + 'static) -> Self {
        self.handlers = self.handlers.with_handler(topic, handler);
        self
    }

    /// Starts the programs of `command` handlers under a guard, so that they end with this process.
    #[must_use]
    pub fn with_program_guard(mut self, guard: GuardCommand) -> Self {
        self.handlers = self.handlers.with_program_guard(guard);
        self
    }

    /// The channel on which a message requests a reload, as SIGHUP does.
    #[must_use]
    pub fn reload_sender(&self) -> mpsc::Sender<()> {
        self.reload_sender.clone()
    }

    /// Opens the store and binds both ports.
    ///
    /// # Errors
    /// When one of these fails; the message contains what to do about it.
    pub async fn bind(self) -> Result<BoundApp, AppError> {
        let config = &self.loaded.config;
        refuse_self_upstreams(config, self.config_source.as_ref()).await?;
        let threads = match config.proxy.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let proxy = Proxy::bind(config.proxy.listen, threads)
            .map_err(|error| bind_error("proxy.listen", config.proxy.listen, error))?;
        let admin_listener = TcpListener::bind(config.admin.listen)
            .await
            .map_err(|error| bind_error("admin.listen", config.admin.listen, error))?;
        let core = AppCore::new(config.clone(), threads, ProcessRole::Serve)?;
        Ok(BoundApp { proxy, admin_listener, core, app: self })
    }

    /// Runs one worker without a proxy until `shutdown`, for the tasks that other processes
    /// enqueue. The admin plane is served on `admin`, if an address is given.
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
        let work = pool.run(shutdown.clone(), WorkerDrain::of_worker_process);
        self.run_with_services(core, admin, work, shutdown).await
    }

    /// Supervises worker processes until `shutdown`. The admin plane is served on `admin`, if an
    /// address is given.
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
        let worker_count = move || snapshots.load().config.workers.count;
        let work = supervisor.run(worker_count, core.metrics.clone(), shutdown.clone());
        self.run_with_services(core, admin, work, shutdown).await
    }

    /// Runs `work` to its end, and meanwhile the services that a process of any role has.
    async fn run_with_services(
        self,
        core: AppCore,
        admin: Option<SocketAddr>,
        work: impl Future<Output = ()>,
        shutdown: CancellationToken,
    ) -> Result<(), AppError> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        if let Some(address) = admin {
            require_protected_admin(&self.loaded.config, address)?;
            let bound = TcpListener::bind(address).await;
            let listener = bound.map_err(|error| bind_error("--admin-listen", address, error))?;
            log_listening("admin", listener.local_addr()?);
            let services = core.admin_services(ProcessRole::Worker, self.config_path(), shutdown);
            tasks.spawn(serve_admin(listener, services, stop.clone()));
        }
        core.spawn_services(self.into_reload_source(), &tasks, &stop);
        work.await;
        stop_services(&stop, &tasks).await;
        Ok(())
    }

    fn config_path(&self) -> Option<&PathBuf> {
        self.config_source.as_ref().map(|(path, _)| path)
    }

    fn into_reload_source(self) -> Option<ReloadSource> {
        let (content_digest, requests) = (self.loaded.content_digest, self.reload_requests);
        self.config_source.map(|(path, env)| ReloadSource { path, env, content_digest, requests })
    }
}

// === impl BoundApp ===

impl BoundApp {
    /// The address of the data plane.
    #[must_use]
    pub fn data_address(&self) -> SocketAddr {
        self.proxy.address()
    }

    /// The address of the admin plane.
    ///
    /// # Errors
    /// The error of the system call `getsockname`.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin_listener.local_addr()
    }

    /// The process's metrics.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        self.core.metrics.clone()
    }

    /// Serves until `shutdown`, then drains: not ready → `drain_delay` → no new connections →
    /// requests and tasks finish → what is left is released, answered with 202 or cut off, within
    /// `proxy.drain`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AppError> {
        let Self { app, proxy, admin_listener, core } = self;
        let (config, snapshots) = (core.config.clone(), core.snapshots.clone());
        let metrics = core.metrics.clone();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (draining, stop_workers) = (CancellationToken::new(), CancellationToken::new());
        log_listening("data", proxy.address());
        log_listening("admin", admin_listener.local_addr()?);
        let proxy_services = ProxyServices {
            snapshots: core.snapshots.clone(),
            circuit: core.circuit.clone(),
            capacity: core.capacity.clone(),
            metrics: core.metrics.clone(),
            process_name: core.process_name.clone(),
        };
        // Built before the proxy starts: the first request must see the slots of the pool.
        let pool = core.build_pool(app.handlers.clone(), None);
        let proxy_shutdown = ProxyShutdown::default();
        let threads = proxy.start(&proxy_services, &proxy_shutdown)?;
        let admin_services =
            core.admin_services(ProcessRole::Serve, app.config_path(), draining.clone());
        tasks.spawn(serve_admin(admin_listener, admin_services, stop.clone()));
        let workers = tokio::spawn(pool.run(stop_workers.clone(), WorkerDrain::within_proxy_drain));
        core.spawn_gone_route_warnings(&tasks, &stop);
        core.spawn_capacity_refresh(&tasks, &stop);
        core.spawn_services(app.into_reload_source(), &tasks, &stop);
        tasks.spawn(warn_hidden_paths(config, stop.clone()));

        shutdown.cancelled().await;
        tracing::info!("draining");
        draining.cancel();
        let config = snapshots.load().config.clone();
        sleep(config.proxy.drain_delay).await;
        drain_process(&config, &metrics, &proxy_shutdown, threads, &stop_workers, workers).await;
        stop_services(&stop, &tasks).await;
        tracing::info!("drained");
        Ok(())
    }
}
