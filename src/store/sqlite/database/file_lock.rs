//! One process per database: an advisory lock on a file beside it, held while the store is open.
//!
//! The system releases the lock when the process ends, however it ends. The file itself stays and
//! contains the pid of its last holder.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::store::error::StoreError;
use crate::store::sqlite::schema::open_private_file;

/// The right to open a database, released on drop.
pub(crate) struct DatabaseLock {
    _file: File,
}

impl DatabaseLock {
    /// Locks the database at `path`. [`StoreError::Locked`] with the pid of another holder.
    pub(crate) fn acquire_lock(path: &Path) -> Result<Self, StoreError> {
        let lock_path = PathBuf::from(format!("{}.lock", path.display()));
        let unusable = |error: io::Error| {
            StoreError::InvalidSetup(format!(
                "{}: cannot be locked: {error}: choose another store.url",
                lock_path.display()
            ))
        };
        let mut file = open_private_file(&lock_path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked {
                    path: path.display().to_string(),
                    pid: read_holder_pid(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        file.set_len(0).map_err(unusable)?;
        writeln!(file, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self { _file: file })
    }
}

fn read_holder_pid(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match text.trim() {
        pid if read.is_ok() && !pid.is_empty() => pid.to_owned(),
        _ => "unknown".to_owned(),
    }
}
