//! The command line: parses arguments, makes one call and renders the result.
//!
//! Each command has a file or a folder. What a command does is implemented in lower floors
//! (`app/`, `operations/`, the admin API); the files here hold arguments, output and exit statuses.
//! Results go to stdout, notes and errors to stderr.

mod backend;
mod bus;
mod client;
mod config;
mod demo;
mod document;
mod exit;
mod format;
mod global;
mod health;
mod init_process;
mod metrics;
mod output;
mod paging;
mod rollout;
mod scrape;
mod serve;
mod start;
mod task;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::exit::{CliError, CliExit, EXIT_CODES_HELP, report_outcome};
use self::global::GlobalArgs;
use crate::worker::run_if_guard;

/// Moves a synchronous HTTP endpoint onto a durable task queue, a share of the traffic at a time.
#[derive(Parser)]
#[command(name = "omnidaemon", version, about, after_help = EXIT_CODES_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    Serve(serve::ServeArgs),
    Worker(serve::WorkerArgs),
    Runner(serve::RunnerArgs),
    Demo(demo::DemoArgs),
    /// Check the health of the installation: status, workers, queues
    Health(health::HealthArgs),
    /// Show the server's counters: tasks by topic, requests and errors by path
    Metrics(metrics::MetricsArgs),
    /// Show the state of rollouts and the reasons for it, and control them
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Publish, list and cancel tasks, and read their results
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Manage dead letters, the tasks that failed for good
    #[command(subcommand)]
    Bus(bus::BusCommand),
    /// Check a configuration file, or write one
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(exit_code) = run_if_guard() {
        return exit_code;
    }
    let cli = Cli::parse();
    if let Some(result) = init_process::run_if_first_process() {
        return result.unwrap_or_else(|error| report_outcome(Err(error.into())));
    }
    start::init_logging(&cli.command);
    start::prepare_process();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => report_outcome(runtime.block_on(run_command(cli))),
        Err(error) => report_outcome(Err(error.into())),
    }
}

async fn run_command(cli: Cli) -> Result<CliExit, CliError> {
    let global = &cli.global;
    match cli.command {
        CliCommand::Serve(args) => serve::run_serve(args, global).await,
        CliCommand::Worker(args) => serve::run_worker(args, global).await,
        CliCommand::Runner(args) => serve::run_runner(args, global).await,
        CliCommand::Demo(args) => demo::run(args, global).await,
        CliCommand::Health(args) => health::run(args, global).await,
        CliCommand::Metrics(args) => metrics::run(args, global).await,
        CliCommand::Rollout(command) => rollout::run(command, global).await,
        CliCommand::Task(command) => task::run(command, global).await,
        CliCommand::Bus(command) => bus::run(command, global).await,
        CliCommand::Config(command) => config::run(command, global).await,
    }
}
