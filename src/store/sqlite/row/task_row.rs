//! The columns of a task's row on which changes depend.

use rusqlite::{Connection, OptionalExtension};

use super::state::TaskRowState;
use crate::task::TaskId;

/// The part of a task's row on which changes depend.
pub(crate) struct TaskTableRow {
    pub(crate) seq: i64,
    pub(crate) topic: String,
    pub(crate) state: TaskRowState,
    pub(crate) attempts: u32,
    pub(crate) retries: u32,
    /// The number of the last lease.
    pub(crate) lease_number: i64,
    /// How the last lease was settled; 0 if it was not.
    pub(crate) settle_code: i64,
    /// Whether the end of the task has deliveries.
    pub(crate) has_deliveries: bool,
    /// The epoch that counts the end of the task.
    pub(crate) epoch: Option<i64>,
    /// The client group that counts the end of the task.
    pub(crate) client_group: Option<u8>,
}

/// Reads the row of a task.
pub(crate) fn find_task(
    connection: &Connection,
    id: &TaskId,
) -> rusqlite::Result<Option<TaskTableRow>> {
    let sql = "SELECT seq, topic, state, attempts, retries, lease, settled, posts, epoch, clients
               FROM tasks WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([id.as_str()], |row| {
        Ok(TaskTableRow {
            seq: row.get(0)?,
            topic: row.get(1)?,
            state: row.get(2)?,
            attempts: row.get(3)?,
            retries: row.get(4)?,
            lease_number: row.get(5)?,
            settle_code: row.get(6)?,
            has_deliveries: row.get(7)?,
            epoch: row.get(8)?,
            client_group: row.get(9)?,
        })
    });
    found.optional()
}
