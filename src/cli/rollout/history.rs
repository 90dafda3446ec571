//! `rollout history`: what was done to a rollout, by whom and why.

use clap::Args;
use serde_json::Value;

use super::lookup::fetch_rollout;
use crate::admin::views::{HistoryEventDocument, HistoryPageDocument};
use crate::cli::client::AdminClient;
use crate::cli::document::ApiDocument;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::format::{format_decimal, format_optional, format_utc_seconds};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_table, table_with_headings};

/// Events of one request.
const EVENT_PAGE_SIZE: usize = 500;

/// `omnidaemon rollout history`
#[derive(Args)]
pub(in crate::cli) struct RolloutHistoryArgs {
    /// The route; may be left out where there is one
    route: Option<String>,
    /// The most events to list, newest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(super) async fn run(
    args: RolloutHistoryArgs,
    global: &GlobalArgs,
) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    let route = fetch_rollout(&client, args.route.as_deref()).await?.view.summary.route;
    let events = fetch_events(&client, &route, args.limit).await?;
    match global.format {
        OutputFormat::Json => print_json(&Value::Array(events)),
        OutputFormat::Table if events.is_empty() => {
            eprintln!("{route} has no recorded events yet");
        }
        OutputFormat::Table => print_events(events)?,
    }
    Ok(CliExit::Ok)
}

/// The newest events, page by page up to `limit`.
async fn fetch_events(
    client: &AdminClient,
    route: &str,
    limit: usize,
) -> Result<Vec<Value>, CliError> {
    let mut events: Vec<Value> = Vec::new();
    let mut before = String::new();
    while events.len() < limit {
        let page_size = (limit - events.len()).min(EVENT_PAGE_SIZE);
        let path = format!("rollouts/{route}/history?limit={page_size}{before}");
        let page: ApiDocument<HistoryPageDocument> = ApiDocument::parse(client.get(&path).await?)?;
        events.extend(page.view.events);
        let Some(next) = page.view.next else { break };
        before = format!("&before={next}");
    }
    Ok(events)
}

fn print_events(events: Vec<Value>) -> Result<(), CliError> {
    let mut table = table_with_headings(&["at", "event", ">from", ">to", "phase", "by", "reason"]);
    for event in events {
        let event: HistoryEventDocument = ApiDocument::parse(event)?.view;
        let percent =
            |weight: Option<f64>| format!("{} %", format_optional(weight.map(format_decimal)));
        table.add_row([
            format_utc_seconds(event.at_ms),
            format_optional(event.event),
            percent(event.from),
            percent(event.to),
            format_optional(event.phase),
            format_optional(event.by),
            format_optional(event.reason),
        ]);
    }
    print_table(&table);
    Ok(())
}
