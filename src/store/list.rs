//! What a list of tasks says, and how it is asked for page by page.

use super::StoreError;
use crate::task::{Status, TaskId, Topic, UnixMs};

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Of this topic alone.
    pub topic: Option<Topic>,
    /// Those that stand so.
    pub status: Option<Status>,
    /// At most so many.
    pub limit: usize,
    /// What comes after the page that ended with this cursor.
    pub after: Option<String>,
}

/// A task in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: TaskId,
    /// Its queue; none where only its result is left, and that is of another make.
    pub topic: Option<Topic>,
    /// Where it stands.
    pub status: Status,
    /// Attempts begun.
    pub attempts: Option<u32>,
    /// When it was accepted.
    pub created: Option<UnixMs>,
    /// When it ended.
    pub finished: Option<UnixMs>,
}

/// A page of a list. It can have fewer tasks than asked for, none even, and still not be the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<Listed>,
    /// Where the next page begins; none at the end.
    pub next: Option<String>,
    /// States whose tasks this store cannot list.
    pub unlisted: &'static [Status],
}

/// What is said of the cursor in `field` that is none.
pub(super) fn no_cursor(field: &str) -> StoreError {
    StoreError::Malformed(format!("{field} is no cursor of this list: leave it out to begin anew"))
}
