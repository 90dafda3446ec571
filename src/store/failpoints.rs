//! Faults on demand around every store call, and a shorter lease: for tests alone, behind the cargo feature
//! `failpoints`, which no released binary has.
//!
//! `OMNIDAEMON_FAILPOINTS` lists `<call>.<before|after>=<action>[:<probability>]`, separated by commas. The call is
//! named as the method of [`TaskStore`] is, `*` is each. An action is `kill` (SIGKILL of this process),
//! `delay(<time>)` or `error(<unreachable|unknown>)`; after a call that is applied, an error is an answer that got
//! lost, so only `unknown` is true there. `OMNIDAEMON_FAILPOINTS_SEED` seeds the dice, together with the process id:
//! a process that replaces a killed one must not die at the same throw. `OMNIDAEMON_LEASE` is the lease.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Signal, getpid, kill_process};

use super::around::{Around, Hook};
use super::{StoreError, TaskStore};

const POINTS: &str = "OMNIDAEMON_FAILPOINTS";
const SEED: &str = "OMNIDAEMON_FAILPOINTS_SEED";
const LEASE: &str = "OMNIDAEMON_LEASE";

/// The lease that the environment asks for.
pub(super) fn lease() -> Option<Duration> {
    static LEASE_TIME: OnceLock<Option<Duration>> = OnceLock::new();
    *LEASE_TIME.get_or_init(|| humantime::parse_duration(&std::env::var(LEASE).ok()?).ok())
}

/// The store with the failpoints that the environment asks for.
pub(super) fn armed(store: Arc<dyn TaskStore>) -> Result<Arc<dyn TaskStore>, StoreError> {
    let Ok(list) = std::env::var(POINTS) else { return Ok(store) };
    let parsed = list.split(',').map(|text| Point::parse(text).ok_or(text)).collect::<Result<Vec<_>, _>>();
    let points = parsed.map_err(|text| StoreError::Setup(format!("{POINTS}: {text} is no failpoint")))?;
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse::<u64>().ok()).unwrap_or_default();
    let dice = StdRng::seed_from_u64(seed ^ (u64::from(std::process::id()) << 32));
    Ok(Arc::new(Around { store, hook: Failpoints { points, dice: Mutex::new(dice) } }))
}

/// The points and the dice that say when.
struct Failpoints {
    points: Vec<Point>,
    dice: Mutex<StdRng>,
}

/// Where what happens how often.
#[derive(Clone, Debug, PartialEq)]
struct Point {
    call: String,
    side: Side,
    action: Action,
    probability: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Delay(Duration),
    Unreachable,
    Unknown,
}

// === impl Point ===

impl Point {
    fn parse(text: &str) -> Option<Self> {
        let (place, what) = text.trim().split_once('=')?;
        let (call, side) = place.split_once('.')?;
        let side = match side {
            "before" => Side::Before,
            "after" => Side::After,
            _ => return None,
        };
        let (action, probability) = what.rsplit_once(':').unwrap_or((what, "1"));
        let probability = probability.parse().ok().filter(|p| (0.0..=1.0).contains(p))?;
        let action = match action {
            "kill" => Action::Kill,
            "error(unreachable)" if side == Side::Before => Action::Unreachable,
            "error(unknown)" => Action::Unknown,
            _ => {
                let time = action.strip_prefix("delay(")?.strip_suffix(')')?;
                Action::Delay(humantime::parse_duration(time).ok()?)
            }
        };
        Some(Self { call: call.to_owned(), side, action, probability })
    }
}

// === impl Failpoints ===

impl Failpoints {
    async fn reach(&self, call: &str, side: Side) -> Result<(), StoreError> {
        for point in self.points.iter().filter(|point| point.side == side && ["*", call].contains(&&*point.call)) {
            let chance = self.dice.lock().unwrap_or_else(PoisonError::into_inner).random_bool(point.probability);
            if !chance {
                continue;
            }
            tracing::info!(call, ?side, action = ?point.action, "failpoint");
            match point.action {
                Action::Kill => {
                    let _ = kill_process(getpid(), Signal::KILL);
                }
                Action::Delay(time) => tokio::time::sleep(time).await,
                Action::Unreachable => return Err(StoreError::Unreachable("a failpoint".into())),
                Action::Unknown => return Err(StoreError::Unknown("a failpoint".into())),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Hook for Failpoints {
    async fn before(&self, call: &'static str) -> Result<(), StoreError> {
        self.reach(call, Side::Before).await
    }

    async fn after(&self, call: &'static str) -> Result<(), StoreError> {
        self.reach(call, Side::After).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_and_nonsense_is_none() {
        let point = Point::parse("settle.after=error(unknown):0.25").expect("a point");
        let expected = Point { call: "settle".into(), side: Side::After, action: Action::Unknown, probability: 0.25 };
        assert_eq!(point, expected);
        let point = Point::parse(" *.before=delay(50ms)").expect("a point");
        assert_eq!((point.action, point.probability), (Action::Delay(Duration::from_millis(50)), 1.0));
        assert_eq!(Point::parse("lease.before=kill:0.1").map(|point| point.action), Some(Action::Kill));
        let bad =
            ["", "settle=kill", "settle.during=kill", "settle.after=kill:2", "settle.after=delay(x)", "a.after=b"];
        for text in bad.into_iter().chain(["settle.after=error(unreachable)"]) {
            assert_eq!(Point::parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn an_error_before_a_call_keeps_it_from_the_store_and_one_after_it_loses_the_answer() {
        let dir = tempfile::tempdir().expect("a directory");
        let store: Arc<dyn TaskStore> =
            Arc::new(super::super::SqliteStore::open(&dir.path().join("tasks.db")).expect("opened"));
        let with = |point: &str| Around {
            store: Arc::clone(&store),
            hook: Failpoints {
                points: vec![Point::parse(point).expect("a point")],
                dice: Mutex::new(StdRng::seed_from_u64(1)),
            },
        };
        let record = super::super::RolloutRecord { version: 1, state: "{}".into() };
        let change = super::super::Change::default();
        let refused = with("save_rollout.before=error(unreachable)").save_rollout("r", &record, &change).await;
        assert!(matches!(refused, Err(StoreError::Unreachable(_))), "{refused:?}");
        assert_eq!(store.load_rollout("r").await, Ok(None));
        let lost = with("*.after=error(unknown)").save_rollout("r", &record, &change).await;
        assert!(matches!(lost, Err(StoreError::Unknown(_))), "{lost:?}");
        assert_eq!(store.load_rollout("r").await, Ok(Some(record)));
    }
}
