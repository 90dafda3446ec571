//! `task result`: the status and the result of a task, at once or when the task has ended.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::admin::views::{TaskDetailsDocument, TaskDocument};
use crate::backoff::BackoffPolicy;
use crate::cli::backend::{CommandBackend, parse_task_id};
use crate::cli::document::ApiDocument;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{name_value_table, print_json, print_line, print_table};
use crate::operations::parse_task_status;
use crate::task::{TaskId, TaskStatus};

/// The delays between polls of a task that the command waits for.
const POLL_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(1));
/// The fields of a task that `--format json` prints here; `task show` prints all.
const RESULT_FIELDS: [&str; 10] = [
    "task_id",
    "topic",
    "status",
    "attempts",
    "created_ms",
    "finished_ms",
    "http_status",
    "result",
    "error",
    "note",
];

/// `omnidaemon task result`
#[derive(Args)]
pub(in crate::cli) struct TaskResultArgs {
    /// The id of the task
    id: String,
    /// Wait until the task has ended, but no longer than this, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

pub(super) async fn run(args: TaskResultArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let id = parse_task_id(&args.id)?;
    let backend = CommandBackend::connect(global).await?;
    let task = wait_for_end(&backend, &id, args.wait.unwrap_or_default()).await?;
    Ok(print_task(&task, global.format))
}

/// Waits until the task has ended, at most for `wait`, and returns it.
pub(super) async fn wait_for_end(
    backend: &CommandBackend,
    id: &TaskId,
    wait: Duration,
) -> Result<ApiDocument<TaskDetailsDocument>, CliError> {
    let start = Instant::now();
    let mut delay = POLL_BACKOFF.first_delay();
    loop {
        let task = backend.fetch_task(id).await?;
        let remaining = wait.saturating_sub(start.elapsed());
        if has_ended(&task.view.task) || remaining.is_zero() {
            return Ok(task);
        }
        sleep(delay.min(remaining)).await;
        delay = POLL_BACKOFF.next_delay(delay);
    }
}

/// Prints a task with its result, and returns the exit status for the status of the task.
pub(super) fn print_task(task: &ApiDocument<TaskDetailsDocument>, format: OutputFormat) -> CliExit {
    let view = &task.view.task;
    match format {
        OutputFormat::Json => {
            let fields = RESULT_FIELDS
                .iter()
                .filter_map(|field| Some(((*field).to_owned(), task.raw.get(field)?.clone())));
            print_json(&Value::Object(fields.collect()));
        }
        OutputFormat::Table => {
            print_table(&name_value_table(task_rows(view)));
            if let Some(result) = &view.result {
                print_line("");
                print_json(result);
            }
        }
    }
    match parse_task_status(&view.status) {
        Ok(TaskStatus::Completed) => CliExit::Ok,
        Ok(status) if status.is_final() => CliExit::Failed,
        _ => CliExit::Unfinished,
    }
}

/// Name and value of the fields that have one.
fn task_rows(task: &TaskDocument) -> impl Iterator<Item = (&'static str, String)> {
    let rows = [
        ("task_id", Some(task.task_id.clone())),
        ("topic", Some(task.topic.clone())),
        ("status", Some(task.status.clone())),
        ("due_at", task.due_at.clone()),
        ("attempts", Some(task.attempts.to_string())),
        ("http_status", task.http_status.map(|status| status.to_string())),
        ("error", task.error.clone()),
        ("note", task.note.clone()),
    ];
    rows.into_iter().filter_map(|(name, value)| Some((name, value?)))
}

fn has_ended(task: &TaskDocument) -> bool {
    parse_task_status(&task.status).is_ok_and(TaskStatus::is_final)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exit_status_follows_from_the_status_of_the_task() {
        let exit = |status| {
            let task = ApiDocument::parse(json!({"task_id": "t", "status": status}));
            print_task(&task.expect("a task"), OutputFormat::Table)
        };
        assert_eq!(exit("completed"), CliExit::Ok);
        assert_eq!((exit("failed"), exit("cancelled")), (CliExit::Failed, CliExit::Failed));
        assert_eq!(
            (exit("queued"), exit("processing")),
            (CliExit::Unfinished, CliExit::Unfinished)
        );
    }
}
