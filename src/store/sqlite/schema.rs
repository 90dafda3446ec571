//! The database file: how it is opened, what is in it, and what its errors mean.
//!
//! A task's row is small and changes; what it was given (`inputs`) is written once and read once,
//! so that a large body is not rewritten with each state. `seq` is the order of the queues. Each
//! index has only the rows of the states it serves, and every key but the public id is ascending.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::lock;
use crate::store::{StoreError, StoreRefusal};
use crate::task::{TaskStatus, UnixMs};

/// The schema that this release reads and writes.
const DATABASE_VERSION: i64 = 4;

/// `PRAGMA application_id`: "omni".
const APPLICATION_ID: i64 = 0x6f6d_6e69;

const CREATE_TABLES_SQL: &str = "
    CREATE TABLE tasks (
        seq      INTEGER PRIMARY KEY,
        id       TEXT NOT NULL UNIQUE,
        topic    TEXT NOT NULL,
        state    INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        lease    INTEGER NOT NULL DEFAULT 0, -- leases ever given: with the id, the fencing token
        settled  INTEGER NOT NULL DEFAULT 0, -- how the last lease was settled by its holder; 0 is not yet
        until    INTEGER NOT NULL DEFAULT 0, -- parked: when it is due; ended: when it expires
        retries  INTEGER NOT NULL,
        created  INTEGER NOT NULL,
        finished INTEGER,
        owner    TEXT,
        posts    INTEGER NOT NULL DEFAULT 0, -- whether somebody is to be told of its end
        answer   TEXT,
        result   TEXT,
        failure  TEXT,
        began    INTEGER, -- the last attempt, and the process that runs it
        worker   TEXT,
        history  TEXT,    -- the failed attempts, a line of JSON each
        caller   TEXT,    -- the caller's own id, which outlives the inputs
        trace    TEXT,
        epoch    INTEGER, -- of the rollout that it was accepted in; none is not counted
        clients  INTEGER  -- the group of its client
    ) STRICT;
    CREATE INDEX ready  ON tasks (topic, seq) WHERE state = 0;
    CREATE INDEX leased ON tasks (seq) WHERE state = 1;
    CREATE INDEX parked ON tasks (until) WHERE state = 2;
    CREATE INDEX ended  ON tasks (until) WHERE state > 2;
    CREATE TABLE inputs (
        seq         INTEGER PRIMARY KEY,
        payload     BLOB NOT NULL,
        request     TEXT,
        credentials TEXT,
        correlation TEXT,
        route       TEXT,
        webhook     TEXT,
        reply_to    TEXT,
        causation   TEXT,
        due         INTEGER -- when it could begin, where that was not at once
    ) STRICT;
    CREATE TABLE dead_letters (
        n        INTEGER PRIMARY KEY,
        seq      INTEGER NOT NULL, -- of its inputs
        id       TEXT NOT NULL,
        topic    TEXT NOT NULL,
        error    TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        failed   INTEGER NOT NULL,
        retries  INTEGER NOT NULL, -- this and the next two as in tasks, whose row may be gone when it runs again
        created  INTEGER NOT NULL,
        owner    TEXT
    ) STRICT;
    CREATE INDEX dead_by_topic ON dead_letters (topic, n);
    CREATE INDEX dead_by_id ON dead_letters (id);
    CREATE TABLE outbox (
        n           INTEGER PRIMARY KEY,
        task        TEXT NOT NULL,
        kind        TEXT NOT NULL,
        target      TEXT NOT NULL,
        event       TEXT NOT NULL,
        ended       INTEGER NOT NULL,
        body        BLOB NOT NULL,
        owner       TEXT,
        correlation TEXT,
        attempts    INTEGER NOT NULL DEFAULT 0,
        due         INTEGER, -- none once it is settled
        status      TEXT NOT NULL DEFAULT 'pending',
        error       TEXT,
        expires     INTEGER,
        UNIQUE (task, kind)
    ) STRICT;
    CREATE INDEX undelivered ON outbox (due) WHERE due IS NOT NULL;
    CREATE INDEX delivered ON outbox (expires) WHERE expires IS NOT NULL;
    CREATE TABLE claims (
        scope   TEXT PRIMARY KEY,
        request TEXT NOT NULL,
        holder  TEXT, -- none once it was served
        lease   INTEGER NOT NULL,
        task    TEXT NOT NULL,
        state   TEXT,
        answer  TEXT,
        until   INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX claims_until ON claims (until);
    CREATE TABLE rollouts (
        route   TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        state   TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE history (
        n     INTEGER PRIMARY KEY,
        route TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
    CREATE INDEX history_by_route ON history (route, n);
    CREATE TABLE epochs ( -- of rollouts, as long as anything that was counted in them is kept
        route TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        until INTEGER NOT NULL,
        PRIMARY KEY (route, epoch)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tallies (
        route TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        name  TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (route, epoch, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE counts (
        route   TEXT NOT NULL,
        epoch   INTEGER NOT NULL,
        process TEXT NOT NULL,
        counted TEXT NOT NULL,
        PRIMARY KEY (route, epoch, process)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE terms ( -- of leads: the last
        term INTEGER PRIMARY KEY
    ) STRICT;
    CREATE TABLE callers (
        route TEXT NOT NULL,
        who   TEXT NOT NULL,
        count INTEGER NOT NULL,
        last  INTEGER NOT NULL,
        PRIMARY KEY (route, who)
    ) STRICT, WITHOUT ROWID;
";

/// Part of an update: the attempt that ends is added to the history, as `store/runs.rs` reads it.
/// It takes `:now`, `:kind` and `:error`, and gives up when the history is longer than anybody
/// reads.
macro_rules! with_history {
    () => {
        "history = CASE WHEN length(history) > 16000 THEN history ELSE coalesce(history || char(10), '') ||
             json_object('n', attempts, 'worker', worker, 'began', began, 'ended', :now, 'kind', :kind, 'error', :error)
         END"
    };
}
pub(super) use with_history;

/// Where a task's row stands; the numbers are in the file and in the indexes' conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskRowState {
    Ready = 0,
    Leased = 1,
    Delayed = 2,
    Completed = 3,
    Failed = 4,
    Cancelled = 5,
}

// === opening ===

/// Makes the file where it is missing, for its owner alone, and gives its one true path.
pub(super) fn create_database_file(path: &Path) -> Result<PathBuf, StoreError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| {
            let (file, directory) = (path.display(), parent.display());
            StoreError::InvalidSetup(format!(
                "{file}: the directory {directory} cannot be made: {error}: make it, or choose another store.url"
            ))
        })?;
    }
    lock::open_private_file(path).and_then(|_| path.canonicalize()).map_err(|error| {
        StoreError::InvalidSetup(format!(
            "{}: cannot be opened: {error}: choose another store.url",
            path.display()
        ))
    })
}

/// The connection that writes; the caller holds the lock.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let connection = open_connection(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    prepare_schema(&connection, path)?;
    Ok(connection)
}

/// A connection that reads beside the writer.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    open_connection(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open_connection(path: &Path, mode: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(map_setup_error(path))?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(map_setup_error(path))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Checks that the file is ours and of this schema before anything in it is changed.
fn prepare_schema(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let refuse = |why: String| Err(StoreError::InvalidSetup(format!("{}: {why}", path.display())));
    let pragma = |sql| {
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(map_setup_error(path))
    };
    let (application, version) = (pragma("PRAGMA application_id")?, pragma("PRAGMA user_version")?);
    let fresh =
        application == 0 && version == 0 && pragma("SELECT count(*) FROM sqlite_schema")? == 0;
    if !fresh && application != APPLICATION_ID {
        return refuse("a database of another program: choose another store.url".into());
    }
    if !fresh && version != DATABASE_VERSION {
        return refuse(format!(
            "has schema {version}, this release reads {DATABASE_VERSION}: run the release that wrote it, or move the file away to start empty"
        ));
    }
    // What is deleted is overwritten: credentials must not outlive their task in free pages.
    let pragmas = "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA secure_delete = ON;
         PRAGMA temp_store = MEMORY; PRAGMA cache_size = -32000;
         PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864;";
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(map_setup_error(path))?;
    if mode != "wal" {
        return refuse(
            "its file system has no shared memory for a write-ahead log: use a local disk".into(),
        );
    }
    connection.execute_batch(pragmas).map_err(map_setup_error(path))?;
    if fresh {
        let create = format!(
            "BEGIN; {CREATE_TABLES_SQL} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {DATABASE_VERSION}; COMMIT;"
        );
        connection.execute_batch(&create).map_err(map_setup_error(path))?;
    }
    Ok(())
}

// === errors ===

/// What an error while opening means.
pub(super) fn map_setup_error(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| {
        let (path, code) = (path.display(), error.sqlite_error_code());
        StoreError::InvalidSetup(match code {
            Some(ErrorCode::NotADatabase) => {
                format!("{path}: not a SQLite database: choose another store.url")
            }
            Some(ErrorCode::DatabaseCorrupt) => {
                format!("{path}: {error}: restore a backup, or move the file away to start empty")
            }
            _ => format!("{path}: {error}: make the path writable, or choose another store.url"),
        })
    }
}

/// What an error of an open database means.
#[allow(clippy::needless_pass_by_value)] // as the argument of map_err
pub(super) fn map_query_error(error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory | ErrorCode::TooBig) => {
            StoreRefusal::StorageFull(text).into()
        }
        Some(ErrorCode::ReadOnly) => StoreRefusal::ReadOnly(text).into(),
        Some(
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation,
        )
        | None => StoreError::Malformed(text),
        Some(_) => StoreError::Unreachable(text),
    }
}

/// Whether an error is the disk's, so that whatever else is written will meet it too.
pub(super) fn is_disk_error(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure))
}

// === values ===

/// A number as it is stored: SQLite's are signed.
pub(super) fn u64_to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number as it was stored.
pub(super) fn u64_from_sql(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or_default()
}

/// A time as it is stored.
pub(super) fn time_to_sql(at: UnixMs) -> i64 {
    u64_to_sql(at.0)
}

/// A time as it was stored.
pub(super) fn time_from_sql(stored: i64) -> UnixMs {
    UnixMs(u64_from_sql(stored))
}

impl TaskRowState {
    /// What a client sees.
    pub(super) fn to_status(self) -> TaskStatus {
        match self {
            Self::Ready | Self::Delayed => TaskStatus::Queued,
            Self::Leased => TaskStatus::Processing,
            Self::Completed => TaskStatus::Completed,
            Self::Failed => TaskStatus::Failed,
            Self::Cancelled => TaskStatus::Cancelled,
        }
    }
}

impl ToSql for TaskRowState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(*self as i64))
    }
}

impl FromSql for TaskRowState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        [Self::Ready, Self::Leased, Self::Delayed, Self::Completed, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| *state as i64 == number)
            .ok_or(FromSqlError::OutOfRange(number))
    }
}
