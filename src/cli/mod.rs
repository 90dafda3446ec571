//! The command line: parse, one call, render. What a command does is done by the floors below.

mod bus;
mod client;
mod config;
mod demo;
mod exit;
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

use self::exit::{CliError, EXIT_CODES, Exit, conclude};
use self::global::Global;

/// Moves a synchronous HTTP endpoint onto a durable task queue, a share of the traffic at a time.
#[derive(Parser)]
#[command(name = "omnidaemon", version, about, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
    start::logging(&cli.command);
    start::process();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => conclude(runtime.block_on(run(cli))),
        Err(error) => conclude(Err(error.into())),
    }
}

async fn run(cli: Cli) -> Result<Exit, CliError> {
    let global = &cli.global;
    match cli.command {
        Command::Serve(args) => serve::serve(args, global).await,
        Command::Worker(args) => serve::worker(args, global).await,
        Command::Runner(args) => serve::runner(args, global).await,
        Command::Demo(args) => demo::run(args, global).await,
        Command::Health(args) => health::run(args, global).await,
        Command::Metrics(args) => metrics::run(args, global).await,
        Command::Rollout(command) => rollout::run(command, global).await,
        Command::Task(command) => task::run(command, global).await,
        Command::Bus(command) => bus::run(command, global).await,
        Command::Config(command) => config::run(command, global).await,
    }
}
