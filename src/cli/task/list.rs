//! `task list`: the tasks, newest first, fetched page by page up to the limit.

use clap::Args;
use serde_json::Value;

use crate::admin::views::TaskSummaryDocument;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::format::{format_optional, format_utc_millis};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_table, table_with_headings};
use crate::cli::source::CommandBackend;
use crate::operations::parse_task_status;
use crate::store::TaskListRequest;
use crate::task::{TaskStatus, Topic};

/// Tasks of one request.
const TASK_PAGE_SIZE: usize = 500;

/// `omnidaemon task list`
#[derive(Args)]
pub(in crate::cli) struct TaskListArgs {
    /// Only tasks of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only tasks with this status: queued, processing, completed, failed or cancelled
    #[arg(long, value_parser = parse_task_status)]
    status: Option<TaskStatus>,
    /// The most tasks to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

pub(super) async fn run(args: TaskListArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let topic = args.topic.as_deref().map(Topic::parse).transpose();
    let topic = topic.map_err(|error| CliError::Usage(error.to_string()))?;
    let source = CommandBackend::connect(global).await?;
    let (mut raw, mut tasks) = (Vec::new(), Vec::new());
    let mut after_cursor = None;
    while tasks.len() < args.limit {
        let request = TaskListRequest {
            topic: topic.clone(),
            status: args.status,
            limit: (args.limit - tasks.len()).min(TASK_PAGE_SIZE),
            after_cursor: after_cursor.take(),
        };
        let mut page = source.list_tasks(&request).await?;
        if let Some(entries) = page.raw["tasks"].as_array_mut() {
            raw.append(entries);
        }
        tasks.append(&mut page.view.tasks);
        after_cursor = page.view.next;
        if after_cursor.is_none() {
            warn_unlisted_status(&page.view.unlisted, args.status);
            break;
        }
    }
    match global.format {
        OutputFormat::Json => print_json(&Value::Array(raw)),
        OutputFormat::Table => print_tasks(&tasks),
    }
    Ok(CliExit::Ok)
}

/// Warns when the requested status is one that the store cannot list.
fn warn_unlisted_status(unlisted: &[String], requested: Option<TaskStatus>) {
    let requested = requested.map(TaskStatus::as_str);
    if let Some(status) = requested.filter(|status| unlisted.iter().any(|one| one == status)) {
        eprintln!("this store cannot list tasks that are {status}: ask for one by its id");
    }
}

fn print_tasks(tasks: &[TaskSummaryDocument]) {
    let mut table =
        table_with_headings(&["task", "topic", "status", ">attempts", "created", "finished"]);
    for task in tasks {
        table.add_row([
            task.task_id.clone(),
            format_optional(task.topic.as_deref()),
            task.status.clone(),
            format_optional(task.attempts),
            format_utc_millis(task.created_ms),
            format_utc_millis(task.finished_ms),
        ]);
    }
    print_table(&table);
}
