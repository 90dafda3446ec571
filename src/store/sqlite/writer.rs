//! The one writer: a thread that puts whatever is waiting into one transaction, and answers after
//! its commit.
//!
//! Batching is natural: what arrives while a commit waits for the disk is the next batch, so
//! nothing lingers. Where a change fails, its batch is given up and done again one by one: a
//! failure is rare, and fails alone. Lease calls that find nothing wait here, in order, until a
//! later batch or a retry's time brings them tasks.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::db::WriterDatabase;
use super::ops;
use super::schema::{is_disk_error, map_query_error};
use super::sealed::LeasedTaskRow;
use crate::store::StoreError;
use crate::task::{TaskId, Topic};

/// Changes in one transaction at most.
const MAX_BATCH_CHANGES: usize = 256;

/// The thread's handle; dropping it finishes what was sent and joins the thread.
pub(super) struct WriterThread {
    messages: Option<Sender<WriterMessage>>,
    thread: Option<JoinHandle<()>>,
}

enum WriterMessage {
    Change(Box<dyn DatabaseChange>),
    LeaseTasks(LeaseRequest),
}

/// A change to the database and the one who waits for its result.
trait DatabaseChange: Send {
    fn apply_change(&mut self, db: &mut WriterDatabase) -> rusqlite::Result<()>;
    fn send_reply(self: Box<Self>, committed: Result<(), StoreError>);
}

struct PendingChange<F, T> {
    apply: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// A lease call.
struct LeaseRequest {
    process: String,
    topics: Vec<Topic>,
    max: usize,
    deadline: Instant,
    granted_rows: Vec<LeasedTaskRow>,
    reply: oneshot::Sender<Result<Vec<LeasedTaskRow>, StoreError>>,
}

struct WriterLoop<E> {
    db: WriterDatabase,
    receiver: Receiver<WriterMessage>,
    lease_requests: Vec<LeaseRequest>,
    on_task_end: E,
}

// === impl Writer ===

impl WriterThread {
    /// Starts the thread; `on_end` hears of each task that ended, after the commit.
    pub(super) fn start(
        db: WriterDatabase,
        on_end: impl Fn(TaskId) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (messages, received) = mpsc::channel();
        let thread =
            WriterLoop { db, receiver: received, lease_requests: Vec::new(), on_task_end: on_end };
        let thread =
            thread::Builder::new().name("sqlite-writer".into()).spawn(move || thread.run())?;
        Ok(Self { messages: Some(messages), thread: Some(thread) })
    }

    /// Applies a change; its result comes after the commit. It may be applied more than once, and
    /// counts once.
    pub(super) async fn submit_change<T: Send + 'static>(
        &self,
        apply: impl FnMut(&mut WriterDatabase) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send_message(WriterMessage::Change(Box::new(PendingChange {
            apply,
            result: None,
            reply,
        })))?;
        answer.await.unwrap_or_else(|_| Err(thread_ended_error()))
    }

    /// Leases up to `max` tasks, waiting up to `wait` for the first.
    pub(super) async fn request_leases(
        &self,
        process: String,
        topics: Vec<Topic>,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<LeasedTaskRow>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let until = now.checked_add(wait).unwrap_or(now);
        self.send_message(WriterMessage::LeaseTasks(LeaseRequest {
            process,
            topics,
            max,
            deadline: until,
            granted_rows: Vec::new(),
            reply,
        }))?;
        answer.await.unwrap_or_else(|_| Err(thread_ended_error()))
    }

    fn send_message(&self, message: WriterMessage) -> Result<(), StoreError> {
        let sent = self.messages.as_ref().is_some_and(|messages| messages.send(message).is_ok());
        if sent {
            Ok(())
        } else {
            Err(StoreError::Unreachable("its writer thread has ended".into()))
        }
    }
}

fn thread_ended_error() -> StoreError {
    StoreError::OutcomeUnknown("its writer thread has ended".into())
}

impl Drop for WriterThread {
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

impl<F, T> DatabaseChange for PendingChange<F, T>
where
    F: FnMut(&mut WriterDatabase) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn apply_change(&mut self, db: &mut WriterDatabase) -> rusqlite::Result<()> {
        self.result = Some((self.apply)(db)?);
        Ok(())
    }

    fn send_reply(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { result, reply, .. } = *self;
        let result = committed.and_then(|()| result.ok_or_else(thread_ended_error));
        let _ = reply.send(result); // an error: its caller has stopped waiting
    }
}

// === impl Thread ===

impl<E: Fn(TaskId)> WriterLoop<E> {
    fn run(mut self) {
        while let Some(changes) = self.collect_batch() {
            self.process_batch(changes);
        }
        // The log keeps older pages until it is written back; nothing of them should be left
        // behind.
        if let Err(error) =
            self.db.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        {
            tracing::warn!(%error, "the write-ahead log stays for the next start");
        }
    }

    /// Waits for messages, or for a lessee's time or a retry that one waits for; none when nobody
    /// can send any more.
    fn collect_batch(&mut self) -> Option<Vec<Box<dyn DatabaseChange>>> {
        let mut next = match self.time_until_wakeup() {
            None => Some(self.receiver.recv().ok()?),
            Some(wait) => match self.receiver.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut changes = Vec::new();
        while let Some(message) = next {
            match message {
                WriterMessage::Change(change) => changes.push(change),
                WriterMessage::LeaseTasks(lessee) => self.lease_requests.push(lessee),
            }
            next = if changes.len() < MAX_BATCH_CHANGES {
                self.receiver.try_recv().ok()
            } else {
                None
            };
        }
        Some(changes)
    }

    fn time_until_wakeup(&self) -> Option<Duration> {
        let first = self.lease_requests.iter().map(|lessee| lessee.deadline).min()?;
        let first = first.saturating_duration_since(Instant::now());
        Some(self.db.next_due.map_or(first, |due| first.min(due.since(self.db.clock.wall_time()))))
    }

    fn process_batch(&mut self, mut changes: Vec<Box<dyn DatabaseChange>>) {
        self.lease_requests.retain(|lessee| !lessee.reply.is_closed());
        match self.apply_in_transaction(&mut changes, true) {
            Ok(()) => {
                for change in changes {
                    change.send_reply(Ok(()));
                }
            }
            Err(error) if is_disk_error(&error) => {
                let error = self.log_write_error(error);
                for change in changes {
                    change.send_reply(Err(error.clone()));
                }
                self.fail_lease_requests(&error);
            }
            Err(_) => self.apply_one_by_one(changes),
        }
        self.answer_lease_requests();
    }

    /// Does the changes of a failed batch again, each in a transaction of its own, then the leases.
    fn apply_one_by_one(&mut self, changes: Vec<Box<dyn DatabaseChange>>) {
        for mut change in changes {
            let done = self.apply_in_transaction(std::slice::from_mut(&mut change), false);
            let done = done.map_err(|error| self.log_write_error(error));
            change.send_reply(done);
        }
        if let Err(error) = self.apply_in_transaction(&mut [], true) {
            let error = self.log_write_error(error);
            self.fail_lease_requests(&error);
        }
    }

    fn apply_in_transaction(
        &mut self,
        changes: &mut [Box<dyn DatabaseChange>],
        serve: bool,
    ) -> rusqlite::Result<()> {
        let done = self.db.begin_transaction().and_then(|()| {
            changes.iter_mut().try_for_each(|change| change.apply_change(&mut self.db))?;
            if serve {
                ops::ready_due_tasks(&mut self.db)?;
                self.grant_leases()?;
            }
            self.db.commit_transaction()
        });
        if done.is_ok() {
            self.db.ended_task_ids.drain(..).for_each(&self.on_task_end);
        } else {
            self.db.roll_back_transaction();
            self.lease_requests.iter_mut().for_each(|lessee| lessee.granted_rows.clear());
        }
        done
    }

    fn grant_leases(&mut self) -> rusqlite::Result<()> {
        for lessee in &mut self.lease_requests {
            if !self.db.queue_counts.has_ready_tasks() {
                break;
            }
            lessee.granted_rows =
                ops::lease_tasks(&mut self.db, &lessee.process, &lessee.topics, lessee.max)?;
        }
        Ok(())
    }

    /// Gives lessees what the last commit brought them, or nothing when their time is up.
    fn answer_lease_requests(&mut self) {
        let now = Instant::now();
        for mut lessee in self
            .lease_requests
            .extract_if(.., |lessee| !lessee.granted_rows.is_empty() || lessee.deadline <= now)
        {
            let _ = lessee.reply.send(Ok(std::mem::take(&mut lessee.granted_rows)));
        }
    }

    fn fail_lease_requests(&mut self, error: &StoreError) {
        for lessee in self.lease_requests.drain(..) {
            let _ = lessee.reply.send(Err(error.clone()));
        }
    }

    #[allow(clippy::needless_pass_by_value)] // as the argument of map_err
    fn log_write_error(&self, error: rusqlite::Error) -> StoreError {
        tracing::error!(%error, path = self.db.connection.path(), "the embedded store could not write");
        map_query_error(error)
    }
}
