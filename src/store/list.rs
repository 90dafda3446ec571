//! What a list of tasks says, and how it is asked for page by page.

use super::StoreError;
use crate::task::{TaskId, TaskStatus, Topic, UnixMs};

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskListRequest {
    /// Of this topic alone.
    pub topic: Option<Topic>,
    /// Those that stand so.
    pub status: Option<TaskStatus>,
    /// At most so many.
    pub limit: usize,
    /// What comes after the page that ended with this cursor.
    pub after_cursor: Option<String>,
}

/// A task in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskListEntry {
    /// Its name.
    pub id: TaskId,
    /// Its queue; none where only its result is left, and that is of another make.
    pub topic: Option<Topic>,
    /// Where it stands.
    pub status: TaskStatus,
    /// Attempts begun.
    pub attempts: Option<u32>,
    /// When it was accepted.
    pub created_at: Option<UnixMs>,
    /// When it ended.
    pub finished_at: Option<UnixMs>,
}

/// A page of a list. It can have fewer tasks than asked for, none even, and still not be the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskListPage {
    /// The tasks.
    pub tasks: Vec<TaskListEntry>,
    /// Where the next page begins; none at the end.
    pub next_cursor: Option<String>,
    /// States whose tasks this store cannot list.
    pub unlistable_statuses: &'static [TaskStatus],
}

/// What is said of the cursor in `field` that is none.
pub(super) fn invalid_cursor(field: &str) -> StoreError {
    StoreError::Malformed(format!("{field} is no cursor of this list: leave it out to begin anew"))
}
