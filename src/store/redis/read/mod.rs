//! Reads: one task, many statuses, lists, queue depths, dead letters.

pub(crate) mod consumers;
pub(crate) mod dead_letters;
pub(crate) mod depths;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod list;
pub(crate) mod list_cursor;
pub(crate) mod statuses;
