//! `serve`, `worker` and `runner`: the long-running commands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, Exit};
use super::global::Global;
use crate::app::App;
use crate::config::{self, Env, Loaded};
use crate::worker::{Supervisor, end_with_parent};

/// How much longer than its own drain a worker process may take before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// How long after a Ctrl-C another one is meant as a second one.
const IMPATIENCE: Duration = Duration::from_secs(1);

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

pub(super) async fn serve(args: ServeArgs, global: &Global) -> Result<Exit, CliError> {
    let env = environment();
    let app = match &args.upstream {
        Some(url) => {
            App::new(warned(config::from_upstream(url, args.path.as_deref(), args.percent.as_deref(), &env)?, url))
        }
        None => App::new(load(global, &env)?).watching(global.config.clone(), env),
    };
    let hang_up = app.hang_up();
    let bound = app.bind().await?;
    let shutdown = on_signals(Some(hang_up))?;
    bound.run(shutdown).await?;
    Ok(Exit::Ok)
}

pub(super) async fn worker(args: WorkerArgs, global: &Global) -> Result<Exit, CliError> {
    let env = environment();
    let loaded = load(global, &env)?;
    let supervisor = Supervisor {
        count: args.count,
        program: std::env::current_exe()?,
        args: vec!["--config".into(), global.config.display().to_string()],
        drain: loaded.config.workers.drain + KILL_AFTER,
    };
    let app = App::new(loaded).watching(global.config.clone(), env);
    let shutdown = on_signals(Some(app.hang_up()))?;
    app.run_supervisor(supervisor, args.admin_listen, shutdown).await?;
    Ok(Exit::Ok)
}

pub(super) async fn runner(args: RunnerArgs, global: &Global) -> Result<Exit, CliError> {
    end_with_parent()?;
    let env = environment();
    let app = App::new(load(global, &env)?).watching(global.config.clone(), env);
    let shutdown = on_signals(Some(app.hang_up()))?;
    tracing::info!(name = args.name, "runner starts");
    app.run_worker(args.admin_listen, shutdown).await?;
    Ok(Exit::Ok)
}

/// The environment as a map.
pub(super) fn environment() -> Env {
    std::env::vars().collect()
}

fn load(global: &Global, env: &Env) -> Result<Loaded, CliError> {
    let path: &PathBuf = &global.config;
    Ok(warned(config::load(path, env)?, &path.display().to_string()))
}

fn warned(loaded: Loaded, file: &str) -> Loaded {
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.in_file(file));
    }
    loaded
}

/// A token that SIGTERM and SIGINT cancel. A further SIGTERM changes nothing: one shutdown sends a worker process
/// several (the service manager, the supervisor, the kernel when the supervisor has ended). A person who repeats
/// Ctrl-C after [`IMPATIENCE`] ends the process at once. SIGHUP goes to `hang_up`; without one it is a SIGTERM, as
/// a terminal that closes means it.
pub(super) fn on_signals(hang_up: Option<mpsc::Sender<()>>) -> Result<CancellationToken, CliError> {
    let (mut term, mut int, mut hup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let mut interrupted: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {
                    if interrupted.get_or_insert_with(Instant::now).elapsed() >= IMPATIENCE {
                        tracing::warn!("a second Ctrl-C: ending at once");
                        std::process::exit(Exit::Interrupted.code());
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

fn listen(kind: SignalKind) -> Result<Signal, CliError> {
    Ok(signal(kind)?)
}
