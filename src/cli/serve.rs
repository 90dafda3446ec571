//! The long-running commands: `serve` runs the proxy with workers, `worker` supervises worker
//! processes, and `runner` is one such process.

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
use crate::worker::{GuardCommand, Supervisor, terminate_with_parent};

/// How much longer than `workers.drain` a worker process may take before it is killed.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// How long after the first SIGINT another one counts as a second Ctrl-C of a person.
const SECOND_INTERRUPT_AFTER: Duration = Duration::from_secs(1);

/// Run the proxy, with its workers.
#[derive(Args)]
pub(super) struct ServeArgs {
    /// The legacy server, such as <http://127.0.0.1:9000>; no configuration file is read then
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// With --upstream: the path whose requests may go async; /invoke by default
    #[arg(long, value_name = "PATH", requires = "upstream")]
    path: Option<String>,
    /// With --upstream: the share of requests that goes async, 0 to 100; 0 by default
    #[arg(long, value_name = "N", requires = "upstream")]
    percent: Option<String>,
}

/// Run worker processes for a `serve` on the same Redis.
#[derive(Args)]
pub(super) struct WorkerArgs {
    /// The number of processes; by default workers.count of the file, also when it is edited
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// The address at which the supervisor serves health and metrics
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

/// Run one worker process; `worker` starts these.
#[derive(Args)]
pub(super) struct RunnerArgs {
    /// The name of the process in process lists and logs
    #[arg(long)]
    name: String,
    /// The address at which the process serves health and metrics
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
    let app = app.with_program_guard(GuardCommand::from_current_executable()?);
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
    let app = App::new(load_config(global, &env)?)
        .with_config_file(global.config.clone(), env)
        .with_program_guard(GuardCommand::from_current_executable()?);
    let shutdown = shutdown_on_signals(Some(app.reload_sender()))?;
    tracing::info!(name = args.name, "runner starts");
    app.run_worker(args.admin_listen, shutdown).await?;
    Ok(CliExit::Ok)
}

/// The environment variables by name.
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

/// A token that SIGTERM and SIGINT cancel.
///
/// Further SIGTERMs have no effect, since a worker process gets several during one shutdown: from
/// the service manager, from the supervisor, and from the kernel when the supervisor has ended. A
/// second SIGINT ends the process at once when it comes [`SECOND_INTERRUPT_AFTER`] or longer after
/// the first. SIGHUP sends to `hang_up`, to reload; without `hang_up` it cancels the token too,
/// since it then means that the terminal was closed.
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
        let mut first_interrupt: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {
                    let since_first = first_interrupt.get_or_insert_with(Instant::now).elapsed();
                    if since_first >= SECOND_INTERRUPT_AFTER {
                        tracing::warn!("a second Ctrl-C: ending at once");
                        std::process::exit(CliExit::Interrupted.code());
                    }
                }
                _ = hup.recv() => {
                    if let Some(hang_up) = &hang_up {
                        // When the channel is full, a reload is pending already.
                        let _ = hang_up.try_send(());
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
