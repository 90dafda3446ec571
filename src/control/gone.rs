//! Warns when a route is `gone` that somebody called lately: at start, and when an edit makes it
//! so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::DeprecationMode;
use crate::snapshot::SnapshotHandle;
use crate::store::{Circuit, DeprecatedCaller, RECENT_CALL_DAYS, summarize_recent_callers};
use crate::task::UnixMs;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks after the configured routes until `shutdown`.
pub async fn warn_of_gone_routes(
    snapshots: Arc<SnapshotHandle>,
    circuit: Arc<Circuit>,
    shutdown: CancellationToken,
) {
    let mut known: BTreeMap<String, DeprecationMode> = BTreeMap::new();
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let config = snapshots.load().config.clone();
        for route in &config.routes {
            let mode = route.deprecation.mode;
            if mode == DeprecationMode::Gone && known.get(&route.name) != Some(&mode) {
                // while the store is gone: at the next look
                let Ok(callers) =
                    circuit.call(circuit.store().list_deprecated_callers(&route.name)).await
                else {
                    continue;
                };
                warn_recent_callers(&route.name, &callers, jiff::Timestamp::now().into());
            }
            known.insert(route.name.clone(), mode);
        }
    }
}

fn warn_recent_callers(route: &str, callers: &[DeprecatedCaller], now: UnixMs) {
    let (count, named) = summarize_recent_callers(callers, now);
    if count > 0 {
        tracing::warn!(
            route,
            clients = count,
            most = named,
            "clients that called in the last {RECENT_CALL_DAYS} days get 410 from now on"
        );
    }
}
