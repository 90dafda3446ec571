//! Torture: real processes over a real store under everything that can happen to them, and a checker that holds the
//! whole history against the promises of `docs/guarantees.md`.
//!
//! A round has a seed: it decides what is done to whom, and what the clients ask for; which throw meets which
//! instant, the machine decides. `scripts/torture` runs rounds for as long as one likes, by the same code:
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

use self::clients::{Read, World, is_final, read};
use self::fleet::{CONCURRENCY, EVERYTHING, Fleet, LEASE, RETRIES, Strike, until};
use self::history::{Event, Fault, Figures, Rules, check};
use self::journal::{Journal, now, serve_handlers};
use crate::stores::Store;

const RULES: Rules = Rules { retries: RETRIES, concurrency: CONCURRENCY, lease: LEASE.as_secs() * 1000 };
const SUBMITTERS: u64 = 4;
/// In `scripts/torture`, whose rounds have a machine to themselves.
const MANY_SUBMITTERS: u64 = 14;
const CALLERS: u64 = 2;
/// How long everything may take to end once nothing more is done to it.
const QUIET: Duration = Duration::from_secs(80);
/// How many tasks are read at a time in the end.
const READERS: usize = 24;

/// What a round is made of.
struct Round {
    seed: u64,
    store: Store,
    time: Duration,
    plan: &'static [Strike],
    failpoints: bool,
    submitters: u64,
}

#[tokio::test]
async fn every_task_ends_exactly_once_whatever_dies_on_redis() {
    Round::of_everything(7, Store::redis().await, Duration::from_secs(15)).run().await;
}

#[tokio::test]
async fn every_task_ends_exactly_once_whatever_dies_on_sqlite() {
    Round::of_everything(7, Store::Sqlite, Duration::from_secs(12)).run().await;
}

#[tokio::test]
async fn workers_killed_under_load_lose_no_task() {
    let figures = Round::of(&[Strike::KillWorker], Store::redis().await).run().await;
    assert!(figures.faults[&Fault::Kill] > 2, "{figures}");
}

#[tokio::test]
async fn proxies_killed_under_load_lose_no_task_on_redis() {
    let figures = Round::of(&[Strike::KillProxy], Store::redis().await).run().await;
    assert!(figures.faults[&Fault::Kill] > 2, "{figures}");
}

#[tokio::test]
async fn proxies_killed_under_load_lose_no_task_on_sqlite() {
    let figures = Round::of(&[Strike::KillProxy], Store::Sqlite).run().await;
    assert!(figures.faults[&Fault::Kill] > 2, "{figures}");
}

/// With `appendfsync everysec`: what redis has written is the kernel's, and outlives its process.
#[tokio::test]
async fn redis_killed_under_load_loses_no_task_and_nothing_runs_twice() {
    let figures = Round::of(&[Strike::KillRedis], Store::redis().await).run().await;
    assert!(figures.faults[&Fault::Outage] > 2 && figures.doubles == 0, "{figures}");
}

#[tokio::test]
async fn connections_cut_in_the_middle_of_replies_lose_no_task_and_nothing_runs_twice() {
    let figures = Round::of(&[Strike::Cut], Store::redis().await).run().await;
    assert!(figures.faults[&Fault::Cut] > 2 && figures.doubles == 0, "{figures}");
}

#[tokio::test]
async fn rolling_sigterms_lose_no_task_and_spend_no_attempt() {
    let figures = Round::of(&[Strike::Drain], Store::redis().await).run().await;
    assert!(figures.faults[&Fault::Drain] > 2 && figures.doubles == 0, "{figures}");
}

/// `scripts/torture`
#[tokio::test]
#[ignore = "as long as OMNIDAEMON_TORTURE_MINUTES says: run scripts/torture"]
async fn torture() {
    let setting = |name: &str| std::env::var(format!("OMNIDAEMON_TORTURE_{name}")).ok();
    let number = |name: &str| setting(name).and_then(|text| text.parse::<u64>().ok());
    let (minutes, redis) = (number("MINUTES").unwrap_or(1), setting("STORE").as_deref() != Some("sqlite"));
    let mut seed = number("SEED").unwrap_or_else(|| rand::random_range(1..1_000_000));
    let (begun, mut total, mut rounds) = (Instant::now(), Figures::default(), 0);
    while rounds == 0 || begun.elapsed() < Duration::from_mins(minutes) {
        let store = if redis { Store::redis().await } else { Store::Sqlite };
        println!(
            "seed {seed}; again: scripts/torture 0 --seed {seed} --store {}",
            if redis { "redis" } else { "sqlite" }
        );
        let round = Round::of_everything(seed, store, Duration::from_mins(1));
        total.add(&Round { submitters: MANY_SUBMITTERS, ..round }.run().await);
        (seed, rounds) = (seed + 1, rounds + 1);
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        println!("total of {rounds} rounds in {minutes:.1} minutes: {total}");
    }
}

impl Round {
    fn of_everything(seed: u64, store: Store, time: Duration) -> Self {
        Self { seed, store, time, plan: EVERYTHING, failpoints: true, submitters: SUBMITTERS }
    }

    /// A short one with nothing but this.
    fn of(plan: &'static [Strike], store: Store) -> Self {
        let time = Duration::from_secs(6);
        Self { seed: 1, store, time, plan, failpoints: false, submitters: SUBMITTERS }
    }

    /// Work and faults for a time, then quiet, then the verdict.
    ///
    /// # Panics
    /// When a promise is broken; the message says how to see it again.
    async fn run(self) -> Figures {
        let Self { seed, store, time, plan, failpoints, submitters } = self;
        let dir = tempfile::Builder::new().prefix("omnidaemon-torture-").tempdir().expect("a directory");
        let name = if matches!(store, Store::Sqlite) { "sqlite" } else { "redis" };
        let world = World::new(Journal::at(&dir.path().join("journal")));
        let handlers = serve_handlers(world.journal.clone()).await;
        let mut fleet = Fleet::start(world.clone(), store, &handlers, failpoints.then_some(seed)).await;
        let stalls = tokio::spawn(note_stalls(world.clone()));
        let clients = send_clients(&world, seed, submitters);
        torment(&mut fleet, plan, seed, time).await;
        world.stop.store(true, Ordering::Relaxed);
        fleet.relent();
        for client in clients {
            while !client.is_finished() {
                fleet.tend().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            client.await.expect("a client does not panic");
        }
        settle_down(&mut fleet, &world).await;
        stalls.abort();
        verdict(
            &world,
            &fleet,
            &format!("{name}-{}-{seed}", if failpoints { "everything".to_owned() } else { format!("{:?}", plan[0]) }),
        )
    }
}

fn send_clients(world: &World, seed: u64, submitters: u64) -> Vec<JoinHandle<()>> {
    let submitters = (0..submitters).map(|n| tokio::spawn(clients::submit(world.clone(), seed * 100 + n)));
    let callers = (0..CALLERS).map(|n| tokio::spawn(clients::call(world.clone(), seed * 100 + 50 + n)));
    submitters.chain(callers).collect()
}

fn verdict(world: &World, fleet: &Fleet, name: &str) -> Figures {
    let (figures, breaches) = check(&world.journal.read(), RULES);
    let calls = world.calls.load(Ordering::Relaxed);
    println!("{name}: {figures}; {calls} calls");
    let complaints = world.complaints.lock().expect("not poisoned").clone();
    if !breaches.is_empty() || !complaints.is_empty() {
        let kept = keep(world.journal.path(), name, &fleet.logs());
        panic!("{name} broke: {breaches:#?}\n{complaints:#?}\nits history and logs: {}", kept.display());
    }
    assert!(figures.accepted > 20 && calls > 10, "hardly anything was done: {figures}; {calls} calls");
    figures
}

/// A fault every second or so.
async fn torment(fleet: &mut Fleet, plan: &[Strike], seed: u64, time: Duration) {
    let (mut dice, begun) = (StdRng::seed_from_u64(seed), Instant::now());
    let mut next = Duration::from_millis(500);
    while begun.elapsed() < time {
        fleet.tend().await;
        if begun.elapsed() >= next {
            fleet.strike(plan, &mut dice);
            next += Duration::from_millis(dice.random_range(200..1500));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every task has ended, and notes what all of them are.
async fn settle_down(fleet: &mut Fleet, world: &World) {
    let mut dice = StdRng::seed_from_u64(1);
    let mut left = named(world);
    let begun = Instant::now();
    while !left.is_empty() && begun.elapsed() < QUIET {
        let now_ended = read_all(fleet, world, &left, &mut dice).await;
        left.retain(|id| !now_ended.iter().any(|(ended, _)| ended == id));
        for (id, end) in now_ended {
            world.journal.note(Event::Seen { id, end });
        }
    }
    // What is ended stays so: every task is read once more.
    let mut ids = named(world);
    for id in left {
        world.journal.note(Event::Final { id, end: None }); // it never ended
    }
    while !ids.is_empty() {
        let read = read_all(fleet, world, &ids, &mut dice).await;
        if begun.elapsed() > QUIET * 2 {
            break;
        }
        ids.retain(|id| !read.iter().any(|(ended, _)| ended == id));
        for (id, end) in read {
            world.journal.note(Event::Final { id, end });
        }
    }
    for id in until(fleet, QUIET, "dead letters can be listed", Fleet::dead_letters).await {
        world.journal.note(Event::DeadLetter { id });
    }
}

/// Those of `ids` that have ended, or are unknown.
async fn read_all(
    fleet: &mut Fleet,
    world: &World,
    ids: &[String],
    dice: &mut StdRng,
) -> Vec<(String, Option<history::End>)> {
    let mut found = Vec::new();
    for some in ids.chunks(READERS) {
        fleet.tend().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let client = world.proxy(dice);
        let reads = futures_util::future::join_all(some.iter().map(|id| read(&client, id))).await;
        for (id, read) in some.iter().zip(reads) {
            match read {
                Read::Is(Some(end)) if is_final(&end) => found.push((id.clone(), Some(end))),
                Read::Is(None) => found.push((id.clone(), None)),
                Read::Is(Some(_)) | Read::Nothing => {}
            }
        }
    }
    found
}

/// Every task that somebody was told of, or that ran.
fn named(world: &World) -> Vec<String> {
    let name = |event| match event {
        Event::Accepted { id } | Event::Begun { id, .. } => Some(id),
        _ => None,
    };
    let mut ids: Vec<_> = world.journal.read().into_iter().filter_map(|entry| name(entry.event)).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// A machine that gives us no time gives the others none either: a lease may run out by that.
async fn note_stalls(world: World) {
    let step = Duration::from_millis(100);
    loop {
        let from = now();
        tokio::time::sleep(step).await;
        if now() - from > RULES.lease / 2 {
            world.journal.note(Event::Fault { fault: Fault::Stall, target: "the machine".into(), from });
        }
    }
}

/// Puts the history and the logs where they outlive the test.
fn keep(journal: &Path, name: &str, logs: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("omnidaemon-torture-{name}"));
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::copy(journal, dir.join("journal")).expect("the journal can be copied");
    std::fs::write(dir.join("logs"), logs).expect("the logs can be written");
    dir
}
