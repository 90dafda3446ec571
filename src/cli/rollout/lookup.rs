//! Fetches the rollout that a command is about: of the named route, or of the only route.

use clap::Args;

use crate::admin::views::RolloutDocument;
use crate::cli::client::AdminClient;
use crate::cli::document::ApiDocument;
use crate::cli::exit::CliError;

/// The argument of a command about one route.
#[derive(Args)]
pub(in crate::cli) struct RolloutRouteArgs {
    /// The route; not needed when there is only one
    pub(super) route: Option<String>,
}

/// All rollouts: `GET /admin/v1/rollouts`.
pub(super) async fn fetch_rollouts(
    client: &AdminClient,
) -> Result<Vec<ApiDocument<RolloutDocument>>, CliError> {
    let rollouts: ApiDocument<Vec<RolloutDocument>> =
        ApiDocument::parse(client.get("rollouts").await?)?;
    Ok(rollouts.into_items())
}

/// The rollout of a route; without a name, of the only route. An error names the routes that exist.
pub(super) async fn fetch_rollout(
    client: &AdminClient,
    route: Option<&str>,
) -> Result<ApiDocument<RolloutDocument>, CliError> {
    let mut rollouts = fetch_rollouts(client).await?;
    let names = |rollouts: &[ApiDocument<RolloutDocument>]| {
        let names = rollouts.iter().map(|rollout| rollout.view.summary.route.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    match route {
        Some(name) => {
            match rollouts.iter().position(|rollout| rollout.view.summary.route == name) {
                Some(index) => Ok(rollouts.swap_remove(index)),
                None => Err(CliError::NotFound(format!(
                    "there is no route {name:?}; the routes are: {}",
                    names(&rollouts)
                ))),
            }
        }
        None if rollouts.len() == 1 => Ok(rollouts.remove(0)),
        None if rollouts.is_empty() => {
            Err(CliError::NotFound("the configuration has no route".into()))
        }
        None => Err(CliError::Usage(format!("name a route; the routes are: {}", names(&rollouts)))),
    }
}
