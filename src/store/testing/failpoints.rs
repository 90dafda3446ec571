//! Faults around store calls on demand, for tests only: behind the cargo feature `failpoints`,
//! which no released binary has.
//!
//! `OMNIDAEMON_FAILPOINTS` lists `<call>.<before|after>=<action>[:<probability>]`, separated by
//! commas. The call is the name of a method of a store trait, or `*` for every call. An action is
//! `kill` (SIGKILL of this process), `delay(<time>)` or `error(<unreachable|unknown>)`. After a
//! call only `error(unknown)` is allowed: the call was applied, and its answer is lost.
//! `OMNIDAEMON_FAILPOINTS_SEED` and the process id seed the random generator: a process that
//! replaces a killed one must not be killed at the same draw. `OMNIDAEMON_LEASE` shortens the lease
//! (see `timing.rs`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Signal, getpid, kill_process};

use super::intercept::{INTERCEPTED_CALLS, InterceptedStore, StoreInterceptor};
use crate::store::{StoreError, TaskStore};

const FAILPOINTS_ENV: &str = "OMNIDAEMON_FAILPOINTS";
const SEED_ENV: &str = "OMNIDAEMON_FAILPOINTS_SEED";

/// The store with the failpoints that the environment names.
///
/// # Errors
/// [`StoreError::InvalidSetup`] for a failpoint that cannot be parsed.
pub(crate) fn arm_failpoints(store: Arc<dyn TaskStore>) -> Result<Arc<dyn TaskStore>, StoreError> {
    let Ok(list) = std::env::var(FAILPOINTS_ENV) else { return Ok(store) };
    let parsed = list
        .split(',')
        .map(|text| Failpoint::parse(text).ok_or(text))
        .collect::<Result<Vec<_>, _>>();
    let points = parsed.map_err(|text| {
        StoreError::InvalidSetup(format!("{FAILPOINTS_ENV}: {text} is not a failpoint"))
    })?;
    let seed =
        std::env::var(SEED_ENV).ok().and_then(|seed| seed.parse::<u64>().ok()).unwrap_or_default();
    let generator = StdRng::seed_from_u64(seed ^ (u64::from(std::process::id()) << 32));
    Ok(Arc::new(InterceptedStore {
        store,
        interceptor: FailpointSet { failpoints: points, random_generator: Mutex::new(generator) },
    }))
}

/// The failpoints and the random generator that decides whether each fires.
struct FailpointSet {
    failpoints: Vec<Failpoint>,
    random_generator: Mutex<StdRng>,
}

/// One failpoint: an action at one side of a call, with a probability from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
struct Failpoint {
    call: String,
    side: CallSide,
    action: FaultAction,
    probability: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallSide {
    Before,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultAction {
    Kill,
    Delay(Duration),
    Unreachable,
    OutcomeUnknown,
}

// === impl Failpoint ===

impl Failpoint {
    fn parse(text: &str) -> Option<Self> {
        let (place, effect) = text.trim().split_once('=')?;
        let (call, side) = place.split_once('.')?;
        if call != "*" && !INTERCEPTED_CALLS.contains(&call) {
            return None;
        }
        let side = match side {
            "before" => CallSide::Before,
            "after" => CallSide::After,
            _ => return None,
        };
        let (action, probability) = effect.rsplit_once(':').unwrap_or((effect, "1"));
        let probability = probability.parse().ok().filter(|p| (0.0..=1.0).contains(p))?;
        let action = match action {
            "kill" => FaultAction::Kill,
            "error(unreachable)" if side == CallSide::Before => FaultAction::Unreachable,
            "error(unknown)" => FaultAction::OutcomeUnknown,
            _ => {
                let time = action.strip_prefix("delay(")?.strip_suffix(')')?;
                FaultAction::Delay(humantime::parse_duration(time).ok()?)
            }
        };
        Some(Self { call: call.to_owned(), side, action, probability })
    }
}

// === impl FailpointSet ===

impl FailpointSet {
    async fn trigger_failpoints(&self, call: &str, side: CallSide) -> Result<(), StoreError> {
        for point in self
            .failpoints
            .iter()
            .filter(|point| point.side == side && ["*", call].contains(&&*point.call))
        {
            let fires = self
                .random_generator
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .random_bool(point.probability);
            if !fires {
                continue;
            }
            tracing::info!(call, ?side, action = ?point.action, "failpoint");
            match point.action {
                FaultAction::Kill => {
                    let _ = kill_process(getpid(), Signal::KILL);
                }
                FaultAction::Delay(time) => tokio::time::sleep(time).await,
                FaultAction::Unreachable => {
                    return Err(StoreError::Unreachable("a failpoint".into()));
                }
                FaultAction::OutcomeUnknown => {
                    return Err(StoreError::OutcomeUnknown("a failpoint".into()));
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl StoreInterceptor for FailpointSet {
    async fn before_call(&self, call: &'static str) -> Result<(), StoreError> {
        self.trigger_failpoints(call, CallSide::Before).await
    }

    async fn after_call(&self, call: &'static str) -> Result<(), StoreError> {
        self.trigger_failpoints(call, CallSide::After).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RolloutCommit, RolloutRecord, RolloutStore as _, SqliteStore};

    #[test]
    fn a_failpoint_is_parsed_and_anything_else_is_refused() {
        let point = Failpoint::parse("settle.after=error(unknown):0.25").expect("a point");
        let expected = Failpoint {
            call: "settle".into(),
            side: CallSide::After,
            action: FaultAction::OutcomeUnknown,
            probability: 0.25,
        };
        assert_eq!(point, expected);
        let point = Failpoint::parse(" *.before=delay(50ms)").expect("a point");
        assert_eq!(
            (point.action, point.probability),
            (FaultAction::Delay(Duration::from_millis(50)), 1.0)
        );
        assert_eq!(
            Failpoint::parse("lease_demand.before=kill:0.1").map(|point| point.action),
            Some(FaultAction::Kill)
        );
        let bad = [
            "",
            "settle=kill",
            "settle.during=kill",
            "settle.after=kill:2",
            "settle.after=delay(x)",
            "settle.after=b",
            "tend.after=kill",
        ];
        for text in bad.into_iter().chain(["settle.after=error(unreachable)"]) {
            assert_eq!(Failpoint::parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn an_error_before_a_call_keeps_it_from_the_store_and_one_after_it_loses_the_answer() {
        let dir = tempfile::tempdir().expect("a directory");
        let store: Arc<dyn TaskStore> =
            Arc::new(SqliteStore::open(&dir.path().join("tasks.db")).expect("opened"));
        let with = |point: &str| InterceptedStore {
            store: Arc::clone(&store),
            interceptor: FailpointSet {
                failpoints: vec![Failpoint::parse(point).expect("a point")],
                random_generator: Mutex::new(StdRng::seed_from_u64(1)),
            },
        };
        let record = RolloutRecord { version: 1, state_json: "{}".into() };
        let change = RolloutCommit::default();
        let refused = with("save_rollout.before=error(unreachable)")
            .save_rollout("r", &record, &change)
            .await;
        assert!(matches!(refused, Err(StoreError::Unreachable(_))), "{refused:?}");
        assert_eq!(store.load_rollout("r").await, Ok(None));
        let lost = with("*.after=error(unknown)").save_rollout("r", &record, &change).await;
        assert!(matches!(lost, Err(StoreError::OutcomeUnknown(_))), "{lost:?}");
        assert_eq!(store.load_rollout("r").await, Ok(Some(record)));
    }
}
