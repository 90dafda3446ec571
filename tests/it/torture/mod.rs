//! Torture: real processes over a real store under everything that can happen to them, and a
//! checker that holds the whole history against the promises of `docs/guarantees.md`.
//!
//! A round has a seed: it decides what is done to whom, and what the clients ask for; which throw
//! meets which instant, the machine decides. `scripts/torture` runs rounds for as long as one
//! likes, by the same code:
//!
//! ```text
//! history.rs    what happened, and the checker: pure
//! verdicts.rs   the checker finds what is wrong
//! journal.rs    the file that a history is written to, and the handlers
//! clients.rs    who submits, calls, polls and cancels
//! fleet.rs      the processes, and the faults
//! scenes.rs     single faults, one test each
//! faults.rs     the store flushed, its group destroyed, a storm of retries, a runner killed
//! races.rs      a cancel against a completion
//! disk.rs       power cuts and full disks under the embedded store
//! ```

mod clients;
mod disk;
mod faults;
mod fleet;
mod history;
mod journal;
mod races;
mod scenes;
mod verdicts;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use self::clients::{TaskReadResult, TortureContext, is_final, read_task};
use self::fleet::{
    ALL_STRIKES, CONCURRENCY, FaultStrike, LEASE_DURATION, RETRIES, TortureFleet, wait_supervised,
};
use self::history::{CheckRules, FaultKind, RoundFigures, TortureEvent, check_history};
use self::journal::{TortureJournal, serve_handlers, unix_millis};
use crate::support::redis::server::RedisServer;
use crate::support::stores::Store;

const CHECK_RULES: CheckRules = CheckRules {
    retries: RETRIES,
    concurrency: CONCURRENCY,
    lease_ms: LEASE_DURATION.as_secs() * 1000,
};
const SUBMITTER_COUNT: u64 = 4;
/// In `scripts/torture`, whose rounds have a machine to themselves.
const LONG_RUN_SUBMITTER_COUNT: u64 = 14;
const CALLER_COUNT: u64 = 2;
/// How long everything may take to end once nothing more is done to it.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(80);
/// How many tasks are read at a time in the end.
const READ_BATCH_SIZE: usize = 24;

/// What a round is made of.
struct TortureRound {
    seed: u64,
    store: Store,
    duration: Duration,
    strikes: &'static [FaultStrike],
    failpoints: bool,
    submitters: u64,
}

/// A Redis whose acknowledged writes survive a kill. With `everysec` they do not always: while a
/// sync of the append-only file is under way, Redis replies before it writes to that file.
async fn redis_that_loses_no_write() -> Store {
    Store::Redis(RedisServer::start_with(&["--appendfsync", "always"]).await)
}

#[tokio::test]
async fn every_task_ends_exactly_once_whatever_dies_on_redis() {
    let store = redis_that_loses_no_write().await;
    TortureRound::with_all_strikes(7, store, Duration::from_secs(15)).run().await;
}

#[tokio::test]
async fn every_task_ends_exactly_once_whatever_dies_on_sqlite() {
    TortureRound::with_all_strikes(7, Store::Sqlite, Duration::from_secs(12)).run().await;
}

#[tokio::test]
async fn workers_killed_under_load_lose_no_task() {
    let figures =
        TortureRound::with_strikes(&[FaultStrike::KillWorker], Store::redis().await).run().await;
    assert!(figures.faults[&FaultKind::Kill] > 2, "{figures}");
}

#[tokio::test]
async fn proxies_killed_under_load_lose_no_task_on_redis() {
    let figures =
        TortureRound::with_strikes(&[FaultStrike::KillProxy], Store::redis().await).run().await;
    assert!(figures.faults[&FaultKind::Kill] > 2, "{figures}");
}

#[tokio::test]
async fn proxies_killed_under_load_lose_no_task_on_sqlite() {
    let figures = TortureRound::with_strikes(&[FaultStrike::KillProxy], Store::Sqlite).run().await;
    assert!(figures.faults[&FaultKind::Kill] > 2, "{figures}");
}

#[tokio::test]
async fn redis_killed_under_load_loses_no_task_and_nothing_runs_twice() {
    let store = redis_that_loses_no_write().await;
    let figures = TortureRound::with_strikes(&[FaultStrike::KillRedis], store).run().await;
    assert!(figures.faults[&FaultKind::Outage] > 2 && figures.repeated_runs == 0, "{figures}");
}

#[tokio::test]
async fn connections_cut_in_the_middle_of_replies_lose_no_task_and_nothing_runs_twice() {
    let figures = TortureRound::with_strikes(&[FaultStrike::Cut], Store::redis().await).run().await;
    assert!(figures.faults[&FaultKind::Cut] > 2 && figures.repeated_runs == 0, "{figures}");
}

#[tokio::test]
async fn rolling_sigterms_lose_no_task_and_spend_no_attempt() {
    let figures =
        TortureRound::with_strikes(&[FaultStrike::Drain], Store::redis().await).run().await;
    assert!(figures.faults[&FaultKind::Drain] > 2 && figures.repeated_runs == 0, "{figures}");
}

/// `scripts/torture`
#[tokio::test]
#[ignore = "as long as OMNIDAEMON_TORTURE_MINUTES says: run scripts/torture"]
async fn torture() {
    let setting = |name: &str| std::env::var(format!("OMNIDAEMON_TORTURE_{name}")).ok();
    let number = |name: &str| setting(name).and_then(|text| text.parse::<u64>().ok());
    let (minutes, redis) =
        (number("MINUTES").unwrap_or(1), setting("STORE").as_deref() != Some("sqlite"));
    let mut seed = number("SEED").unwrap_or_else(|| rand::random_range(1..1_000_000));
    let (begun, mut total, mut rounds) = (Instant::now(), RoundFigures::default(), 0);
    while rounds == 0 || begun.elapsed() < Duration::from_mins(minutes) {
        let store = if redis { Store::redis().await } else { Store::Sqlite };
        println!(
            "seed {seed}; again: scripts/torture 0 --seed {seed} --store {}",
            if redis { "redis" } else { "sqlite" }
        );
        let round = TortureRound::with_all_strikes(seed, store, Duration::from_mins(1));
        total.merge(&TortureRound { submitters: LONG_RUN_SUBMITTER_COUNT, ..round }.run().await);
        (seed, rounds) = (seed + 1, rounds + 1);
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        println!("total of {rounds} rounds in {minutes:.1} minutes: {total}");
    }
}

impl TortureRound {
    fn with_all_strikes(seed: u64, store: Store, duration: Duration) -> Self {
        Self {
            seed,
            store,
            duration,
            strikes: ALL_STRIKES,
            failpoints: true,
            submitters: SUBMITTER_COUNT,
        }
    }

    /// A short one with nothing but this.
    fn with_strikes(strikes: &'static [FaultStrike], store: Store) -> Self {
        let duration = Duration::from_secs(6);
        Self { seed: 1, store, duration, strikes, failpoints: false, submitters: SUBMITTER_COUNT }
    }

    /// Work and faults for a time, then quiet, then the verdict.
    ///
    /// # Panics
    /// When a promise is broken; the message says how to see it again.
    async fn run(self) -> RoundFigures {
        let Self { seed, store, duration: time, strikes: plan, failpoints, submitters } = self;
        let dir =
            tempfile::Builder::new().prefix("omnidaemon-torture-").tempdir().expect("a directory");
        let name = if matches!(store, Store::Sqlite) { "sqlite" } else { "redis" };
        let world = TortureContext::new(TortureJournal::open(&dir.path().join("journal")));
        let handlers = serve_handlers(world.journal.clone()).await;
        let mut fleet =
            TortureFleet::start(world.clone(), store, &handlers, failpoints.then_some(seed)).await;
        let stalls = tokio::spawn(record_stalls(world.clone()));
        let clients = spawn_clients(&world, seed, submitters);
        inject_faults(&mut fleet, plan, seed, time).await;
        world.stop.store(true, Ordering::Relaxed);
        fleet.end_faults_now();
        for client in clients {
            while !client.is_finished() {
                fleet.supervise().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            client.await.expect("a client does not panic");
        }
        record_final_states(&mut fleet, &world).await;
        stalls.abort();
        check_round(
            &world,
            &fleet,
            &format!(
                "{name}-{}-{seed}",
                if failpoints { "everything".to_owned() } else { format!("{:?}", plan[0]) }
            ),
        )
    }
}

fn spawn_clients(world: &TortureContext, seed: u64, submitters: u64) -> Vec<JoinHandle<()>> {
    let submitters = (0..submitters)
        .map(|n| tokio::spawn(clients::run_submitter(world.clone(), seed * 100 + n)));
    let callers = (0..CALLER_COUNT)
        .map(|n| tokio::spawn(clients::run_caller(world.clone(), seed * 100 + 50 + n)));
    submitters.chain(callers).collect()
}

fn check_round(world: &TortureContext, fleet: &TortureFleet, name: &str) -> RoundFigures {
    let (figures, breaches) = check_history(&world.journal.read_entries(), CHECK_RULES);
    let calls = world.call_count.load(Ordering::Relaxed);
    println!("{name}: {figures}; {calls} calls");
    let complaints = world.unexpected_answers.lock().expect("not poisoned").clone();
    if !breaches.is_empty() || !complaints.is_empty() {
        let kept = save_artifacts(world.journal.path(), name, &fleet.logs());
        panic!(
            "{name} broke: {breaches:#?}\n{complaints:#?}\nits history and logs: {}",
            kept.display()
        );
    }
    assert!(
        figures.accepted > 20 && calls > 10,
        "hardly anything was done: {figures}; {calls} calls"
    );
    figures
}

/// A fault every second or so.
async fn inject_faults(fleet: &mut TortureFleet, plan: &[FaultStrike], seed: u64, time: Duration) {
    let (mut dice, begun) = (StdRng::seed_from_u64(seed), Instant::now());
    let mut next = Duration::from_millis(500);
    while begun.elapsed() < time {
        fleet.supervise().await;
        if begun.elapsed() >= next {
            fleet.inject_fault(plan, &mut dice);
            next += Duration::from_millis(dice.random_range(200..1500));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every task has ended, and notes what all of them are.
async fn record_final_states(fleet: &mut TortureFleet, world: &TortureContext) {
    let mut dice = StdRng::seed_from_u64(1);
    let mut left = known_task_ids(world);
    let begun = Instant::now();
    while !left.is_empty() && begun.elapsed() < SETTLE_TIMEOUT {
        let now_ended = read_ended_tasks(fleet, world, &left, &mut dice).await;
        left.retain(|id| !now_ended.iter().any(|(ended, _)| ended == id));
        for (id, end) in now_ended {
            world.journal.record(TortureEvent::EndObserved { id, end });
        }
    }
    // What is ended stays so: every task is read once more.
    let mut ids = known_task_ids(world);
    for id in left {
        world.journal.record(TortureEvent::Final { id, end: None }); // it never ended
    }
    while !ids.is_empty() {
        let read = read_ended_tasks(fleet, world, &ids, &mut dice).await;
        if begun.elapsed() > SETTLE_TIMEOUT * 2 {
            break;
        }
        ids.retain(|id| !read.iter().any(|(ended, _)| ended == id));
        for (id, end) in read {
            world.journal.record(TortureEvent::Final { id, end });
        }
    }
    for id in wait_supervised(
        fleet,
        SETTLE_TIMEOUT,
        "dead letters can be listed",
        TortureFleet::list_dead_letters,
    )
    .await
    {
        world.journal.record(TortureEvent::DeadLetter { id });
    }
}

/// Those of `ids` that have ended, or are unknown.
async fn read_ended_tasks(
    fleet: &mut TortureFleet,
    world: &TortureContext,
    ids: &[String],
    dice: &mut StdRng,
) -> Vec<(String, Option<history::TaskEnd>)> {
    let mut found = Vec::new();
    for some in ids.chunks(READ_BATCH_SIZE) {
        fleet.supervise().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let client = world.random_proxy(dice);
        let reads =
            futures_util::future::join_all(some.iter().map(|id| read_task(&client, id))).await;
        for (id, read) in some.iter().zip(reads) {
            match read {
                TaskReadResult::TaskOrMissing(Some(end)) if is_final(&end) => {
                    found.push((id.clone(), Some(end)));
                }
                TaskReadResult::TaskOrMissing(None) => found.push((id.clone(), None)),
                TaskReadResult::TaskOrMissing(Some(_)) | TaskReadResult::NoAnswer => {}
            }
        }
    }
    found
}

/// Every task that somebody was told of, or that ran.
fn known_task_ids(world: &TortureContext) -> Vec<String> {
    let name = |event| match event {
        TortureEvent::Accepted { id } | TortureEvent::Begun { id, .. } => Some(id),
        _ => None,
    };
    let mut ids: Vec<_> =
        world.journal.read_entries().into_iter().filter_map(|entry| name(entry.event)).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// A machine that gives us no time gives the others none either: a lease may run out by that.
async fn record_stalls(world: TortureContext) {
    let step = Duration::from_millis(100);
    loop {
        let from = unix_millis();
        tokio::time::sleep(step).await;
        if unix_millis() - from > CHECK_RULES.lease_ms / 2 {
            world.journal.record(TortureEvent::Fault {
                fault: FaultKind::Stall,
                target: "the machine".into(),
                from,
            });
        }
    }
}

/// Puts the history and the logs where they outlive the test.
fn save_artifacts(journal: &Path, name: &str, logs: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("omnidaemon-torture-{name}"));
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::copy(journal, dir.join("journal")).expect("the journal can be copied");
    std::fs::write(dir.join("logs"), logs).expect("the logs can be written");
    dir
}
