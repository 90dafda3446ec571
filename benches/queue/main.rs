//! One process of the queue benchmark (`benches/compare/queue`): producers and a worker pool on a
//! store, without HTTP.
//!
//! ```console
//! $ cargo bench --bench queue -- --store redis://127.0.0.1:6379 --phase both --tasks 50000
//! ready
//! go                                  (typed, or sent by the script)
//! {"seconds": 1.04}
//! ```
//!
//! `enqueue` makes tasks durable, `drain` runs the waiting tasks, `both` does both at once, `ideal`
//! does both with bare Redis commands (`ideal.rs`). A task's handler answers at once; its result is
//! stored. All duties of a worker are enabled: leases, renewals, heartbeats, fencing.

mod ideal;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use omnidaemon::config;
use omnidaemon::metrics::Metrics;
use omnidaemon::snapshot::{Snapshot, SnapshotHandle};
use omnidaemon::store::{self, Circuit, TopicQueue};
use omnidaemon::task::{Task, TaskAnswer, TaskFailure, TaskId, Topic, UnixMs};
use omnidaemon::worker::{Handler, HandlerRegistry, TaskAttempt, WorkerDrain, WorkerPool};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type Failed = Box<dyn Error + Send + Sync>;

const TOPIC: &str = "bench";

/// The arguments of the command line.
#[derive(Clone)]
struct Plan {
    store: String,
    phase: String,
    tasks: usize,
    producers: usize,
    concurrency: usize,
    payload: usize,
}

/// A handler that answers at once and counts its tasks.
struct NoOp(Arc<AtomicUsize>);

#[async_trait]
impl Handler for NoOp {
    async fn handle(&self, _: &TaskAttempt) -> Result<TaskAnswer, TaskFailure> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(TaskAnswer::from_json("{\"ok\":true}"))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let plan = Plan::read()?;
    if plan.phase == "ideal" {
        ready()?;
        let begun = Instant::now();
        ideal::run(&plan).await?;
        return done(begun.elapsed().as_secs_f64());
    }
    let loaded = load(&plan)?;
    let config = Arc::new(loaded.config);
    let store = store::open(&config.store)?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let (store, shutdown) = (Arc::clone(&store), shutdown.clone());
        async move { store.run_background(shutdown).await }
    });
    store.ping().await?;

    let circuit = Arc::new(Circuit::new(store, config.store.timeout));
    let topic = Topic::parse(TOPIC)?;
    let ran = Arc::new(AtomicUsize::new(0));
    let pool = {
        let metrics = Arc::new(Metrics::new(1));
        let snapshots = SnapshotHandle::new(Snapshot::new(1, Arc::clone(&config), &[], &metrics));
        let handlers = HandlerRegistry::new().with_handler(topic.clone(), NoOp(Arc::clone(&ran)));
        WorkerPool::new(
            "bench.1.1".into(),
            Arc::clone(&circuit),
            Arc::new(snapshots),
            metrics,
            handlers,
            std::sync::Arc::default(),
            Some(1),
        )
    };
    ready()?;
    let begun = Instant::now();
    let worker = (plan.phase != "enqueue")
        .then(|| tokio::spawn(pool.run(shutdown.clone(), WorkerDrain::of_worker_process)));
    if plan.phase != "drain" {
        produce(&circuit, &TopicQueue::new(&topic, &config.topics[&topic]), &plan).await?;
    }
    while worker.is_some() && ran.load(Ordering::Relaxed) < plan.tasks {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    shutdown.cancel();
    if let Some(worker) = worker {
        worker.await?;
    }
    running.await?;
    done(seconds)
}

/// Reports that the setup is complete, and waits for a line of stdin.
fn ready() -> Result<(), Failed> {
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Reports the duration, and waits until `benches/compare/queue` has read the CPU time.
fn done(seconds: f64) -> Result<(), Failed> {
    println!("{{\"seconds\": {seconds}}}");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Enqueues all tasks, by as many producers at a time as the plan says.
async fn produce(circuit: &Arc<Circuit>, queue: &TopicQueue, plan: &Plan) -> Result<(), Failed> {
    let (made, payload) = (Arc::new(AtomicUsize::new(0)), payload(plan.payload));
    let mut producers = JoinSet::new();
    for _ in 0..plan.producers {
        let (circuit, queue, plan) = (Arc::clone(circuit), queue.clone(), plan.clone());
        let (made, payload) = (Arc::clone(&made), payload.clone());
        producers.spawn(async move {
            while made.fetch_add(1, Ordering::Relaxed) < plan.tasks {
                let now = UnixMs::from(jiff::Timestamp::now());
                let id = TaskId::new(now, rand::random());
                let task =
                    Task { retries: 3, ..Task::new(id, queue.topic.clone(), payload.clone(), now) };
                circuit.call(circuit.store().enqueue(&task, &queue)).await?;
            }
            Ok::<(), Failed>(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done??;
    }
    Ok(())
}

/// A JSON object with a length of `bytes`.
fn payload(bytes: usize) -> String {
    let frame = "{\"text\":\"\"}";
    format!("{{\"text\":\"{}\"}}", "x".repeat(bytes.saturating_sub(frame.len())))
}

fn load(plan: &Plan) -> Result<config::LoadedConfig, Failed> {
    let file = tempfile::NamedTempFile::new()?;
    let text = format!(
        "upstream: {{url: http://127.0.0.1:9}}\n\
         store: {{url: \"{}\", timeout: 10s}}\n\
         routes: {{}}\n\
         topics: {{{TOPIC}: {{handler: upstream, max_backlog: 10000000}}}}\n\
         workers: {{count: 1, concurrency: {}}}\n",
        plan.store, plan.concurrency
    );
    std::fs::write(file.path(), text)?;
    Ok(config::load_file(file.path(), &BTreeMap::new().into_iter().collect())
        .map_err(|problems| problems.to_string())?)
}

// === impl Plan ===

impl Plan {
    fn read() -> Result<Self, Failed> {
        let mut plan = Self {
            store: String::new(),
            phase: "both".into(),
            tasks: 50_000,
            producers: 64,
            concurrency: 128,
            payload: 300,
        };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--store" => plan.store = value,
                "--phase" => plan.phase = value,
                "--tasks" => plan.tasks = value.parse()?,
                "--producers" => plan.producers = value.parse()?,
                "--concurrency" => plan.concurrency = value.parse()?,
                "--payload" => plan.payload = value.parse()?,
                _ => {
                    return Err(format!(
                        "there is no {name}: --store URL [--phase \
                    enqueue|drain|both|ideal] [--tasks N] [--producers N] [--concurrency N] \
                    [--payload BYTES]"
                    )
                    .into());
                }
            }
        }
        let known = ["enqueue", "drain", "both", "ideal"].contains(&plan.phase.as_str());
        if plan.store.is_empty() || !known {
            return Err("--store URL, and --phase enqueue, drain, both or ideal".into());
        }
        Ok(plan)
    }
}
