//! Warns when a route is `gone` that clients called recently: at start, and when an edit of the
//! configuration makes a route `gone`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::periodic::every;
use crate::config::DeprecationMode;
use crate::snapshot::SnapshotHandle;
use crate::store::{Circuit, DeprecatedCaller, RECENT_CALL_DAYS, summarize_recent_callers};
use crate::task::UnixMs;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// By route: the deprecation mode that the last check saw.
#[derive(Default)]
struct KnownModes(Mutex<BTreeMap<String, DeprecationMode>>);

/// Checks the configured routes every second until `shutdown`.
pub async fn warn_of_gone_routes(
    snapshots: Arc<SnapshotHandle>,
    circuit: Arc<Circuit>,
    shutdown: CancellationToken,
) {
    let known_modes = KnownModes::default();
    every(CHECK_INTERVAL, shutdown, || check_routes(&snapshots, &circuit, &known_modes)).await;
}

async fn check_routes(snapshots: &SnapshotHandle, circuit: &Circuit, known_modes: &KnownModes) {
    let config = snapshots.load().config.clone();
    for route in &config.routes {
        let mode = route.deprecation.mode;
        if mode == DeprecationMode::Gone && !known_modes.has(&route.name, mode) {
            // without the store the mode stays unknown, and the next round tries again
            let Ok(callers) =
                circuit.call(circuit.store().list_deprecated_callers(&route.name)).await
            else {
                continue;
            };
            warn_recent_callers(&route.name, &callers, jiff::Timestamp::now().into());
        }
        known_modes.set(&route.name, mode);
    }
}

fn warn_recent_callers(route: &str, callers: &[DeprecatedCaller], now: UnixMs) {
    let (count, most_active) = summarize_recent_callers(callers, now);
    if count > 0 {
        tracing::warn!(
            route,
            clients = count,
            most = most_active,
            "clients that called in the last {RECENT_CALL_DAYS} days get 410 from now on"
        );
    }
}

// === impl KnownModes ===

impl KnownModes {
    fn has(&self, route: &str, mode: DeprecationMode) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(route) == Some(&mode)
    }

    fn set(&self, route: &str, mode: DeprecationMode) {
        let mut modes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        modes.insert(route.to_owned(), mode);
    }
}
