//! Warns when a route is `gone` that somebody called lately: at start, and when an edit makes it so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::DeprecationMode;
use crate::snapshot::Snapshots;
use crate::store::{Caller, Circuit, LATELY, lately};
use crate::task::UnixMs;

const EVERY: Duration = Duration::from_secs(1);

/// Looks after the configured routes until `shutdown`.
pub async fn warn_of_gone(snapshots: Arc<Snapshots>, circuit: Arc<Circuit>, shutdown: CancellationToken) {
    let mut known: BTreeMap<String, DeprecationMode> = BTreeMap::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let config = snapshots.load().config.clone();
        for route in &config.routes {
            let mode = route.deprecation.mode;
            if mode == DeprecationMode::Gone && known.get(&route.name) != Some(&mode) {
                // while the store is gone: at the next look
                let Ok(callers) = circuit.call(circuit.store().callers(&route.name)).await else { continue };
                warn(&route.name, &callers, jiff::Timestamp::now().into());
            }
            known.insert(route.name.clone(), mode);
        }
    }
}

fn warn(route: &str, callers: &[Caller], now: UnixMs) {
    let (count, named) = lately(callers, now);
    if count > 0 {
        tracing::warn!(
            route,
            clients = count,
            most = named,
            "clients that called in the last {LATELY} days get 410 from now on"
        );
    }
}
