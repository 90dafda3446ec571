//! The one writer: a thread that puts whatever is waiting into one transaction, and answers after its commit.
//!
//! Batching is natural: what arrives while a commit waits for the disk is the next batch, so nothing lingers.
//! Where a change fails, its batch is given up and done again one by one: a failure is rare, and fails alone.
//! Lease calls that find nothing wait here, in order, until a later batch or a retry's time brings them tasks.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::db::Db;
use super::ops;
use super::schema::{failed, is_of_the_disk};
use super::sealed::Leased;
use crate::store::StoreError;
use crate::task::{TaskId, Topic};

/// Changes in one transaction at most.
const BATCH: usize = 256;

/// The thread's handle; dropping it finishes what was sent and joins the thread.
pub(super) struct Writer {
    messages: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

enum Message {
    Change(Box<dyn Change>),
    Lease(Lessee),
}

/// A change to the database and the one who waits for its result.
trait Change: Send {
    fn apply(&mut self, db: &mut Db) -> rusqlite::Result<()>;
    fn reply(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Pending<F, T> {
    apply: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// A lease call.
struct Lessee {
    process: String,
    topics: Vec<Topic>,
    max: usize,
    until: Instant,
    granted: Vec<Leased>,
    reply: oneshot::Sender<Result<Vec<Leased>, StoreError>>,
}

struct Thread<E> {
    db: Db,
    received: Receiver<Message>,
    lessees: Vec<Lessee>,
    on_end: E,
}

// === impl Writer ===

impl Writer {
    /// Starts the thread; `on_end` hears of each task that ended, after the commit.
    pub(super) fn start(db: Db, on_end: impl Fn(TaskId) + Send + 'static) -> std::io::Result<Self> {
        let (messages, received) = mpsc::channel();
        let thread = Thread { db, received, lessees: Vec::new(), on_end };
        let thread = thread::Builder::new().name("sqlite-writer".into()).spawn(move || thread.run())?;
        Ok(Self { messages: Some(messages), thread: Some(thread) })
    }

    /// Applies a change; its result comes after the commit. It may be applied more than once, and counts once.
    pub(super) async fn submit<T: Send + 'static>(
        &self,
        apply: impl FnMut(&mut Db) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Change(Box::new(Pending { apply, result: None, reply })))?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Leases up to `max` tasks, waiting up to `wait` for the first.
    pub(super) async fn lease(
        &self,
        process: String,
        topics: Vec<Topic>,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Leased>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let until = now.checked_add(wait).unwrap_or(now);
        self.send(Message::Lease(Lessee { process, topics, max, until, granted: Vec::new(), reply }))?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        let sent = self.messages.as_ref().is_some_and(|messages| messages.send(message).is_ok());
        if sent { Ok(()) } else { Err(StoreError::Unreachable("its writer thread has ended".into())) }
    }
}

fn gone() -> StoreError {
    StoreError::Unknown("its writer thread has ended".into())
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.messages.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the embedded store's writer thread panicked");
        }
    }
}

// === impl Pending ===

impl<F, T> Change for Pending<F, T>
where
    F: FnMut(&mut Db) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn apply(&mut self, db: &mut Db) -> rusqlite::Result<()> {
        self.result = Some((self.apply)(db)?);
        Ok(())
    }

    fn reply(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { result, reply, .. } = *self;
        let result = committed.and_then(|()| result.ok_or_else(gone));
        let _ = reply.send(result); // an error: its caller has stopped waiting
    }
}

// === impl Thread ===

impl<E: Fn(TaskId)> Thread<E> {
    fn run(mut self) {
        while let Some(changes) = self.gather() {
            self.turn(changes);
        }
        // The log keeps older pages until it is written back; nothing of them should be left behind.
        if let Err(error) = self.db.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(%error, "the write-ahead log stays for the next start");
        }
    }

    /// Waits for messages, or for a lessee's time or a retry that one waits for; none when nobody can send any more.
    fn gather(&mut self) -> Option<Vec<Box<dyn Change>>> {
        let mut next = match self.wake_in() {
            None => Some(self.received.recv().ok()?),
            Some(wait) => match self.received.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut changes = Vec::new();
        while let Some(message) = next {
            match message {
                Message::Change(change) => changes.push(change),
                Message::Lease(lessee) => self.lessees.push(lessee),
            }
            next = if changes.len() < BATCH { self.received.try_recv().ok() } else { None };
        }
        Some(changes)
    }

    fn wake_in(&self) -> Option<Duration> {
        let first = self.lessees.iter().map(|lessee| lessee.until).min()?;
        let first = first.saturating_duration_since(Instant::now());
        Some(self.db.next_due.map_or(first, |due| first.min(due.since(self.db.clock.wall()))))
    }

    fn turn(&mut self, mut changes: Vec<Box<dyn Change>>) {
        self.lessees.retain(|lessee| !lessee.reply.is_closed());
        match self.transact(&mut changes, true) {
            Ok(()) => {
                for change in changes {
                    change.reply(Ok(()));
                }
            }
            Err(error) if is_of_the_disk(&error) => {
                let error = self.report(error);
                for change in changes {
                    change.reply(Err(error.clone()));
                }
                self.refuse_lessees(&error);
            }
            Err(_) => self.one_by_one(changes),
        }
        self.answer_lessees();
    }

    /// Does the changes of a failed batch again, each in a transaction of its own, then the leases.
    fn one_by_one(&mut self, changes: Vec<Box<dyn Change>>) {
        for mut change in changes {
            let done = self.transact(std::slice::from_mut(&mut change), false);
            let done = done.map_err(|error| self.report(error));
            change.reply(done);
        }
        if let Err(error) = self.transact(&mut [], true) {
            let error = self.report(error);
            self.refuse_lessees(&error);
        }
    }

    fn transact(&mut self, changes: &mut [Box<dyn Change>], serve: bool) -> rusqlite::Result<()> {
        let done = self.db.begin().and_then(|()| {
            changes.iter_mut().try_for_each(|change| change.apply(&mut self.db))?;
            if serve {
                ops::promote(&mut self.db)?;
                self.serve()?;
            }
            self.db.commit()
        });
        if done.is_ok() {
            self.db.ended.drain(..).for_each(&self.on_end);
        } else {
            self.db.abandon();
            self.lessees.iter_mut().for_each(|lessee| lessee.granted.clear());
        }
        done
    }

    fn serve(&mut self) -> rusqlite::Result<()> {
        for lessee in &mut self.lessees {
            if !self.db.tallies.any_ready() {
                break;
            }
            lessee.granted = ops::lease(&mut self.db, &lessee.process, &lessee.topics, lessee.max)?;
        }
        Ok(())
    }

    /// Gives lessees what the last commit brought them, or nothing when their time is up.
    fn answer_lessees(&mut self) {
        let now = Instant::now();
        for mut lessee in self.lessees.extract_if(.., |lessee| !lessee.granted.is_empty() || lessee.until <= now) {
            let _ = lessee.reply.send(Ok(std::mem::take(&mut lessee.granted)));
        }
    }

    fn refuse_lessees(&mut self, error: &StoreError) {
        for lessee in self.lessees.drain(..) {
            let _ = lessee.reply.send(Err(error.clone()));
        }
    }

    #[allow(clippy::needless_pass_by_value)] // as the argument of map_err
    fn report(&self, error: rusqlite::Error) -> StoreError {
        tracing::error!(%error, path = self.db.connection.path(), "the embedded store could not write");
        failed(error)
    }
}
