//! `task list`: the tasks, newest first, a page after the other up to the limit.

use clap::Args;
use serde_json::Value;

use super::show::format_utc_millis;
use crate::admin::parse_status;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{format_field, print_json, print_table, table_with_headings};
use crate::cli::source::CommandBackend;
use crate::store::TaskListRequest;
use crate::task::{TaskStatus, Topic};

/// The most tasks that are asked for at a time.
const TASK_PAGE_SIZE: usize = 500;

/// `omnidaemon task list`
#[derive(Args)]
pub(in crate::cli) struct TaskListArgs {
    /// Those of one topic
    #[arg(long)]
    topic: Option<String>,
    /// Those that stand so: queued, processing, completed, failed or cancelled
    #[arg(long, value_parser = parse_status)]
    status: Option<TaskStatus>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

pub(super) async fn run(args: TaskListArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let topic = args.topic.as_deref().map(Topic::parse).transpose();
    let topic = topic.map_err(|error| CliError::Usage(error.to_string()))?;
    let source = CommandBackend::connect(global).await?;
    let mut tasks: Vec<Value> = Vec::new();
    let mut after = None;
    while tasks.len() < args.limit {
        let limit = (args.limit - tasks.len()).min(TASK_PAGE_SIZE);
        let listing = TaskListRequest {
            topic: topic.clone(),
            status: args.status,
            limit,
            after_cursor: after.take(),
        };
        let mut page = source.list_tasks(&listing).await?;
        tasks.append(page["tasks"].as_array_mut().unwrap_or(&mut Vec::new()));
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            warn_unlisted_status(&page["unlisted"], args.status);
            break;
        }
    }
    match global.format {
        OutputFormat::Json => print_json(&tasks.into()),
        OutputFormat::Table => print_tasks(&tasks),
    }
    Ok(CliExit::Ok)
}

/// Says what the list cannot have, where that was asked for.
fn warn_unlisted_status(unlisted: &Value, asked: Option<TaskStatus>) {
    let is_unlisted = |status: TaskStatus| {
        unlisted.as_array().is_some_and(|all| all.iter().any(|one| *one == status.as_str()))
    };
    if let Some(status) = asked.filter(|status| is_unlisted(*status)) {
        eprintln!(
            "this store cannot list tasks that are {}: ask for one by its id",
            status.as_str()
        );
    }
}

fn print_tasks(tasks: &[Value]) {
    let mut listed =
        table_with_headings(&["task", "topic", "status", ">attempts", "created", "finished"]);
    for task in tasks {
        let words =
            ["task_id", "topic", "status", "attempts"].map(|field| format_field(&task[field]));
        listed.add_row(words.into_iter().chain([
            format_utc_millis(&task["created_ms"]),
            format_utc_millis(&task["finished_ms"]),
        ]));
    }
    print_table(&listed);
}
