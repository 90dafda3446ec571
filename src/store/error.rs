//! The errors of a store call: why it failed, and whether the store is unreachable.

use crate::task::Topic;

/// Why a store call did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, and nothing was changed.
    #[error("the store is unreachable: {0}")]
    Unreachable(String),
    /// The call was sent and never answered: it may or may not have been applied.
    #[error("the store did not answer: {0}")]
    OutcomeUnknown(String),
    /// The store is reachable and refuses the call.
    #[error("{0}")]
    Refused(#[from] StoreRefusal),
    /// A stored record, or a value that the caller passed, cannot be read.
    #[error("a stored record cannot be read: {0}")]
    Malformed(String),
    /// Another process has the store open.
    #[error(
        "{path} is in use by process {pid}: stop it, or set REDIS_URL (or store.url) to share \
         a Redis between processes"
    )]
    Locked {
        /// The database file.
        path: String,
        /// The process that holds the lock, as text; `unknown` where it cannot be read.
        pid: String,
    },
    /// The store cannot be opened as configured.
    #[error("{0}")]
    InvalidSetup(String),
}

impl StoreError {
    /// Whether the store is unreachable rather than refusing: such an error opens the circuit and
    /// is not counted as a failure of the task.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::OutcomeUnknown(_))
    }
}

/// Why a reachable store accepted nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreRefusal {
    /// The topic has `max_backlog` waiting tasks.
    #[error(
        "{topic} has {depth} tasks waiting, the limit is {max}: try later, or raise \
         topics.{topic}.max_backlog"
    )]
    BacklogFull {
        /// The topic.
        topic: Topic,
        /// Waiting tasks.
        depth: u64,
        /// The topic's `max_backlog`.
        max: u64,
    },
    /// The topic has as many open tasks as its consumers can start soon.
    #[error("{topic} has {open} tasks waiting or running, and {max} is the most that start soon")]
    Saturated {
        /// The topic.
        topic: Topic,
        /// Waiting and running tasks.
        open: u64,
        /// The limit that the caller set.
        max: u64,
    },
    /// Large tasks are submitted faster than the store writes them.
    #[error("too many large tasks are being written at the moment: try again")]
    LargeWritesBusy,
    /// The store is out of memory or disk.
    #[error("the store is full: {0}")]
    StorageFull(String),
    /// The server is a replica, or the store has stopped accepting writes.
    #[error("the store is read-only: {0}")]
    ReadOnly(String),
}

/// The error for a page cursor in the request field `field` that this list never returned.
pub(super) fn invalid_cursor(field: &str) -> StoreError {
    StoreError::Malformed(format!(
        "{field} is no cursor of this list: leave it out to start at the first page"
    ))
}
