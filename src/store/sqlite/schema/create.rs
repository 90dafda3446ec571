//! Creating and opening the database file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::errors::map_setup_error;
use super::tables::{
    APPLICATION_ID, CREATE_CLOCK_SQL, CREATE_TABLES_SQL, DATABASE_VERSION, MIGRATE_FROM_4_SQL,
};
use crate::store::error::StoreError;

/// Creates the file where it is missing, readable by its owner only. Returns its canonical path, so
/// that one file has one lock whatever name it is opened under.
pub(crate) fn create_database_file(path: &Path) -> Result<PathBuf, StoreError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| {
            let (file, directory) = (path.display(), parent.display());
            StoreError::InvalidSetup(format!(
                "{file}: the directory {directory} cannot be made: {error}: make it, or choose \
                 another store.url"
            ))
        })?;
    }
    open_private_file(path).and_then(|_| path.canonicalize()).map_err(|error| {
        StoreError::InvalidSetup(format!(
            "{}: cannot be opened: {error}: choose another store.url",
            path.display()
        ))
    })
}

/// Opens a file for reading and writing, creating it with mode 0600 where it is missing.
pub(crate) fn open_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The one connection that writes. The caller holds the lock of the file.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let connection = open_connection(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    prepare_schema(&connection, path)?;
    Ok(connection)
}

/// A read-only connection, which reads while the writer writes.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    open_connection(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open_connection(path: &Path, mode: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(map_setup_error(path))?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(map_setup_error(path))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Checks that the file belongs to this program and has this schema before changing anything in it,
/// and creates the tables of a new file.
fn prepare_schema(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let refuse =
        |reason: String| Err(StoreError::InvalidSetup(format!("{}: {reason}", path.display())));
    let pragma = |sql| {
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(map_setup_error(path))
    };
    let (application, version) = (pragma("PRAGMA application_id")?, pragma("PRAGMA user_version")?);
    let fresh =
        application == 0 && version == 0 && pragma("SELECT count(*) FROM sqlite_schema")? == 0;
    if !fresh && application != APPLICATION_ID {
        return refuse("a database of another program: choose another store.url".into());
    }
    let migrates = application == APPLICATION_ID && version == 4;
    if !fresh && !migrates && version != DATABASE_VERSION {
        return refuse(format!(
            "has schema {version}, this release reads {DATABASE_VERSION} and 4: run the release \
             that wrote it, or move the file away to start empty"
        ));
    }
    // secure_delete overwrites deleted rows: credentials must not outlive their task in free pages.
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
            "BEGIN; {CREATE_TABLES_SQL} {CREATE_CLOCK_SQL} \
             PRAGMA application_id = {APPLICATION_ID}; \
             PRAGMA user_version = {DATABASE_VERSION}; COMMIT;"
        );
        connection.execute_batch(&create).map_err(map_setup_error(path))?;
    } else if migrates {
        let migrate = format!(
            "BEGIN; {MIGRATE_FROM_4_SQL} PRAGMA user_version = {DATABASE_VERSION}; COMMIT;"
        );
        connection.execute_batch(&migrate).map_err(map_setup_error(path))?;
        tracing::info!(file = %path.display(), "the database has the schema of this release now");
    }
    Ok(())
}
