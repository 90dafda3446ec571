//! The command line: parse, one call, render. What a command does is done by the floors below.

mod bus;
mod client;
mod config;
mod demo;
mod document;
mod exit;
mod format;
mod global;
mod health;
mod metrics;
mod output;
mod rollout;
mod scrape;
mod serve;
mod source;
mod start;
mod task;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::exit::{CliError, CliExit, EXIT_CODES_HELP, report_outcome};
use self::global::GlobalArgs;

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
    /// Say whether all is well: status, workers, queue
    Health(health::HealthArgs),
    /// Show what the server has counted: tasks by topic, requests and errors by path
    Metrics(metrics::MetricsArgs),
    /// See how rollouts stand and why, and move them on
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Publish tasks, and read their results
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Look after the queues: dead letters
    #[command(subcommand)]
    Bus(bus::BusCommand),
    /// Check a configuration file, or write one
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
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
