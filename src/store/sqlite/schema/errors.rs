//! The meaning of SQLite's errors.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::store::error::{StoreError, StoreRefusal};

/// Maps an error of opening the database at `path`.
pub(crate) fn map_setup_error(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError {
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

/// Maps an error of an open database.
#[allow(clippy::needless_pass_by_value)] // as the argument of map_err
pub(crate) fn map_query_error(error: rusqlite::Error) -> StoreError {
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

/// Whether an error comes from the disk, so that every other write would fail too.
pub(crate) fn is_disk_error(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure))
}
