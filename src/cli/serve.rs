//! `serve`, `worker` and `runner`: the long-running commands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, CliExit};
use super::global::GlobalArgs;
use crate::app::App;
use crate::config::{self, EnvVars, LoadedConfig};
use crate::worker::{Supervisor, terminate_with_parent};

/// How much longer than its own drain a worker process may take before it is killed.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// How long after a Ctrl-C another one is meant as a second one.
const SECOND_INTERRUPT_AFTER: Duration = Duration::from_secs(1);

/// Run the proxy, with its workers.
#[derive(Args)]
pub(super) struct ServeArgs {
    /// Do without a file: the legacy server to stand in front of, such as <http://127.0.0.1:9000>
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// With --upstream: the path that is moved
    #[arg(long, value_name = "PATH", requires = "upstream")]
    path: Option<String>,
    /// With --upstream: the share of requests that goes async, 0 to 100
    #[arg(long, value_name = "N", requires = "upstream")]
    percent: Option<String>,
}

/// Run worker processes beside a `serve`, on a Redis that both reach.
#[derive(Args)]
pub(super) struct WorkerArgs {
    /// How many processes; by default `workers.count` of the file, also when that changes
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Serve the supervisor's health and metrics here
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

/// Run one worker process; `worker` starts these.
#[derive(Args)]
pub(super) struct RunnerArgs {
    /// Its name in process lists and logs
    #[arg(long)]
    name: String,
    /// Serve health and metrics here
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

pub(super) async fn run_serve(args: ServeArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let env = read_environment();
    let app = match &args.upstream {
        Some(url) => App::new(log_warnings(
            config::load_for_upstream(url, args.path.as_deref(), args.percent.as_deref(), &env)?,
            url,
        )),
        None => App::new(load_config(global, &env)?).with_config_file(global.config.clone(), env),
    };
    let hang_up = app.reload_sender();
    let bound = app.bind().await?;
    let shutdown = shutdown_on_signals(Some(hang_up))?;
    bound.run(shutdown).await?;
    Ok(CliExit::Ok)
}

pub(super) async fn run_worker(args: WorkerArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let env = read_environment();
    let loaded = load_config(global, &env)?;
    let supervisor = Supervisor {
        fixed_count: args.count,
        program: std::env::current_exe()?,
        args: vec!["--config".into(), global.config.display().to_string()],
        drain: loaded.config.workers.drain_timeout + KILL_GRACE,
    };
    let app = App::new(loaded).with_config_file(global.config.clone(), env);
    let shutdown = shutdown_on_signals(Some(app.reload_sender()))?;
    app.run_supervisor(supervisor, args.admin_listen, shutdown).await?;
    Ok(CliExit::Ok)
}

pub(super) async fn run_runner(args: RunnerArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    terminate_with_parent()?;
    let env = read_environment();
    let app = App::new(load_config(global, &env)?).with_config_file(global.config.clone(), env);
    let shutdown = shutdown_on_signals(Some(app.reload_sender()))?;
    tracing::info!(name = args.name, "runner starts");
    app.run_worker(args.admin_listen, shutdown).await?;
    Ok(CliExit::Ok)
}

/// The environment as a map.
pub(super) fn read_environment() -> EnvVars {
    std::env::vars().collect()
}

fn load_config(global: &GlobalArgs, env: &EnvVars) -> Result<LoadedConfig, CliError> {
    let path: &PathBuf = &global.config;
    Ok(log_warnings(config::load_file(path, env)?, &path.display().to_string()))
}

fn log_warnings(loaded: LoadedConfig, file: &str) -> LoadedConfig {
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.render_line(file));
    }
    loaded
}

/// A token that SIGTERM and SIGINT cancel. A further SIGTERM changes nothing: one shutdown sends a
/// worker process several (the service manager, the supervisor, the kernel when the supervisor has
/// ended). A person who repeats Ctrl-C after [`SECOND_INTERRUPT_AFTER`] ends the process at once.
/// SIGHUP goes to `hang_up`; without one it is a SIGTERM, as a terminal that closes means it.
pub(super) fn shutdown_on_signals(
    hang_up: Option<mpsc::Sender<()>>,
) -> Result<CancellationToken, CliError> {
    let (mut term, mut int, mut hup) = (
        listen_for_signal(SignalKind::terminate())?,
        listen_for_signal(SignalKind::interrupt())?,
        listen_for_signal(SignalKind::hangup())?,
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let mut interrupted: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {
                    let since_first = interrupted.get_or_insert_with(Instant::now).elapsed();
                    if since_first >= SECOND_INTERRUPT_AFTER {
                        tracing::warn!("a second Ctrl-C: ending at once");
                        std::process::exit(CliExit::Interrupted.code());
                    }
                }
                _ = hup.recv() => {
                    if let Some(hang_up) = &hang_up {
                        let _ = hang_up.try_send(()); // one that waits already is enough
                        continue;
                    }
                }
            }
            token.cancel();
        }
    });
    Ok(shutdown)
}

fn listen_for_signal(kind: SignalKind) -> Result<Signal, CliError> {
    Ok(signal(kind)?)
}
