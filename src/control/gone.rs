//! Warns when a route is `gone` that somebody called lately: at start, and when an edit makes it so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::DeprecationMode;
use crate::snapshot::Snapshots;
use crate::store::{Caller, Circuit};
use crate::task::UnixMs;

const EVERY: Duration = Duration::from_secs(1);
/// How long ago a call still says that somebody needs the route.
const LATELY: Duration = Duration::from_hours(7 * 24);
/// Callers that are named.
const NAMED: usize = 3;

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
            "clients that called in the last 7 days get 410 from now on"
        );
    }
}

/// How many called lately, and those who called most.
fn lately(callers: &[Caller], now: UnixMs) -> (usize, String) {
    let mut lately: Vec<&Caller> = callers.iter().filter(|caller| now.since(caller.last) < LATELY).collect();
    lately.sort_by_key(|caller| std::cmp::Reverse(caller.count));
    let named: Vec<&str> = lately.iter().take(NAMED).map(|caller| caller.who.as_str()).collect();
    (lately.len(), named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_called_lately_are_named_most_calls_first() {
        let now = UnixMs(10 * 24 * 3_600_000);
        let caller = |who: &str, count, days_ago: u64| Caller {
            who: who.into(),
            count,
            last: UnixMs(now.0 - days_ago * 24 * 3_600_000),
        };
        let callers = [caller("a", 1, 0), caller("b", 9, 6), caller("c", 99, 8), caller("d", 5, 1), caller("e", 3, 1)];
        assert_eq!(lately(&callers, now), (4, "b, d, e".to_owned()));
        assert_eq!(lately(&[], now), (0, String::new()));
    }
}
