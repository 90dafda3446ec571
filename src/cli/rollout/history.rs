//! What was done to a rollout, and who still calls a deprecated route.

use clap::Args;
use serde_json::Value;

use super::{RolloutRouteArgs, fetch_rollout};
use crate::cli::client::AdminClient;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{format_field, print_json, print_table, table_with_headings};

/// The most entries that are asked for at a time.
const EVENT_PAGE_SIZE: usize = 500;

/// `omnidaemon rollout history`
#[derive(Args)]
pub(in crate::cli) struct RolloutHistoryArgs {
    /// The route; may be left out where there is one
    route: Option<String>,
    /// At most so many, newest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(super) async fn run(
    args: RolloutHistoryArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    let route = format_field(&fetch_rollout(&client, args.route.as_deref()).await?["route"]);
    let mut events: Vec<Value> = Vec::new();
    let mut before = String::new();
    while events.len() < args.limit {
        let limit = (args.limit - events.len()).min(EVENT_PAGE_SIZE);
        let mut page =
            client.get(&format!("rollouts/{route}/history?limit={limit}{before}")).await?;
        events.append(page["events"].as_array_mut().unwrap_or(&mut Vec::new()));
        let Some(next) = page["next"].as_str() else { break };
        before = format!("&before={next}");
    }
    match global.format {
        OutputFormat::Json => print_json(&events.into()),
        OutputFormat::Table if events.is_empty() => eprintln!("nothing was done to {route} yet"),
        OutputFormat::Table => print_events(&events),
    }
    Ok(CliExit::Ok)
}

fn print_events(events: &[Value]) {
    let mut rows = table_with_headings(&["at", "event", ">from", ">to", "phase", "by", "reason"]);
    for event in events {
        let percent = |field: &str| format!("{} %", format_field(&event[field]));
        let [name, phase, by, reason] =
            ["event", "phase", "by", "reason"].map(|field| format_field(&event[field]));
        rows.add_row([
            format_utc_seconds(&event["at_ms"]),
            name,
            percent("from"),
            percent("to"),
            phase,
            by,
            reason,
        ]);
    }
    print_table(&rows);
}

pub(super) async fn print_clients(
    args: &RolloutRouteArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    let rollout = fetch_rollout(&client, args.route.as_deref()).await?;
    let route = format_field(&rollout["route"]);
    let callers = client.get(&format!("rollouts/{route}/clients")).await?;
    let rows = callers["clients"].as_array().map(Vec::as_slice).unwrap_or_default();
    match global.format {
        OutputFormat::Json => print_json(&callers),
        OutputFormat::Table if rows.is_empty() && rollout["deprecation"] == "none" => {
            eprintln!(
                "{route} is not deprecated, so its callers are not noted: deprecation.mode: announce begins it"
            );
        }
        OutputFormat::Table if rows.is_empty() => eprintln!("nobody called {route} lately"),
        OutputFormat::Table => {
            let mut listed = table_with_headings(&["client", ">calls", "last call"]);
            for row in rows {
                listed.add_row([
                    format_field(&row["client"]),
                    format_field(&row["calls"]),
                    format_utc_seconds(&row["last_call_ms"]),
                ]);
            }
            print_table(&listed);
        }
    }
    Ok(CliExit::Ok)
}

/// A time in milliseconds as people read it, in UTC, to the second.
fn format_utc_seconds(ms: &Value) -> String {
    let time = ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"))
}
