//! `rollout clients`: the clients that still call a deprecated route.

use super::lookup::{RolloutRouteArgs, fetch_rollout};
use crate::admin::views::ClientsDocument;
use crate::cli::client::AdminClient;
use crate::cli::document::ApiDocument;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::format::format_utc_seconds;
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_table, table_with_headings};
use crate::config::DeprecationMode;

pub(super) async fn run(args: &RolloutRouteArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let client = AdminClient::new(global)?;
    let rollout = fetch_rollout(&client, args.route.as_deref()).await?.view.summary;
    let route = rollout.route;
    let callers = fetch_clients(&client, &route).await?;
    let is_deprecated = rollout.deprecation != DeprecationMode::None.as_str();
    match global.format {
        OutputFormat::Json => print_json(&callers.raw),
        OutputFormat::Table if callers.view.clients.is_empty() && !is_deprecated => {
            eprintln!(
                "{route} is not deprecated, so its callers are not recorded: \
                 set deprecation.mode: announce to record them"
            );
        }
        OutputFormat::Table if callers.view.clients.is_empty() => {
            eprintln!("no recent calls of {route} are recorded");
        }
        OutputFormat::Table => {
            let mut table = table_with_headings(&["client", ">calls", "last call"]);
            for caller in callers.view.clients {
                table.add_row([
                    caller.client,
                    caller.calls.to_string(),
                    format_utc_seconds(Some(caller.last_call_ms)),
                ]);
            }
            print_table(&table);
        }
    }
    Ok(CliExit::Ok)
}

/// The callers of a deprecated route: `GET /admin/v1/rollouts/{route}/clients`.
pub(super) async fn fetch_clients(
    client: &AdminClient,
    route: &str,
) -> Result<ApiDocument<ClientsDocument>, CliError> {
    ApiDocument::parse(client.get(&format!("rollouts/{route}/clients")).await?)
}
