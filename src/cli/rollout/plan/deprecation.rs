//! The warning for a file that makes a route answer 410: the clients that called it recently.

use crate::admin::views::{ClientDocument, RolloutDocument};
use crate::cli::client::AdminClient;
use crate::cli::exit::CliError;
use crate::cli::rollout::clients::fetch_clients;
use crate::config::{DeprecationMode, RouteConfig};
use crate::store::{DeprecatedCaller, RECENT_CALL_DAYS, summarize_recent_callers};
use crate::task::UnixMs;

/// A warning when the file makes a running route `gone` although clients called it recently, or
/// although its callers were never recorded.
pub(super) async fn gone_warning(
    route: &RouteConfig,
    running: Option<&RolloutDocument>,
    client: &AdminClient,
) -> Result<Option<String>, CliError> {
    let Some(running) = running else { return Ok(None) };
    let running_mode = running.summary.deprecation.as_str();
    let becomes_gone = route.deprecation.mode == DeprecationMode::Gone
        && running_mode != DeprecationMode::Gone.as_str();
    if !becomes_gone {
        return Ok(None);
    }
    if running_mode == DeprecationMode::None.as_str() {
        let warning = "warning: its callers were not recorded so far: \
                       let `mode: announce` run for some days first";
        return Ok(Some(warning.to_owned()));
    }
    let callers = fetch_clients(client, &route.name).await?.view.clients;
    let callers: Vec<DeprecatedCaller> = callers.iter().map(deprecated_caller).collect();
    let (count, names) = summarize_recent_callers(&callers, jiff::Timestamp::now().into());
    let warning = format!(
        "warning: {count} clients called it in the last {RECENT_CALL_DAYS} days and would get 410: \
         {names}"
    );
    Ok((count > 0).then_some(warning))
}

fn deprecated_caller(document: &ClientDocument) -> DeprecatedCaller {
    DeprecatedCaller {
        name: document.client.clone(),
        call_count: document.calls,
        last_called_at: UnixMs(document.last_call_ms),
    }
}
