//! `health`: one line that scripts grep, or everything that an operator looks at first.

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::exit::{CliError, CliExit};
use super::global::{GlobalArgs, OutputFormat};
use super::output::{
    format_field, print_json, print_line, print_table, table_with_headings, verdict_cell,
};
use super::source::CommandBackend;

/// `omnidaemon health`
#[derive(Args)]
pub(super) struct HealthArgs {
    /// Also show the checks, the queues, the rollouts and the workers
    #[arg(long)]
    detailed: bool,
    /// Look again and again, until interrupted
    #[arg(long)]
    watch: bool,
    /// How often --watch looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
}

pub(super) async fn run(args: HealthArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    loop {
        let seen = fetch_health(&args, global).await;
        if args.watch
            && args.detailed
            && global.format == OutputFormat::Table
            && stdout().is_terminal()
        {
            print!("\x1b[2J\x1b[H"); // a new page
        }
        let exit = print_health(&args, global.format, seen)?;
        if !args.watch {
            return Ok(exit);
        }
        sleep(args.interval.max(Duration::from_millis(100))).await;
    }
}

async fn fetch_health(args: &HealthArgs, global: &GlobalArgs) -> Result<Value, CliError> {
    let source = CommandBackend::connect(global).await?;
    let mut status = source.fetch_status().await?;
    if args.detailed {
        status["workers"] =
            source.fetch_workers().await.unwrap_or_else(|error| error.to_string().into());
    }
    Ok(status)
}

/// Writes what was seen. That nobody answers is an answer too; only arguments that make no sense
/// are an error.
fn print_health(
    args: &HealthArgs,
    format: OutputFormat,
    seen: Result<Value, CliError>,
) -> Result<CliExit, CliError> {
    let status = match seen {
        Ok(status) => status,
        Err(error @ (CliError::Usage(_) | CliError::AdminRefused { .. })) if !args.watch => {
            return Err(error);
        }
        Err(error) => {
            eprintln!("{error}");
            json!({"status": "unreachable"})
        }
    };
    match format {
        OutputFormat::Json => print_json(&status),
        OutputFormat::Table => {
            print_line(health_line(&status));
            if args.detailed {
                print_details(&status);
            }
        }
    }
    Ok(if status["status"] == "healthy" { CliExit::Ok } else { CliExit::Failed })
}

/// `status=healthy, active_workers=5, queue_depth=0, uptime=24h15m`; what is not known is left out.
fn health_line(status: &Value) -> String {
    let known = ["status", "active_workers", "queue_depth"]
        .iter()
        .filter(|field| !status[**field].is_null());
    let mut parts: Vec<String> =
        known.map(|field| format!("{field}={}", format_field(&status[*field]))).collect();
    parts.extend(
        status["uptime_seconds"]
            .as_u64()
            .map(|seconds| format!("uptime={}", format_uptime(seconds))),
    );
    parts.join(", ")
}

/// The two largest units: `2d4h`, `24h15m`, `3m20s`, `42s`. Days from two on, as people say 24
/// hours.
fn format_uptime(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{}s", seconds % 60),
        (..48, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{}d{}h", hours / 24, hours % 24),
    }
}

fn print_details(status: &Value) {
    let mut checks = table_with_headings(&["check", "result"]);
    for (name, said) in status["checks"].as_object().into_iter().flatten() {
        checks.add_row([name.into(), verdict_cell(&format_field(said), said == "ok")]);
    }
    let mut advice = table_with_headings(&["server", "advice", "type"]);
    for row in status["store_advice"].as_array().into_iter().flatten() {
        let run: Vec<String> =
            row["run"].as_array().into_iter().flatten().map(format_field).collect();
        advice.add_row([
            format_field(&row["server"]),
            format_field(&row["problem"]),
            run.join("\n"),
        ]);
    }
    let tables = [
        checks,
        advice,
        field_table(
            status,
            "topics",
            &["topic", ">queued", ">processing", ">dead_letters", ">oldest_seconds"],
        ),
        field_table(status, "rollouts", &["route", "mode", ">weight", ">percent", "deprecation"]),
        field_table(status, "workers", &["process", ">active", ">busy"]),
    ];
    for table in tables.iter().filter(|table| !table.is_empty()) {
        print_line("");
        print_table(table);
    }
}

/// A table of the list `name`, whose columns are fields.
fn field_table(status: &Value, name: &str, columns: &[&str]) -> comfy_table::Table {
    let mut table = table_with_headings(columns);
    for row in status[name].as_array().into_iter().flatten() {
        table.add_row(
            columns.iter().map(|column| format_field(&row[column.trim_start_matches('>')])),
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_one_that_the_playbook_shows() {
        let status = json!({"status": "healthy", "active_workers": 5, "queue_depth": 0, "uptime_seconds": 87_300});
        assert_eq!(
            health_line(&status),
            "status=healthy, active_workers=5, queue_depth=0, uptime=24h15m"
        );
        assert_eq!(health_line(&json!({"status": "unreachable"})), "status=unreachable");
    }

    #[test]
    fn uptimes_show_their_two_largest_units() {
        let shown = [0, 42, 60, 3599, 3600, 172_799, 172_800, 190_000].map(format_uptime);
        assert_eq!(shown, ["0s", "42s", "1m0s", "59m59s", "1h0m", "47h59m", "2d0h", "2d4h"]);
    }

    #[test]
    fn only_healthy_ends_with_status_0() {
        let args = HealthArgs { detailed: false, watch: false, interval: Duration::from_secs(1) };
        let exit = |seen| print_health(&args, OutputFormat::Table, seen).ok();
        assert_eq!(exit(Ok(json!({"status": "healthy"}))), Some(CliExit::Ok));
        for status in ["degraded", "starting", "draining"] {
            assert_eq!(exit(Ok(json!({"status": status}))), Some(CliExit::Failed), "{status}");
        }
        let nobody = CliError::Unreachable { address: "a".into(), reason: "r".into() };
        assert_eq!(exit(Err(nobody)), Some(CliExit::Failed));
    }
}
