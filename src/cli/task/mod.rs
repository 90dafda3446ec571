//! `omnidaemon task …`: publish, list, show and cancel tasks.

mod bulk;
mod envelope;
mod list;
mod publish;
mod result;
mod show;

use clap::{Args, Subcommand};

use super::backend::{CommandBackend, parse_task_id};
use super::exit::{CliError, CliExit};
use super::global::{GlobalArgs, OutputFormat};
use super::output::{print_json, print_line};

/// `omnidaemon task …`
#[derive(Subcommand)]
pub(super) enum TaskCommand {
    /// Queue a task
    Publish(publish::TaskPublishArgs),
    /// List tasks, newest first
    List(list::TaskListArgs),
    /// Show a task's attempts, their workers and errors
    Show(TaskIdArgs),
    /// Show a task's status and its result
    Result(result::TaskResultArgs),
    /// Cancel a task; a running handler is stopped
    Cancel(TaskIdArgs),
}

/// The argument of a command about one task.
#[derive(Args)]
pub(super) struct TaskIdArgs {
    /// The id of the task
    id: String,
}

pub(super) async fn run(command: TaskCommand, global: &GlobalArgs) -> Result<CliExit, CliError> {
    match command {
        TaskCommand::Publish(args) => publish::run(args, global).await,
        TaskCommand::List(args) => list::run(args, global).await,
        TaskCommand::Show(args) => show::run(&parse_task_id(&args.id)?, global).await,
        TaskCommand::Result(args) => result::run(args, global).await,
        TaskCommand::Cancel(args) => cancel_task(&args, global).await,
    }
}

async fn cancel_task(args: &TaskIdArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let id = parse_task_id(&args.id)?;
    let cancelled = CommandBackend::connect(global).await?.cancel(&id).await?;
    match global.format {
        OutputFormat::Json => print_json(&cancelled.raw),
        OutputFormat::Table => print_line(format_args!("{id} is cancelled")),
    }
    Ok(CliExit::Ok)
}
