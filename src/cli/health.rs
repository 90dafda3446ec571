//! `omnidaemon health`: one line for scripts, or all checks, queues, rollouts and workers.

use clap::Args;
use comfy_table::Table;
use serde_json::{Value, json};

use super::backend::CommandBackend;
use super::document::ApiDocument;
use super::exit::{CliError, CliExit};
use super::format::format_decimal;
use super::global::{GlobalArgs, OutputFormat};
use super::output::{print_json, print_line, print_table, table_with_headings, verdict_cell};
use super::watch::{WatchArgs, fetch_and_print};
use crate::admin::views::{
    AdviceDocument, CheckDocuments, RolloutSummaryDocument, StatusDocument, TopicDocument,
    WorkerDocument,
};

/// The status of an installation whose checks all pass.
const HEALTHY_STATUS: &str = "healthy";

/// `omnidaemon health`
#[derive(Args)]
pub(super) struct HealthArgs {
    /// Also show the checks, the queues, the rollouts and the workers
    #[arg(long)]
    detailed: bool,
    #[command(flatten)]
    watch_args: WatchArgs,
}

/// The health as it is shown: as JSON with the workers among its fields, and typed.
struct HealthView {
    raw: Value,
    /// None when neither a server nor a shared store answers.
    status: Option<StatusDocument>,
    /// The worker processes, with --detailed.
    workers: Vec<WorkerDocument>,
}

pub(super) async fn run(args: HealthArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let clears_screen = args.detailed && global.format == OutputFormat::Table;
    let fetch = async || fetch_health(&args, global).await;
    let print = |fetched| print_health(&args, global.format, fetched);
    fetch_and_print(&args.watch_args, clears_screen, fetch, print).await
}

async fn fetch_health(args: &HealthArgs, global: &GlobalArgs) -> Result<HealthView, CliError> {
    let backend = CommandBackend::connect(global).await?;
    let ApiDocument { mut raw, view } = backend.fetch_status().await?;
    let mut workers = Vec::new();
    if args.detailed {
        raw["workers"] = match backend.fetch_workers().await {
            Ok(fetched) => {
                workers = fetched.view;
                fetched.raw
            }
            Err(error) => error.to_string().into(),
        };
    }
    Ok(HealthView { raw, status: Some(view), workers })
}

/// Prints the health. An installation that cannot be reached is a result, `unreachable`; wrong
/// arguments and a refused token are errors.
fn print_health(
    args: &HealthArgs,
    format: OutputFormat,
    fetched: Result<HealthView, CliError>,
) -> Result<CliExit, CliError> {
    let health = match fetched {
        Ok(health) => health,
        Err(error @ (CliError::Usage(_) | CliError::AdminRefused { .. }))
            if !args.watch_args.watch =>
        {
            return Err(error);
        }
        Err(error) => {
            eprintln!("{error}");
            let raw = json!({"status": "unreachable"});
            HealthView { raw, status: None, workers: Vec::new() }
        }
    };
    match format {
        OutputFormat::Json => print_json(&health.raw),
        OutputFormat::Table => {
            print_line(health_line(health.status.as_ref()));
            if let Some(status) = health.status.as_ref().filter(|_| args.detailed) {
                print_details(status, &health.workers);
            }
        }
    }
    let is_healthy = health.status.is_some_and(|status| status.status == HEALTHY_STATUS);
    Ok(if is_healthy { CliExit::Ok } else { CliExit::Failed })
}

/// `status=healthy, active_workers=5, queue_depth=0, uptime=24h15m`; without a status,
/// `status=unreachable`.
fn health_line(status: Option<&StatusDocument>) -> String {
    let Some(status) = status else { return "status=unreachable".to_owned() };
    let uptime = status.uptime_seconds;
    let uptime = uptime.map(|seconds| format!(", uptime={}", format_uptime(seconds)));
    format!(
        "status={}, active_workers={}, queue_depth={}{}",
        status.status,
        status.active_workers,
        status.queue_depth,
        uptime.unwrap_or_default()
    )
}

/// The two largest units: `2d4h`, `24h15m`, `3m20s`, `42s`. Days are used from two days on.
fn format_uptime(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{}s", seconds % 60),
        (..48, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{}d{}h", hours / 24, hours % 24),
    }
}

fn print_details(status: &StatusDocument, workers: &[WorkerDocument]) {
    let tables = [
        checks_table(&status.checks),
        advice_table(&status.store_advice),
        topics_table(&status.topics),
        rollouts_table(&status.rollouts),
        workers_table(workers),
    ];
    for table in tables.iter().filter(|table| !table.is_empty()) {
        print_line("");
        print_table(table);
    }
}

fn checks_table(checks: &CheckDocuments) -> Table {
    let mut table = table_with_headings(&["check", "result"]);
    for (name, result, has_passed) in checks.iter() {
        table.add_row([name.into(), verdict_cell(result, has_passed)]);
    }
    table
}

fn advice_table(advice: &[AdviceDocument]) -> Table {
    let mut table = table_with_headings(&["server", "advice", "type"]);
    for advice in advice {
        let commands = advice.run.join("\n");
        table.add_row([&advice.server, &advice.problem, &commands]);
    }
    table
}

fn topics_table(topics: &[TopicDocument]) -> Table {
    let mut table = table_with_headings(&[
        "topic",
        ">queued",
        ">processing",
        ">dead_letters",
        ">oldest_seconds",
    ]);
    for topic in topics {
        table.add_row([
            topic.topic.clone(),
            topic.queued.to_string(),
            topic.processing.to_string(),
            topic.dead_letters.to_string(),
            format_decimal(topic.oldest_seconds),
        ]);
    }
    table
}

fn rollouts_table(rollouts: &[RolloutSummaryDocument]) -> Table {
    let mut table = table_with_headings(&["route", "mode", ">weight", ">percent", "deprecation"]);
    for rollout in rollouts {
        table.add_row([
            rollout.route.clone(),
            rollout.mode.clone(),
            format_decimal(rollout.weight),
            format_decimal(rollout.percent),
            rollout.deprecation.clone(),
        ]);
    }
    table
}

fn workers_table(workers: &[WorkerDocument]) -> Table {
    let mut table = table_with_headings(&["process", ">active", ">busy"]);
    for worker in workers {
        table.add_row([worker.process.clone(), worker.active.to_string(), worker.busy.to_string()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status_document(status: &str) -> StatusDocument {
        StatusDocument { status: status.to_owned(), ..StatusDocument::default() }
    }

    #[test]
    fn the_line_is_the_one_that_the_playbook_shows() {
        let status = StatusDocument {
            active_workers: 5,
            uptime_seconds: Some(87_300),
            ..status_document("healthy")
        };
        assert_eq!(
            health_line(Some(&status)),
            "status=healthy, active_workers=5, queue_depth=0, uptime=24h15m"
        );
        assert_eq!(health_line(None), "status=unreachable");
    }

    #[test]
    fn uptimes_show_their_two_largest_units() {
        let shown = [0, 42, 60, 3599, 3600, 172_799, 172_800, 190_000].map(format_uptime);
        assert_eq!(shown, ["0s", "42s", "1m0s", "59m59s", "1h0m", "47h59m", "2d0h", "2d4h"]);
    }

    #[test]
    fn only_healthy_ends_with_status_0() {
        let watch_args = WatchArgs { watch: false, interval: Duration::from_secs(1) };
        let args = HealthArgs { detailed: false, watch_args };
        let exit = |fetched| print_health(&args, OutputFormat::Table, fetched).ok();
        let exit_of = |status: &str| {
            let status = Some(status_document(status));
            exit(Ok(HealthView { raw: Value::Null, status, workers: Vec::new() }))
        };
        assert_eq!(exit_of("healthy"), Some(CliExit::Ok));
        for status in ["degraded", "starting", "draining"] {
            assert_eq!(exit_of(status), Some(CliExit::Failed), "{status}");
        }
        let unreachable = CliError::Unreachable { address: "a".into(), reason: "r".into() };
        assert_eq!(exit(Err(unreachable)), Some(CliExit::Failed));
    }
}
