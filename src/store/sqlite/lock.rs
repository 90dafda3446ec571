//! One process per database: an advisory lock on a file beside it, held for as long as the store is
//! open.
//!
//! The system gives it back when the process ends, however it ends; the file itself stays, with the
//! pid of its last holder in it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// The right to open a database; given back on drop.
pub(super) struct DatabaseLock {
    _file: File,
}

// === impl Lock ===

impl DatabaseLock {
    /// Takes the lock of the database at `path`, or says who has it.
    pub(super) fn acquire_lock(path: &Path) -> Result<Self, StoreError> {
        let beside = PathBuf::from(format!("{}.lock", path.display()));
        let unusable = |error: io::Error| {
            StoreError::InvalidSetup(format!(
                "{}: cannot be locked: {error}: choose another store.url",
                beside.display()
            ))
        };
        let mut file = open_private_file(&beside).map_err(unusable)?;
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

/// Opens a file for its owner alone, making it where it is missing.
pub(super) fn open_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn read_holder_pid(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match text.trim() {
        pid if read.is_ok() && !pid.is_empty() => pid.to_owned(),
        _ => "unknown".to_owned(),
    }
}
