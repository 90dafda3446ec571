//! `rollout explain`: why a rollout is in its present state, and what would change it.

use serde_json::Value;

use super::lookup::{RolloutRouteArgs, fetch_rollout};
use crate::cli::client::AdminClient;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::global::{GlobalArgs, OutputFormat};
use crate::cli::output::{print_json, print_line};

/// The fields of the rollout's document that `--format json` prints.
const EXPLANATION_FIELDS: [&str; 6] =
    ["route", "waiting_for", "explain", "to_do", "countdown", "pauses_in"];

pub(super) async fn run(args: &RolloutRouteArgs, global: &GlobalArgs) -> Result<CliExit, CliError> {
    let rollout = fetch_rollout(&AdminClient::new(global)?, args.route.as_deref()).await?;
    match global.format {
        OutputFormat::Json => {
            let field = |name: &&str| ((*name).to_owned(), rollout.raw[*name].clone());
            print_json(&EXPLANATION_FIELDS.iter().map(field).collect::<Value>());
        }
        OutputFormat::Table => {
            let details = rollout.view.details.as_ref();
            print_line(details.map_or("-", |details| details.explain.as_str()));
        }
    }
    Ok(CliExit::Ok)
}
