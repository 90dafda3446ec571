//! `task show`: a task's life.

use serde_json::Value;

use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{
    format_field, name_value_table, print_json, print_line, print_table, table_with_headings,
};
use crate::cli::source::CommandBackend;
use crate::task::TaskId;

pub(super) async fn run(id: &TaskId, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let task = CommandBackend::connect(global).await?.fetch_task(id).await?;
    match global.format {
        OutputFormat::Json => print_json(&task),
        OutputFormat::Table => print_task_life(&task),
    }
    Ok(CliExit::Ok)
}

fn print_task_life(task: &Value) {
    let fields = [
        "task_id",
        "topic",
        "status",
        "route",
        "correlation_id",
        "trace_id",
        "http_status",
        "error",
    ];
    let mut rows: Vec<(&str, String)> = fields
        .iter()
        .filter(|field| !task[**field].is_null())
        .map(|field| (*field, format_field(&task[*field])))
        .collect();
    rows.push(("created", format_utc_millis(&task["created_ms"])));
    for (name, field) in [("finished", "finished_ms"), ("next attempt", "next_attempt_ms")] {
        if !task[field].is_null() {
            rows.push((name, format_utc_millis(&task[field])));
        }
    }
    if !task["progress"].is_null() {
        let (fraction, note) =
            (task["progress"]["fraction"].as_f64().unwrap_or_default(), &task["progress"]["note"]);
        let note = note.as_str().map(|note| format!(", {note}")).unwrap_or_default();
        rows.push(("progress", format!("{:.0} %{note}", fraction * 100.0)));
    }
    print_table(&name_value_table(rows));
    print_deliveries(task["deliveries"].as_array().map(Vec::as_slice).unwrap_or_default());
    let runs = task["history"].as_array().map(Vec::as_slice).unwrap_or_default();
    if runs.is_empty() {
        return;
    }
    print_line("");
    let mut listed = table_with_headings(&[">attempt", "worker", "began", "ended", "error"]);
    for run in runs {
        let row = [
            format_field(&run["attempt"]),
            format_field(&run["worker"]),
            format_utc_millis(&run["began_ms"]),
            format_utc_millis(&run["ended_ms"]),
        ];
        // The last line says what it was; the whole is above, and in the JSON.
        let error = format_field(&run["error"]);
        listed.add_row(
            row.into_iter().chain([error.trim().lines().last().unwrap_or_default().to_owned()]),
        );
    }
    print_table(&listed);
}

/// Who is told of the end, and how that goes.
fn print_deliveries(deliveries: &[Value]) {
    if deliveries.is_empty() {
        return;
    }
    print_line("");
    let mut listed = table_with_headings(&["told", "target", "status", ">tries", "error"]);
    for delivery in deliveries {
        listed.add_row(
            ["kind", "target", "status", "attempts", "error"]
                .map(|field| format_field(&delivery[field])),
        );
    }
    print_table(&listed);
}

/// A time in milliseconds as people read it, in UTC.
pub(super) fn format_utc_millis(ms: &Value) -> String {
    let time = ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
}
