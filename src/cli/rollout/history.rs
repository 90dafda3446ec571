//! What was done to a rollout, and who still calls a deprecated route.

use clap::Args;
use serde_json::Value;

use super::{RouteArgs, find};
use crate::cli::client::Client;
use crate::cli::exit::{CliError, Exit};
use crate::cli::global::{Format, Global};
use crate::cli::output::{print, print_json, table, text};

/// The most entries that are asked for at a time.
const PAGE: usize = 500;

/// `omnidaemon rollout history`
#[derive(Args)]
pub(in crate::cli) struct HistoryArgs {
    /// The route; may be left out where there is one
    route: Option<String>,
    /// At most so many, newest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(super) async fn run(args: HistoryArgs, global: &Global) -> Result<Exit, CliError> {
    let client = Client::new(global)?;
    let route = text(&find(&client, args.route.as_deref()).await?["route"]);
    let mut events: Vec<Value> = Vec::new();
    let mut before = String::new();
    while events.len() < args.limit {
        let limit = (args.limit - events.len()).min(PAGE);
        let mut page = client.get(&format!("rollouts/{route}/history?limit={limit}{before}")).await?;
        events.append(page["events"].as_array_mut().unwrap_or(&mut Vec::new()));
        let Some(next) = page["next"].as_str() else { break };
        before = format!("&before={next}");
    }
    match global.format {
        Format::Json => print_json(&events.into()),
        Format::Table if events.is_empty() => eprintln!("nothing was done to {route} yet"),
        Format::Table => people(&events),
    }
    Ok(Exit::Ok)
}

fn people(events: &[Value]) {
    let mut rows = table(&["at", "event", ">from", ">to", "phase", "by", "reason"]);
    for event in events {
        let percent = |field: &str| format!("{} %", text(&event[field]));
        let [name, phase, by, reason] = ["event", "phase", "by", "reason"].map(|field| text(&event[field]));
        rows.add_row([time(&event["at_ms"]), name, percent("from"), percent("to"), phase, by, reason]);
    }
    print(&rows);
}

pub(super) async fn clients(args: &RouteArgs, global: &Global) -> Result<Exit, CliError> {
    let client = Client::new(global)?;
    let rollout = find(&client, args.route.as_deref()).await?;
    let route = text(&rollout["route"]);
    let callers = client.get(&format!("rollouts/{route}/clients")).await?;
    let rows = callers["clients"].as_array().map(Vec::as_slice).unwrap_or_default();
    match global.format {
        Format::Json => print_json(&callers),
        Format::Table if rows.is_empty() && rollout["deprecation"] == "none" => {
            eprintln!("{route} is not deprecated, so its callers are not noted: deprecation.mode: announce begins it");
        }
        Format::Table if rows.is_empty() => eprintln!("nobody called {route} lately"),
        Format::Table => {
            let mut listed = table(&["client", ">calls", "last call"]);
            for row in rows {
                listed.add_row([text(&row["client"]), text(&row["calls"]), time(&row["last_call_ms"])]);
            }
            print(&listed);
        }
    }
    Ok(Exit::Ok)
}

/// A time in milliseconds as people read it, in UTC, to the second.
fn time(ms: &Value) -> String {
    let time = ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"))
}
