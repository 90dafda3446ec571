//! `rollout history`: the recorded events of a rollout, each with its actor and reason.

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
use crate::cli::paging::fetch_pages;

/// `omnidaemon rollout history`
#[derive(Args)]
pub(in crate::cli) struct RolloutHistoryArgs {
    /// The route; not needed when there is only one
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

/// The newest events of a route, up to `limit`.
async fn fetch_events(
    client: &AdminClient,
    route: &str,
    limit: usize,
) -> Result<Vec<Value>, CliError> {
    fetch_pages(limit, async |before: Option<String>, page_size: usize| {
        let before = before.map(|cursor| format!("&before={cursor}")).unwrap_or_default();
        let path = format!("rollouts/{route}/history?limit={page_size}{before}");
        fetch_event_page(client, &path).await
    })
    .await
}

/// A page of events, and the cursor of the next page.
async fn fetch_event_page(
    client: &AdminClient,
    path: &str,
) -> Result<(Vec<Value>, Option<String>), CliError> {
    let page: ApiDocument<HistoryPageDocument> = ApiDocument::parse(client.get(path).await?)?;
    Ok((page.view.events, page.view.next))
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
