//! The writer: one thread that applies all waiting changes in one transaction, and answers after
//! its commit.
//!
//! Changes that arrive while a commit waits for the disk form the next batch, so batching delays no
//! change. When a change fails, its batch is rolled back and its changes are applied again one by
//! one, so that only the faulty change fails. Lease calls that find no task wait here, in order of
//! arrival, until a later batch or the due time of a retry provides tasks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::store::error::StoreError;
use crate::store::lease::{LeaseDemand, QueueDemand};
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::LeasedTaskRow;
use crate::store::sqlite::schema::{is_disk_error, map_query_error};
use crate::store::sqlite::sql::{lease, queue};
use crate::task::{TaskId, Topic};

/// The most changes in one transaction.
const MAX_BATCH_CHANGES: usize = 256;

/// The handle of the writer thread; dropping it applies what was sent and joins the thread.
pub(crate) struct WriterThread {
    messages: Option<Sender<WriterMessage>>,
    thread: Option<JoinHandle<()>>,
    next_lease_number: AtomicU64,
}

enum WriterMessage {
    Change(Box<dyn DatabaseChange>),
    LeaseTasks(LeaseRequest),
    /// Ends the wait of the lease call with this number.
    StopLeaseWait(u64),
}

/// A change to the database, with the channel on which its caller awaits the result.
trait DatabaseChange: Send {
    /// Applies the change inside a transaction; called again if the transaction is rolled back.
    fn apply_change(&mut self, db: &mut WriterDatabase) -> rusqlite::Result<()>;
    /// Sends the result to the caller; `committed` is the result of the transaction.
    fn send_reply(self: Box<Self>, committed: Result<(), StoreError>);
}

struct PendingChange<F, T> {
    apply: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// A lease call that waits for tasks.
struct LeaseRequest {
    number: u64,
    process_name: String,
    /// The topics, each with the most tasks to lease from it.
    topics: Vec<(Topic, usize)>,
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

// === impl WriterThread ===

impl WriterThread {
    /// Starts the thread. It calls `on_task_end` for each task that ended, after the commit.
    pub(crate) fn start(
        db: WriterDatabase,
        on_task_end: impl Fn(TaskId) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (messages, receiver) = mpsc::channel();
        let thread = WriterLoop { db, receiver, lease_requests: Vec::new(), on_task_end };
        let thread =
            thread::Builder::new().name("sqlite-writer".into()).spawn(move || thread.run())?;
        Ok(Self {
            messages: Some(messages),
            thread: Some(thread),
            next_lease_number: AtomicU64::new(0),
        })
    }

    /// Applies a change and returns its result after the commit. `apply` may be called again after
    /// a rollback.
    pub(crate) async fn submit_change<T: Send + 'static>(
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

    /// Leases tasks, waiting for the first.
    pub(crate) async fn request_leases(
        &self,
        demand: &LeaseDemand<'_>,
    ) -> Result<Vec<LeasedTaskRow>, StoreError> {
        let (reply, mut answer) = oneshot::channel();
        let now = Instant::now();
        let number = self.next_lease_number.fetch_add(1, Ordering::Relaxed);
        let topic = |queue: &QueueDemand| (queue.queue.topic.clone(), queue.max);
        self.send_message(WriterMessage::LeaseTasks(LeaseRequest {
            number,
            process_name: demand.process_name.to_owned(),
            topics: demand.queues.iter().map(topic).collect(),
            max: demand.max,
            deadline: now.checked_add(demand.wait).unwrap_or(now),
            granted_rows: Vec::new(),
            reply,
        }))?;
        let answered = tokio::select! {
            biased;
            answered = &mut answer => Some(answered),
            () = demand.stop_waiting.notified() => None,
        };
        let answered = if let Some(answered) = answered {
            answered
        } else {
            self.send_message(WriterMessage::StopLeaseWait(number))?;
            answer.await
        };
        answered.unwrap_or_else(|_| Err(thread_ended_error()))
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

// === impl PendingChange ===

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
        let _ = reply.send(result); // an error: the caller has stopped waiting
    }
}

// === impl WriterLoop ===

impl<E: Fn(TaskId)> WriterLoop<E> {
    fn run(mut self) {
        while let Some(changes) = self.collect_batch() {
            self.process_batch(changes);
        }
        // The write-ahead log keeps old pages, deleted credentials among them, until it is written
        // back and truncated.
        if let Err(error) =
            self.db.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        {
            tracing::warn!(%error, "the write-ahead log was not truncated");
        }
    }

    /// Waits for messages, for the deadline of a lease call, or for a task that becomes due for
    /// one. None when the handle is dropped.
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
                WriterMessage::LeaseTasks(request) => self.lease_requests.push(request),
                WriterMessage::StopLeaseWait(number) => {
                    let mut requests = self.lease_requests.iter_mut();
                    if let Some(request) = requests.find(|request| request.number == number) {
                        request.deadline = Instant::now();
                    }
                }
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
        let first = self.lease_requests.iter().map(|request| request.deadline).min()?;
        let first = first.saturating_duration_since(Instant::now());
        Some(self.db.next_due.map_or(first, |due| first.min(due.since(self.db.clock.store_time()))))
    }

    fn process_batch(&mut self, mut changes: Vec<Box<dyn DatabaseChange>>) {
        self.lease_requests.retain(|request| !request.reply.is_closed());
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

    /// Applies the changes of a failed batch again, each in a transaction of its own, then grants
    /// leases.
    fn apply_one_by_one(&mut self, changes: Vec<Box<dyn DatabaseChange>>) {
        for mut change in changes {
            let committed = self.apply_in_transaction(std::slice::from_mut(&mut change), false);
            let committed = committed.map_err(|error| self.log_write_error(error));
            change.send_reply(committed);
        }
        if let Err(error) = self.apply_in_transaction(&mut [], true) {
            let error = self.log_write_error(error);
            self.fail_lease_requests(&error);
        }
    }

    /// Applies changes in one transaction, and grants leases in it if `grant_leases`.
    fn apply_in_transaction(
        &mut self,
        changes: &mut [Box<dyn DatabaseChange>],
        grant_leases: bool,
    ) -> rusqlite::Result<()> {
        let committed = self.db.begin_transaction().and_then(|()| {
            changes.iter_mut().try_for_each(|change| change.apply_change(&mut self.db))?;
            if grant_leases {
                queue::ready_due_tasks(&mut self.db)?;
                self.grant_leases()?;
            }
            self.db.commit_transaction()
        });
        if committed.is_ok() {
            self.db.ended_task_ids.drain(..).for_each(&self.on_task_end);
        } else {
            self.db.roll_back_transaction();
            self.lease_requests.iter_mut().for_each(|request| request.granted_rows.clear());
        }
        committed
    }

    fn grant_leases(&mut self) -> rusqlite::Result<()> {
        for request in &mut self.lease_requests {
            if !self.db.queue_counts.has_ready_tasks() {
                break;
            }
            let (name, topics) = (&request.process_name, &request.topics);
            request.granted_rows = lease::lease_tasks(&mut self.db, name, topics, request.max)?;
        }
        Ok(())
    }

    /// Answers the lease calls that the last commit granted tasks, and those past their deadline.
    fn answer_lease_requests(&mut self) {
        let now = Instant::now();
        for mut request in self
            .lease_requests
            .extract_if(.., |request| !request.granted_rows.is_empty() || request.deadline <= now)
        {
            let _ = request.reply.send(Ok(std::mem::take(&mut request.granted_rows)));
        }
    }

    fn fail_lease_requests(&mut self, error: &StoreError) {
        for request in self.lease_requests.drain(..) {
            let _ = request.reply.send(Err(error.clone()));
        }
    }

    #[allow(clippy::needless_pass_by_value)] // as the argument of map_err
    fn log_write_error(&self, error: rusqlite::Error) -> StoreError {
        let path = self.db.connection.path();
        tracing::error!(%error, path, "the embedded store could not write");
        map_query_error(error)
    }
}
