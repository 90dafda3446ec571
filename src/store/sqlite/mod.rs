//! The embedded store: one SQLite file, one process, no server.
//!
//! A lock beside the file keeps others out (`lock`); one thread writes (`writer`), each batch of changes
//! (`ops`) in one transaction that is on disk before anybody is answered; another reads (`reader`) and waits
//! for no commit. A lease's token is the task's id and the number of the lease, which no later lease has,
//! not even after a release gave the attempt back. Leases belong to this process: those of an earlier boot
//! are released on open. Threads, not tasks: any runtime may call.

mod claim;
mod clock;
mod db;
mod list;
mod lock;
mod ops;
mod outbox;
mod reader;
mod redrive;
mod rollout;
mod running;
mod schema;
mod sealed;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::clock::Clock;
use self::db::{Db, Tallies};
use self::lock::Lock;
use self::reader::Reader;
use self::running::Running;
use self::sealed::{Leased, NewTask, Sealed};
use self::writer::Writer;
use super::list::no_cursor;
use super::{
    Advice, Buried, Caller, Cancelled, Change, Claim, Claimed, Conclusion, DeadLetter, Delivery, DeliveryRecord, Depth,
    Glance, Heartbeat, HistoryEntry, Holder, Lease, Listing, Meeting, Outcome, Page, Presence, Queue, Redriven,
    RolloutRecord, Settled, Settlement, SharedSecret, StoreError, StoredEvidence, TaskStore, Waiters, heartbeat_time,
    lead_time,
};
use crate::task::{Failure, FailureKind, Life, Progress, Status, TaskId, TaskRecord, Topic, UnixMs};

/// How long the record of a task that could not be read back is kept; its dead letter stays.
const MALFORMED_TTL: Duration = Duration::from_hours(24);

/// Purges in one call of `tend` at most: the writer has other work in between.
const PURGES: usize = 50;

/// Tasks in a SQLite file.
pub struct SqliteStore {
    // Dropped in this order: the writer finishes and closes, then the reader, and the lock goes last.
    writer: Writer,
    reader: Arc<Reader>,
    tallies: Tallies,
    waiters: Waiters,
    clock: Clock,
    heartbeats: Mutex<HashMap<String, (Heartbeat, Duration)>>,
    /// What each replica says of itself, and until when that counts.
    replicas: Mutex<BTreeMap<String, (String, Duration)>>,
    running: Running,
    /// Of this boot: so are the leases that it signs for.
    secret: SharedSecret,
    _lock: Lock,
}

// === impl SqliteStore ===

impl SqliteStore {
    /// Opens the database at `path`, making it where it is missing, and locks it for this process.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it; [`StoreError::Setup`] when it cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::with_clock(path, Clock::default())
    }

    /// [`Self::open`] under a clock of the caller's, who can put it ahead.
    pub fn with_clock(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        let path = schema::create(path)?;
        let lock = Lock::take(&path)?;
        let connection = schema::open_writer(&path)?;
        let (tallies, waiters) = (Tallies::default(), Waiters::default());
        let db = Db::take_over(connection, clock.clone(), tallies.clone()).map_err(schema::setup(&path))?;
        let no_thread = |error| StoreError::Setup(format!("no thread for the embedded store: {error}"));
        let reader = Arc::new(Reader::start(schema::open_reader(&path)?).map_err(no_thread)?);
        let running = Running::default();
        let (tell, ended) = (resolver(Arc::clone(&reader), waiters.clone(), clock.clone()), running.clone());
        let on_end = move |id| {
            ended.forget(&id);
            tell(id);
        };
        let writer = Writer::start(db, on_end).map_err(no_thread)?;
        let (heartbeats, replicas, secret) = (Mutex::default(), Mutex::default(), SharedSecret::random());
        Ok(Self { writer, reader, tallies, waiters, clock, heartbeats, replicas, running, secret, _lock: lock })
    }

    /// Opens what was leased; what cannot be read back is a dead letter, and holds nobody up.
    async fn open_leases(&self, rows: Vec<Leased>, queues: &[Queue]) -> Vec<Lease> {
        let mut leases = Vec::with_capacity(rows.len());
        for row in rows {
            let token = row.token();
            let Some(queue) = queues.iter().find(|queue| queue.topic == row.topic) else { continue };
            match row.open(queue) {
                Ok(lease) => {
                    self.running.begin(&lease.task.id, sealed::number(&lease));
                    leases.push(lease);
                }
                Err(error) => {
                    tracing::error!(?token, %error, "a task cannot be read back and becomes a dead letter");
                    if let Err(error) = self.bury_malformed(token, &error).await {
                        tracing::error!(%error, "it could not be buried and will be when its lease has expired");
                    }
                }
            }
        }
        leases
    }

    async fn bury_malformed(
        &self,
        token: Result<(TaskId, i64), StoreError>,
        error: &StoreError,
    ) -> Result<(), StoreError> {
        let (id, number) = token?;
        let failure = Failure::new(FailureKind::Malformed, error.to_string());
        let bury = Sealed::seal(&Settlement::Bury { failure, ttl: MALFORMED_TTL })?;
        self.writer.submit(move |db| ops::settle(db, &id, number, &bury)).await?;
        Ok(())
    }

    fn live_heartbeats(&self) -> MutexGuard<'_, HashMap<String, (Heartbeat, Duration)>> {
        let mut heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.steady();
        heartbeats.retain(|_, (_, until)| *until > now);
        heartbeats
    }

    fn live_replicas(&self) -> MutexGuard<'_, BTreeMap<String, (String, Duration)>> {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.steady();
        replicas.retain(|_, (_, until)| *until > now);
        replicas
    }
}

/// What hears of each end: it gives those who wait the full record, read beside the writer.
fn resolver(reader: Arc<Reader>, waiters: Waiters, clock: Clock) -> impl Fn(TaskId) + Send + 'static {
    move |id| {
        if !waiters.waits_for(&id) {
            return;
        }
        let (waiters, now) = (waiters.clone(), clock.wall());
        reader.send(move |connection| match reader::record(connection, &id, now) {
            Ok(record) => waiters.resolve(&id, record.map(Arc::new).as_ref()),
            Err(error) => {
                tracing::error!(task = %id, %error, "an ended task cannot be read back");
                waiters.resolve(&id, None);
            }
        });
    }
}

#[async_trait]
impl TaskStore for SqliteStore {
    /// Nothing to do: the threads tell of ends themselves.
    async fn run(&self, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.submit(|_| Ok(())).await
    }

    async fn enqueue(&self, task: &crate::task::Task, queue: &Queue) -> Result<(), StoreError> {
        let (task, max_backlog) = (NewTask::seal(task)?, queue.max_backlog);
        let taken = self.writer.submit(move |db| ops::enqueue(db, &task, max_backlog)).await?;
        Ok(taken?)
    }

    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        let (asked, now) = (id.clone(), self.clock.wall());
        let mut record = self.reader.ask(move |connection| reader::record(connection, &asked, now)).await?;
        if let Some(record) = record.as_mut().filter(|record| record.status == Status::Processing) {
            record.progress = self.running.progress(id);
        }
        Ok(record)
    }

    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<Cancelled, StoreError> {
        let id = id.clone();
        self.writer.submit(move |db| ops::cancel(db, &id, ttl)).await
    }

    async fn lease(
        &self,
        process: &str,
        queues: &[Queue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let topics: Vec<Topic> = queues.iter().map(|queue| queue.topic.clone()).collect();
        let rows = self.writer.lease(process.to_owned(), topics, max, wait).await?;
        Ok(self.open_leases(rows, queues).await)
    }

    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<Settled, StoreError> {
        let (id, number, settlement) = (lease.task.id.clone(), sealed::number(lease), Sealed::seal(settlement)?);
        let settled = self.writer.submit(move |db| ops::settle(db, &id, number, &settlement)).await;
        if settled.is_ok() {
            self.running.end(&lease.task.id, number);
        }
        settled
    }

    async fn renew(&self, _process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        let leases: Vec<_> = leases.iter().map(|lease| (lease.task.id.clone(), sealed::number(lease))).collect();
        self.writer.submit(move |db| ops::renew(db, &leases)).await
    }

    async fn tend(&self, _process: &str, _queues: &[Queue], ttl: Duration) -> Result<Vec<Buried>, StoreError> {
        let keep = move |db: &mut Db| {
            outbox::purge(db)?;
            claim::purge(db)?;
            rollout::purge(db)?;
            ops::reap(db, ttl)
        };
        let dead = self.writer.submit(keep).await?;
        for _ in 0..PURGES {
            if self.writer.submit(ops::purge).await? < ops::PURGE {
                break;
            }
        }
        Ok(dead)
    }

    async fn depths(&self, queues: &[Queue]) -> Result<Vec<Depth>, StoreError> {
        let topics: Vec<Topic> = queues.iter().map(|queue| queue.topic.clone()).collect();
        let (tallies, now) = (self.tallies.clone(), self.clock.wall());
        let depth = move |connection: &rusqlite::Connection, topic: &Topic| {
            let tally = tallies.of(topic.as_str());
            let oldest = if tally.queued() > 0 { reader::oldest(connection, topic)? } else { None };
            Ok(Depth {
                queued: tally.queued(),
                processing: tally.leased,
                dead: tally.dead,
                oldest: oldest.map(|created| now.since(created)).unwrap_or_default(),
            })
        };
        self.reader.ask(move |connection| topics.iter().map(|topic| depth(connection, topic)).collect()).await
    }

    async fn dead_letters(&self, queue: &Queue, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let topic = queue.topic.clone();
        self.reader.ask(move |connection| reader::dead_letters(connection, &topic, i64::MAX, limit)).await
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        let until = self.clock.steady() + heartbeat_time();
        self.live_heartbeats().insert(heartbeat.process.clone(), (heartbeat.clone(), until));
        Ok(())
    }

    async fn leave(&self, process: &str) -> Result<(), StoreError> {
        self.live_heartbeats().remove(process);
        Ok(())
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        Ok(self.live_heartbeats().values().map(|(heartbeat, _)| heartbeat.clone()).collect())
    }

    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        let route = route.to_owned();
        self.reader.ask(move |connection| rollout::load(connection, &route).map_err(schema::failed)).await
    }

    async fn save_rollout(&self, route: &str, record: &RolloutRecord, change: &Change) -> Result<bool, StoreError> {
        let (route, record, change) = (route.to_owned(), record.clone(), change.clone());
        self.writer.submit(move |db| rollout::save(db, &route, &record, &change)).await
    }

    async fn meet(&self, presence: &Presence, routes: &[String]) -> Result<Meeting, StoreError> {
        let said = (presence.about.clone(), self.clock.steady() + lead_time());
        self.live_replicas().insert(presence.process.clone(), said);
        let (presence, routes) = (presence.clone(), routes.to_vec());
        let mut meeting = self.writer.submit(move |db| rollout::meet(db, &presence, &routes)).await?;
        let replica = |(process, (about, _)): (&String, &(String, Duration))| (process.clone(), about.clone());
        meeting.replicas = self.live_replicas().iter().map(replica).collect();
        Ok(meeting)
    }

    async fn resign(&self, process: &str) -> Result<(), StoreError> {
        self.live_replicas().remove(process);
        let process = process.to_owned();
        self.writer
            .submit(move |db| {
                rollout::resign(db, &process);
                Ok(())
            })
            .await
    }

    async fn rollout_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        let (route, before) = (route.to_owned(), before.map(str::to_owned));
        self.reader.ask(move |connection| rollout::history(connection, &route, before.as_deref(), limit)).await
    }

    async fn evidence(&self, route: &str, epochs: &[u64]) -> Result<Vec<StoredEvidence>, StoreError> {
        let (route, epochs, now) = (route.to_owned(), epochs.to_vec(), self.clock.wall());
        let ask = move |connection: &rusqlite::Connection| rollout::evidence(connection, &route, &epochs, now);
        self.reader.ask(move |connection| ask(connection).map_err(schema::failed)).await
    }

    async fn note_callers(&self, route: &str, calls: &[Caller]) -> Result<(), StoreError> {
        let (route, calls) = (route.to_owned(), calls.to_vec());
        self.writer.submit(move |db| rollout::note_callers(db, &route, &calls)).await
    }

    async fn callers(&self, route: &str) -> Result<Vec<Caller>, StoreError> {
        let (route, now) = (route.to_owned(), self.clock.wall());
        let ask = move |connection: &rusqlite::Connection| rollout::callers(connection, &route, now);
        self.reader.ask(move |connection| ask(connection).map_err(schema::failed)).await
    }

    /// Nothing to do: the writer wakes for them.
    async fn promote(&self, _queues: &[Queue]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn take_deliveries(&self, max: usize, hold: Duration) -> Result<Vec<Delivery>, StoreError> {
        if self.outbox_depth().await? == 0 {
            return Ok(Vec::new()); // the writer is left alone
        }
        let taken = self.writer.submit(move |db| outbox::take(db, max, hold)).await?;
        taken.into_iter().map(outbox::Taken::open).collect()
    }

    async fn settle_delivery(&self, delivery: &Delivery, outcome: &Outcome) -> Result<(), StoreError> {
        let (delivery, outcome) = (delivery.clone(), outcome.clone());
        self.writer.submit(move |db| outbox::settle(db, &delivery, &outcome)).await
    }

    async fn deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        let id = id.clone();
        self.reader.ask(move |connection| outbox::records(connection, &id)).await
    }

    async fn outbox_depth(&self) -> Result<u64, StoreError> {
        self.reader.ask(outbox::count).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let claim = claim.clone();
        self.writer.submit(move |db| claim::claim(db, &claim)).await?.open()
    }

    async fn conclude(&self, claim: &Claim, conclusion: &Conclusion) -> Result<(), StoreError> {
        let (claim, state) = (claim.clone(), conclusion.as_str());
        let (task, answer) = match conclusion {
            Conclusion::Task(task) => (Some(task.to_string()), None),
            Conclusion::Answer(answer) => (None, Some(sealed::answer(answer)?)),
            Conclusion::Unkept => (None, None),
        };
        let conclude = move |db: &mut Db| claim::conclude(db, &claim, state, task.as_deref(), answer.as_deref());
        self.writer.submit(conclude).await
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), StoreError> {
        let claim = claim.clone();
        self.writer.submit(move |db| claim::abandon(db, &claim)).await
    }

    fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    async fn report(&self, id: &TaskId, holder: &Holder, progress: &Progress) -> Result<bool, StoreError> {
        Ok(self.running.note(id, sealed::number_of(&holder.entry), progress))
    }

    async fn secret(&self) -> Result<SharedSecret, StoreError> {
        Ok(self.secret.clone())
    }

    async fn glance(&self, ids: &[TaskId]) -> Result<Vec<Glance>, StoreError> {
        let (asked, now) = (ids.to_vec(), self.clock.wall());
        let look = move |connection: &rusqlite::Connection| {
            asked.iter().map(|id| reader::glance(connection, id, now)).collect::<Result<Vec<_>, _>>()
        };
        let mut found = self.reader.ask(look).await?;
        for (id, glance) in ids.iter().zip(&mut found) {
            if let Glance::Going(standing) = glance
                && standing.status == Status::Processing
            {
                standing.progress = self.running.progress(id);
            }
        }
        Ok(found)
    }

    async fn dead_letters_before(
        &self,
        queue: &Queue,
        before: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let topic = queue.topic.clone();
        let before = before.parse().map_err(|_| no_cursor("before"))?;
        self.reader.ask(move |connection| reader::dead_letters(connection, &topic, before, limit)).await
    }

    async fn redrive(&self, queue: &Queue, id: &str, now: UnixMs) -> Result<Redriven, StoreError> {
        let (topic, id) = (queue.topic.clone(), id.to_owned());
        self.writer.submit(move |db| redrive::redrive(db, &topic, &id, now)).await
    }

    async fn discard(&self, queue: &Queue, id: &str) -> Result<bool, StoreError> {
        let (topic, id) = (queue.topic.clone(), id.to_owned());
        self.writer.submit(move |db| redrive::discard(db, &topic, &id)).await
    }

    async fn life(&self, id: &TaskId) -> Result<Option<Life>, StoreError> {
        let (asked, now) = (id.clone(), self.clock.wall());
        let mut life = self.reader.ask(move |connection| reader::life(connection, &asked, now)).await?;
        if let Some(life) = life.as_mut().filter(|life| life.record.status == Status::Processing) {
            life.record.progress = self.running.progress(id);
        }
        Ok(life)
    }

    async fn list(&self, _queues: &[Queue], listing: &Listing) -> Result<Page, StoreError> {
        let (listing, now) = (listing.clone(), self.clock.wall());
        self.reader.ask(move |connection| list::page(connection, &listing, now)).await
    }

    async fn advice(&self) -> Result<Vec<Advice>, StoreError> {
        Ok(Vec::new()) // it sets its file up itself
    }

    /// Nothing to do: nobody else can have the file.
    async fn attend(&self, _queues: &[Queue], _ttl: Duration) -> Result<Vec<Buried>, StoreError> {
        Ok(Vec::new())
    }
}
