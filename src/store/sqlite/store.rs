//! The SQLite store: its threads, and the state in memory that its calls share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::database::{DatabaseLock, QueueCountsByTopic, SqliteClock, WriterDatabase};
use super::memory::{ExpiringMap, RunningAttempts};
use super::schema::{create_database_file, map_setup_error, open_reader, open_writer};
use super::sql::shown_times::convert_record_times;
use super::sql::tasks::load_task_record;
use super::threads::{ReaderThread, WriterThread};
use crate::store::error::StoreError;
use crate::store::lease_token::SharedSecret;
use crate::store::wait::TaskEndWaiters;
use crate::store::worker::WorkerHeartbeat;
use crate::task::TaskId;

/// A complete store in a SQLite file.
pub struct SqliteStore {
    // Fields are dropped in this order: the writer applies what was sent and closes, then the
    // reader, and the lock is released last.
    pub(super) writer: WriterThread,
    pub(super) reader: Arc<ReaderThread>,
    pub(super) queue_counts: QueueCountsByTopic,
    pub(super) end_waiters: TaskEndWaiters,
    pub(super) clock: SqliteClock,
    /// The heartbeats of the processes, each with the steady time at which it was recorded.
    pub(super) heartbeats: ExpiringMap<(WorkerHeartbeat, Duration)>,
    /// The descriptions of the live replicas.
    pub(super) replicas: ExpiringMap<String>,
    pub(super) running_attempts: RunningAttempts,
    /// Created at each start: the leases that its tokens name end with the process too.
    pub(super) shared_secret: SharedSecret,
    _lock: DatabaseLock,
}

// === impl SqliteStore ===

impl SqliteStore {
    /// Opens the database at `path`, creating it where it is missing, and locks it for this
    /// process.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it; [`StoreError::InvalidSetup`] when it
    /// cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with_clock(path, SqliteClock::default())
    }

    /// [`Self::open`] with a clock that the caller can move ahead.
    pub fn open_with_clock(path: &Path, clock: SqliteClock) -> Result<Self, StoreError> {
        let path = create_database_file(path)?;
        let lock = DatabaseLock::acquire_lock(&path)?;
        let connection = open_writer(&path)?;
        let (queue_counts, end_waiters) =
            (QueueCountsByTopic::default(), TaskEndWaiters::default());
        let db = WriterDatabase::recover_from_boot(connection, clock.clone(), queue_counts.clone())
            .map_err(map_setup_error(&path))?;
        let no_thread =
            |error| StoreError::InvalidSetup(format!("no thread for the embedded store: {error}"));
        let reader = Arc::new(ReaderThread::start(open_reader(&path)?).map_err(no_thread)?);
        let running_attempts = RunningAttempts::default();
        let notify_waiters =
            build_end_notifier(Arc::clone(&reader), end_waiters.clone(), clock.clone());
        let attempts = running_attempts.clone();
        let on_task_end = move |id| {
            attempts.forget_task(&id);
            notify_waiters(id);
        };
        let writer = WriterThread::start(db, on_task_end).map_err(no_thread)?;
        Ok(Self {
            writer,
            reader,
            queue_counts,
            end_waiters,
            clock,
            heartbeats: ExpiringMap::default(),
            replicas: ExpiringMap::default(),
            running_attempts,
            shared_secret: SharedSecret::random(),
            _lock: lock,
        })
    }
}

/// The function that is called for each ended task: it reads the record on the reader thread and
/// resolves the waiters of the task with it.
fn build_end_notifier(
    reader: Arc<ReaderThread>,
    waiters: TaskEndWaiters,
    clock: SqliteClock,
) -> impl Fn(TaskId) + Send + 'static {
    move |id| {
        if !waiters.has_waiter_for(&id) {
            return;
        }
        let (waiters, clock) = (waiters.clone(), clock.clone());
        let load = move |connection: &_, id: &_| {
            let mut record = load_task_record(connection, id, clock.store_time())?;
            if let Some(record) = &mut record {
                convert_record_times(&clock, record);
            }
            Ok::<_, StoreError>(record)
        };
        reader.send_query(move |connection| match load(connection, &id) {
            Ok(record) => waiters.resolve_task(&id, record.map(Arc::new).as_ref()),
            Err(error) => {
                tracing::error!(task = %id, %error, "an ended task cannot be read back");
                waiters.resolve_task(&id, None);
            }
        });
    }
}
