//! `task show`: a task with its attempts and the notifications of its end.

use crate::admin::views::{AttemptDocument, DeliveryDocument, TaskDetailsDocument};
use crate::cli::backend::CommandBackend;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::format::{format_optional, format_utc_millis};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{
    name_value_table, print_json, print_line, print_table, table_with_headings,
};
use crate::task::TaskId;

pub(super) async fn run(id: &TaskId, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let task = CommandBackend::connect(global).await?.fetch_task(id).await?;
    match global.format {
        OutputFormat::Json => print_json(&task.raw),
        OutputFormat::Table => {
            print_table(&name_value_table(task_rows(&task.view)));
            print_deliveries(&task.view.deliveries);
            print_attempts(&task.view.history);
        }
    }
    Ok(CliExit::Ok)
}

/// Name and value of the fields that have one.
fn task_rows(details: &TaskDetailsDocument) -> impl Iterator<Item = (&'static str, String)> {
    let task = &details.task;
    let progress = details.progress.as_ref().map(|progress| {
        let note = progress.note.as_ref().map(|note| format!(", {note}")).unwrap_or_default();
        format!("{:.0} %{note}", progress.fraction * 100.0)
    });
    let time = |millis: Option<u64>| millis.map(|millis| format_utc_millis(Some(millis)));
    let rows = [
        ("task_id", Some(task.task_id.clone())),
        ("topic", Some(task.topic.clone())),
        ("status", Some(task.status.clone())),
        ("route", details.route.clone()),
        ("correlation_id", details.correlation_id.clone()),
        ("trace_id", details.trace_id.clone()),
        ("http_status", task.http_status.map(|status| status.to_string())),
        ("error", task.error.clone()),
        ("created", time(Some(task.created_ms))),
        ("finished", time(task.finished_ms)),
        ("next attempt", time(details.next_attempt_ms)),
        ("progress", progress),
    ];
    rows.into_iter().filter_map(|(name, value)| Some((name, value?)))
}

fn print_attempts(attempts: &[AttemptDocument]) {
    if attempts.is_empty() {
        return;
    }
    print_line("");
    let mut table = table_with_headings(&[">attempt", "worker", "began", "ended", "error"]);
    for attempt in attempts {
        // The last line of an error names it; the JSON has the whole text.
        let error = format_optional(attempt.error.as_deref());
        table.add_row([
            attempt.attempt.to_string(),
            format_optional(attempt.worker.as_deref()),
            format_utc_millis(attempt.began_ms),
            format_utc_millis(attempt.ended_ms),
            error.trim().lines().last().unwrap_or_default().to_owned(),
        ]);
    }
    print_table(&table);
}

fn print_deliveries(deliveries: &[DeliveryDocument]) {
    if deliveries.is_empty() {
        return;
    }
    print_line("");
    let mut table = table_with_headings(&["notified by", "target", "status", ">tries", "error"]);
    for delivery in deliveries {
        table.add_row([
            delivery.kind.clone(),
            delivery.target.clone(),
            delivery.status.clone(),
            delivery.attempts.to_string(),
            format_optional(delivery.error.as_deref()),
        ]);
    }
    print_table(&table);
}
