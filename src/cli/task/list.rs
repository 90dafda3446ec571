//! `task list`: the tasks, newest first.

use clap::Args;

use crate::admin::views::{TaskPageDocument, TaskSummaryDocument};
use crate::cli::backend::CommandBackend;
use crate::cli::document::{ApiDocument, to_json_list};
use crate::cli::exit::{CliError, CliExit};
use crate::cli::format::{format_optional, format_utc_millis};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_table, table_with_headings};
use crate::cli::paging::fetch_pages;
use crate::operations::parse_task_status;
use crate::store::TaskListRequest;
use crate::task::{TaskStatus, Topic};

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
    let backend = CommandBackend::connect(global).await?;
    let fetch_page = async |after_cursor: Option<String>, limit: usize| {
        let request =
            TaskListRequest { topic: topic.clone(), status: args.status, limit, after_cursor };
        fetch_task_page(&backend, &request).await
    };
    let tasks = fetch_pages(args.limit, fetch_page).await?;
    match global.format {
        OutputFormat::Json => print_json(&to_json_list(&tasks)),
        OutputFormat::Table => print_tasks(&tasks),
    }
    Ok(CliExit::Ok)
}

/// A page of tasks, and the cursor of the next page. The last page has the statuses that the store
/// cannot list, which may be a reason for a warning.
async fn fetch_task_page(
    backend: &CommandBackend,
    request: &TaskListRequest,
) -> Result<(Vec<ApiDocument<TaskSummaryDocument>>, Option<String>), CliError> {
    let mut page = backend.list_tasks(request).await?;
    let TaskPageDocument { tasks, next, unlisted } = page.view;
    if next.is_none() {
        warn_unlisted_status(&unlisted, request.status);
    }
    let tasks = ApiDocument { raw: page.raw["tasks"].take(), view: tasks };
    Ok((tasks.into_items(), next))
}

/// Warns when the requested status is one that the store cannot list.
fn warn_unlisted_status(unlisted: &[String], requested: Option<TaskStatus>) {
    let requested = requested.map(TaskStatus::as_str);
    if let Some(status) = requested.filter(|status| unlisted.iter().any(|one| one == status)) {
        eprintln!(
            "this store cannot list tasks that are {status}: use `task show` with the id of a task"
        );
    }
}

fn print_tasks(tasks: &[ApiDocument<TaskSummaryDocument>]) {
    let mut table =
        table_with_headings(&["task", "topic", "status", ">attempts", "created", "finished"]);
    for ApiDocument { view: task, .. } in tasks {
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
