//! `task show`: a task's life.

use serde_json::Value;

use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{line, pairs, print, print_json, table, text};
use crate::cli::source::Source;
use crate::task::TaskId;

pub(super) async fn run(id: &TaskId, global: &Global) -> Result<Exit, CliError> {
    let task = Source::find(global).await?.task(id).await?;
    match global.format {
        Format::Json => print_json(&task),
        Format::Table => people(&task),
    }
    Ok(Exit::Ok)
}

fn people(task: &Value) {
    let fields = ["task_id", "topic", "status", "route", "correlation_id", "trace_id", "http_status", "error"];
    let mut rows: Vec<(&str, String)> =
        fields.iter().filter(|field| !task[**field].is_null()).map(|field| (*field, text(&task[*field]))).collect();
    rows.push(("created", time(&task["created_ms"])));
    for (name, field) in [("finished", "finished_ms"), ("next attempt", "next_attempt_ms")] {
        if !task[field].is_null() {
            rows.push((name, time(&task[field])));
        }
    }
    if !task["progress"].is_null() {
        let (fraction, note) = (task["progress"]["fraction"].as_f64().unwrap_or_default(), &task["progress"]["note"]);
        let note = note.as_str().map(|note| format!(", {note}")).unwrap_or_default();
        rows.push(("progress", format!("{:.0} %{note}", fraction * 100.0)));
    }
    print(&pairs(rows));
    deliveries(task["deliveries"].as_array().map(Vec::as_slice).unwrap_or_default());
    let runs = task["history"].as_array().map(Vec::as_slice).unwrap_or_default();
    if runs.is_empty() {
        return;
    }
    line("");
    let mut listed = table(&[">attempt", "worker", "began", "ended", "error"]);
    for run in runs {
        let row = [text(&run["attempt"]), text(&run["worker"]), time(&run["began_ms"]), time(&run["ended_ms"])];
        // The last line says what it was; the whole is above, and in the JSON.
        let error = text(&run["error"]);
        listed.add_row(row.into_iter().chain([error.trim().lines().last().unwrap_or_default().to_owned()]));
    }
    print(&listed);
}

/// Who is told of the end, and how that goes.
fn deliveries(deliveries: &[Value]) {
    if deliveries.is_empty() {
        return;
    }
    line("");
    let mut listed = table(&["told", "target", "status", ">tries", "error"]);
    for delivery in deliveries {
        listed.add_row(["kind", "target", "status", "attempts", "error"].map(|field| text(&delivery[field])));
    }
    print(&listed);
}

/// A time in milliseconds as people read it, in UTC.
pub(super) fn time(ms: &Value) -> String {
    let time = ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
}
