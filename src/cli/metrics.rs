//! `omnidaemon metrics`: what the server has counted since it started, as lines to grep and tables to read.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::client::Client;
use super::exit::{CliError, Exit};
use super::global::{Format, Global};
use super::output::{line, print, print_json, table, text};
use super::scrape::Scrape;
use crate::metrics::names;
use crate::rollout::words::share;

/// `omnidaemon metrics`
#[derive(Args)]
pub(super) struct MetricsArgs {
    /// One topic alone
    #[arg(long)]
    topic: Option<String>,
    /// Also show durations by path, and the workers
    #[arg(long)]
    detailed: bool,
    /// Look again and again, until interrupted
    #[arg(long)]
    watch: bool,
    /// How often --watch looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
}

pub(super) async fn run(args: MetricsArgs, global: &Global) -> Result<Exit, CliError> {
    let client = Client::new(global)?;
    loop {
        let seen = look(&client, &args).await;
        if args.watch && global.format == Format::Table && stdout().is_terminal() {
            print!("\x1b[2J\x1b[H"); // a new page
        }
        match seen {
            Ok(seen) => show(&seen, &args, global.format),
            Err(error @ CliError::Unreachable { .. }) if args.watch => eprintln!("{error}"),
            Err(error) => return Err(error),
        }
        if !args.watch {
            return Ok(Exit::Ok);
        }
        sleep(args.interval.max(Duration::from_millis(100))).await;
    }
}

async fn look(client: &Client, args: &MetricsArgs) -> Result<Value, CliError> {
    let scrape = Scrape::parse(&client.text("metrics").await?);
    let known = scrape.values(names::QUEUE_DEPTH, "topic");
    let wanted: BTreeSet<String> = match &args.topic {
        Some(topic) if !known.contains(topic) => {
            return Err(CliError::NotFound(format!("there is no topic {topic:?} in the configuration")));
        }
        Some(topic) => [topic.clone()].into(),
        None => known,
    };
    let topics: Vec<Value> = wanted.iter().map(|topic| counted(&scrape, &[topic])).collect();
    let all: Vec<&String> = wanted.iter().collect();
    let mut seen = counted(&scrape, &all);
    seen["topics"] = topics.into();
    if args.topic.is_none() {
        let routes = scrape.values(names::ROLLOUT_WEIGHT, "route");
        seen["routes"] = routes.iter().map(|route| of_route(&scrape, route)).collect();
    }
    if args.detailed {
        seen["workers"] = client.get("workers").await?;
    }
    Ok(seen)
}

/// What was counted of some topics together.
fn counted(scrape: &Scrape, topics: &[&String]) -> Value {
    let sum =
        |name: &str| -> f64 { topics.iter().filter_map(|topic| scrape.sum(name, &[("topic", topic.as_str())])).sum() };
    let (processed, failed) = (sum(names::TASKS_PROCESSED), sum(names::TASKS_FAILED));
    let attempts = sum(&format!("{}_count", names::PROCESSING_DURATION));
    let took = sum(&format!("{}_sum", names::PROCESSING_DURATION));
    let mut counted = json!({
        "received": whole(sum(names::TASKS_RECEIVED)),
        "processed": whole(processed),
        "failed": whole(failed),
        "failure_rate": quotient(failed, processed + failed),
        "queue_depth": whole(sum(names::QUEUE_DEPTH)),
        "avg_duration_seconds": quotient(took, attempts),
    });
    if let [topic] = topics {
        counted["topic"] = topic.as_str().into();
        counted["oldest_seconds"] = sum(names::QUEUE_OLDEST).into();
    }
    counted
}

fn of_route(scrape: &Scrape, route: &str) -> Value {
    let percent = |name| scrape.sum(name, &[("route", route)]);
    let paths = ["sync", "async"].map(|path| {
        let labels = [("route", route), ("path", path)];
        let with_code = |first: char| {
            scrape.sum_where(names::REQUESTS, |of| {
                let is_it = labels.iter().all(|(label, value)| of.get(*label).is_some_and(|has| has == value));
                is_it && of.get("code").is_some_and(|code| code.starts_with(first))
            })
        };
        let requests = scrape.sum(names::REQUESTS, &labels).unwrap_or_default();
        let took = scrape.sum(&format!("{}_sum", names::REQUEST_DURATION), &labels).unwrap_or_default();
        let timed = scrape.sum(&format!("{}_count", names::REQUEST_DURATION), &labels).unwrap_or_default();
        json!({
            "path": path,
            "requests": whole(requests),
            "error_rate": quotient(with_code('5').unwrap_or_default(), requests),
            "client_error_rate": quotient(with_code('4').unwrap_or_default(), requests),
            "avg_duration_seconds": quotient(took, timed),
        })
    });
    json!({
        "route": route,
        "weight": percent(names::ROLLOUT_WEIGHT),
        "percent": percent(names::ROLLOUT_PERCENT),
        "paths": paths,
    })
}

fn show(seen: &Value, args: &MetricsArgs, format: Format) {
    if format == Format::Json {
        return print_json(seen);
    }
    // One name and number a line: `$(( $(omnidaemon metrics | grep processed) / 24 ))` is arithmetic in a shell.
    for field in ["received", "processed", "failed"] {
        line(format_args!("{field}={}", text(&seen[field])));
    }
    line(format_args!("failure_rate={}", rate(&seen["failure_rate"])));
    line(format_args!("queue_depth={}", text(&seen["queue_depth"])));
    line(format_args!("avg_duration={}", seconds(&seen["avg_duration_seconds"])));
    let mut tables = vec![topics(seen)];
    if args.topic.is_none() {
        tables.push(paths(seen, args.detailed));
    }
    if args.detailed {
        tables.push(workers(seen));
    }
    for table in tables.iter().filter(|table| !table.is_empty()) {
        line("");
        print(table);
    }
}

fn topics(seen: &Value) -> comfy_table::Table {
    let headings =
        ["topic", ">received", ">processed", ">failed", ">failure rate", ">queued", ">oldest", ">avg duration"];
    let mut rows = table(&headings);
    for topic in seen["topics"].as_array().into_iter().flatten() {
        let [name, received, processed, failed, queued] =
            ["topic", "received", "processed", "failed", "queue_depth"].map(|field| text(&topic[field]));
        let (oldest, took) = (seconds(&topic["oldest_seconds"]), seconds(&topic["avg_duration_seconds"]));
        rows.add_row([name, received, processed, failed, rate(&topic["failure_rate"]), queued, oldest, took]);
    }
    rows
}

fn paths(seen: &Value, detailed: bool) -> comfy_table::Table {
    let mut headings = vec!["route", ">weight", "path", ">requests", ">5xx", ">4xx"];
    if detailed {
        headings.push(">avg duration");
    }
    let mut rows = table(&headings);
    for route in seen["routes"].as_array().into_iter().flatten() {
        for path in route["paths"].as_array().into_iter().flatten() {
            let mut row = vec![
                text(&route["route"]),
                format!("{} %", text(&route["weight"])),
                text(&path["path"]),
                text(&path["requests"]),
                rate(&path["error_rate"]),
                rate(&path["client_error_rate"]),
            ];
            if detailed {
                row.push(seconds(&path["avg_duration_seconds"]));
            }
            rows.add_row(row);
        }
    }
    rows
}

fn workers(seen: &Value) -> comfy_table::Table {
    let mut rows = table(&["process", ">active", ">busy"]);
    for worker in seen["workers"].as_array().into_iter().flatten() {
        rows.add_row(["process", "active", "busy"].map(|field| text(&worker[field])));
    }
    rows
}

/// A share, as people read it; nothing where nothing was counted.
fn rate(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), share)
}

fn seconds(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("{}s", text(&seconds.into())))
}

fn quotient(part: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| part / of)
}

/// A count as a whole number.
fn whole(count: f64) -> Value {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts stay far below 2^53
    let count = count.max(0.0) as u64;
    count.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
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
        let scrape = Scrape::parse(TEXT);
        let [a, b] = ["a".to_owned(), "b".to_owned()];
        let all = counted(&scrape, &[&a, &b]);
        assert_eq!((&all["processed"], &all["queue_depth"]), (&json!(1225), &json!(3)));
        assert_eq!((rate(&all["failure_rate"]), seconds(&all["avg_duration_seconds"])), ("1.8 %".into(), "45s".into()));
        let none = counted(&scrape, &[&b]);
        assert_eq!((rate(&none["failure_rate"]), seconds(&none["avg_duration_seconds"])), ("-".into(), "-".into()));
    }

    #[test]
    fn a_route_is_counted_by_path() {
        let route = of_route(&Scrape::parse(TEXT), "invoke");
        assert_eq!((&route["weight"], &route["paths"][0]["error_rate"]), (&json!(10.0), &json!(0.1)));
        assert_eq!(route["paths"][1]["requests"], 0);
    }
}
