//! `omnidaemon metrics`: the server's counters since its start, as `name=value` lines for scripts
//! and as tables by topic and by path.
//!
//! The numbers come from `/metrics`. They are collected in one JSON document, which `--format json`
//! prints and the tables are made from.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::{Value, json};

use super::client::AdminClient;
use super::exit::{CliError, CliExit};
use super::global::{GlobalArgs, OutputFormat};
use super::output::{format_field, print_json, print_line, print_table, table_with_headings};
use super::scrape::MetricsScrape;
use super::watch::{WatchArgs, fetch_and_print};
use crate::metrics::names;
use crate::rollout::format::format_share;

/// `omnidaemon metrics`
#[derive(Args)]
pub(super) struct MetricsArgs {
    /// Only the numbers of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Also show durations by path, and the workers
    #[arg(long)]
    detailed: bool,
    #[command(flatten)]
    watch_args: WatchArgs,
}

pub(super) async fn run(args: MetricsArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    let clears_screen = global.format == OutputFormat::Table;
    let fetch = async || fetch_metrics(&client, &args).await;
    let print = |fetched: Result<Value, CliError>| {
        match fetched {
            Ok(counts) => print_metrics(&counts, &args, global.format),
            Err(error @ CliError::Unreachable { .. }) if args.watch_args.watch => {
                eprintln!("{error}");
            }
            Err(error) => return Err(error),
        }
        Ok(CliExit::Ok)
    };
    fetch_and_print(&args.watch_args, clears_screen, fetch, print).await
}

async fn fetch_metrics(client: &AdminClient, args: &MetricsArgs) -> Result<Value, CliError> {
    let scrape = MetricsScrape::parse(&client.get_text("metrics").await?);
    let known = scrape.label_values(names::QUEUE_DEPTH, "topic");
    let selected: BTreeSet<String> = match &args.topic {
        Some(topic) if !known.contains(topic) => {
            return Err(CliError::NotFound(format!(
                "there is no topic {topic:?} in the configuration"
            )));
        }
        Some(topic) => [topic.clone()].into(),
        None => known,
    };
    let topics: Vec<Value> = selected.iter().map(|topic| count_topics(&scrape, &[topic])).collect();
    let all: Vec<&String> = selected.iter().collect();
    let mut counts = count_topics(&scrape, &all);
    counts["topics"] = topics.into();
    if args.topic.is_none() {
        let routes = scrape.label_values(names::ROLLOUT_WEIGHT, "route");
        counts["routes"] = routes.iter().map(|route| count_route(&scrape, route)).collect();
    }
    if args.detailed {
        counts["workers"] = client.get("workers").await?;
    }
    Ok(counts)
}

/// The counts of the tasks of some topics, added up. For a single topic also its name and the age
/// of its oldest waiting task.
fn count_topics(scrape: &MetricsScrape, topics: &[&String]) -> Value {
    let sum = |name: &str| -> f64 {
        topics.iter().filter_map(|topic| scrape.sum(name, &[("topic", topic.as_str())])).sum()
    };
    let (processed, failed) = (sum(names::TASKS_PROCESSED), sum(names::TASKS_FAILED));
    let attempts = sum(&format!("{}_count", names::PROCESSING_DURATION));
    let duration_sum = sum(&format!("{}_sum", names::PROCESSING_DURATION));
    let mut counts = json!({
        "received": whole_number(sum(names::TASKS_RECEIVED)),
        "processed": whole_number(processed),
        "failed": whole_number(failed),
        "failure_rate": divide_if_counted(failed, processed + failed),
        "queue_depth": whole_number(sum(names::QUEUE_DEPTH)),
        "avg_duration_seconds": divide_if_counted(duration_sum, attempts),
    });
    if let [topic] = topics {
        counts["topic"] = topic.as_str().into();
        counts["oldest_seconds"] = sum(names::QUEUE_OLDEST).into();
    }
    counts
}

/// The weight of a route, and the counts of its requests on each path.
fn count_route(scrape: &MetricsScrape, route: &str) -> Value {
    let percent = |name| scrape.sum(name, &[("route", route)]);
    let paths = ["sync", "async"].map(|path| {
        let labels = [("route", route), ("path", path)];
        let with_code_class = |first_digit: char| {
            scrape.sum_where(names::REQUESTS, |series| {
                let is_of_path = labels
                    .iter()
                    .all(|(label, value)| series.get(*label).is_some_and(|own| own == value));
                is_of_path && series.get("code").is_some_and(|code| code.starts_with(first_digit))
            })
        };
        let requests = scrape.sum(names::REQUESTS, &labels).unwrap_or_default();
        let duration_sum =
            scrape.sum(&format!("{}_sum", names::REQUEST_DURATION), &labels).unwrap_or_default();
        let duration_count =
            scrape.sum(&format!("{}_count", names::REQUEST_DURATION), &labels).unwrap_or_default();
        let server_errors = with_code_class('5').unwrap_or_default();
        let client_errors = with_code_class('4').unwrap_or_default();
        json!({
            "path": path,
            "requests": whole_number(requests),
            "error_rate": divide_if_counted(server_errors, requests),
            "client_error_rate": divide_if_counted(client_errors, requests),
            "avg_duration_seconds": divide_if_counted(duration_sum, duration_count),
        })
    });
    json!({
        "route": route,
        "weight": percent(names::ROLLOUT_WEIGHT),
        "percent": percent(names::ROLLOUT_PERCENT),
        "paths": paths,
    })
}

fn print_metrics(counts: &Value, args: &MetricsArgs, format: OutputFormat) {
    if format == OutputFormat::Json {
        return print_json(counts);
    }
    // Each line is a shell assignment, so that a script can compute with it:
    // `$(( $(omnidaemon metrics | grep processed) / 24 ))`.
    for field in ["received", "processed", "failed"] {
        print_line(format_args!("{field}={}", format_field(&counts[field])));
    }
    print_line(format_args!("failure_rate={}", format_rate(&counts["failure_rate"])));
    print_line(format_args!("queue_depth={}", format_field(&counts["queue_depth"])));
    print_line(format_args!("avg_duration={}", format_seconds(&counts["avg_duration_seconds"])));
    let mut tables = vec![topics_table(counts)];
    if args.topic.is_none() {
        tables.push(paths_table(counts, args.detailed));
    }
    if args.detailed {
        tables.push(workers_table(counts));
    }
    for table in tables.iter().filter(|table| !table.is_empty()) {
        print_line("");
        print_table(table);
    }
}

fn topics_table(counts: &Value) -> comfy_table::Table {
    let headings = [
        "topic",
        ">received",
        ">processed",
        ">failed",
        ">failure rate",
        ">queued",
        ">oldest",
        ">avg duration",
    ];
    let mut rows = table_with_headings(&headings);
    for topic in counts["topics"].as_array().into_iter().flatten() {
        let [name, received, processed, failed, queued] =
            ["topic", "received", "processed", "failed", "queue_depth"]
                .map(|field| format_field(&topic[field]));
        let (oldest, duration) = (
            format_seconds(&topic["oldest_seconds"]),
            format_seconds(&topic["avg_duration_seconds"]),
        );
        rows.add_row([
            name,
            received,
            processed,
            failed,
            format_rate(&topic["failure_rate"]),
            queued,
            oldest,
            duration,
        ]);
    }
    rows
}

fn paths_table(counts: &Value, detailed: bool) -> comfy_table::Table {
    let mut headings = vec!["route", ">weight", "path", ">requests", ">5xx", ">4xx"];
    if detailed {
        headings.push(">avg duration");
    }
    let mut rows = table_with_headings(&headings);
    for route in counts["routes"].as_array().into_iter().flatten() {
        for path in route["paths"].as_array().into_iter().flatten() {
            let mut row = vec![
                format_field(&route["route"]),
                format!("{} %", format_field(&route["weight"])),
                format_field(&path["path"]),
                format_field(&path["requests"]),
                format_rate(&path["error_rate"]),
                format_rate(&path["client_error_rate"]),
            ];
            if detailed {
                row.push(format_seconds(&path["avg_duration_seconds"]));
            }
            rows.add_row(row);
        }
    }
    rows
}

fn workers_table(counts: &Value) -> comfy_table::Table {
    let mut rows = table_with_headings(&["process", ">active", ">busy"]);
    for worker in counts["workers"].as_array().into_iter().flatten() {
        rows.add_row(["process", "active", "busy"].map(|field| format_field(&worker[field])));
    }
    rows
}

/// A share as a percentage; `-` when nothing was counted.
fn format_rate(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), format_share)
}

fn format_seconds(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(|| "-".to_owned(), |seconds| format!("{}s", format_field(&seconds.into())))
}

/// The quotient; none when the total is 0.
fn divide_if_counted(part: f64, total: f64) -> Option<f64> {
    (total > 0.0).then(|| part / total)
}

/// A count as a whole number.
fn whole_number(count: f64) -> Value {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts stay far below 2^53
    let count = count.max(0.0) as u64;
    count.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPOSITION: &str = "\
omnidaemon_queue_depth{topic=\"a\"} 3
omnidaemon_queue_depth{topic=\"b\"} 0
omnidaemon_tasks_received_total{topic=\"a\"} 1250
omnidaemon_tasks_processed_total{topic=\"a\"} 1225
omnidaemon_tasks_failed_total{topic=\"a\"} 22
omnidaemon_processing_duration_seconds_sum{topic=\"a\"} 90
omnidaemon_processing_duration_seconds_count{topic=\"a\"} 2
omnidaemon_rollout_weight{route=\"invoke\"} 10
omnidaemon_requests_total{code=\"200\",path=\"sync\",route=\"invoke\"} 90
omnidaemon_requests_total{code=\"502\",path=\"sync\",route=\"invoke\"} 10
";

    #[test]
    fn topics_are_counted_alone_and_together() {
        let scrape = MetricsScrape::parse(EXPOSITION);
        let [a, b] = ["a".to_owned(), "b".to_owned()];
        let all = count_topics(&scrape, &[&a, &b]);
        assert_eq!((&all["processed"], &all["queue_depth"]), (&json!(1225), &json!(3)));
        assert_eq!(
            (format_rate(&all["failure_rate"]), format_seconds(&all["avg_duration_seconds"])),
            ("1.8 %".into(), "45s".into())
        );
        let none = count_topics(&scrape, &[&b]);
        assert_eq!(
            (format_rate(&none["failure_rate"]), format_seconds(&none["avg_duration_seconds"])),
            ("-".into(), "-".into())
        );
    }

    #[test]
    fn a_route_is_counted_by_path() {
        let route = count_route(&MetricsScrape::parse(EXPOSITION), "invoke");
        assert_eq!(
            (&route["weight"], &route["paths"][0]["error_rate"]),
            (&json!(10.0), &json!(0.1))
        );
        assert_eq!(route["paths"][1]["requests"], 0);
    }
}
