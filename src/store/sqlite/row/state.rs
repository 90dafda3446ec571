//! The state of a task's row, and the SQL conditions on it.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::task::TaskStatus;

/// The SQL condition for tasks that have not ended.
macro_rules! unfinished_sql {
    () => {
        "state <= 2"
    };
}
pub(crate) use unfinished_sql;

/// The SQL condition for tasks that have ended: exactly that of the index `ended`.
macro_rules! ended_sql {
    () => {
        "state > 2"
    };
}
pub(crate) use ended_sql;

/// The state of a task's row. The numbers are stored, and are in the conditions of the indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskRowState {
    Ready = 0,
    Leased = 1,
    Delayed = 2,
    Completed = 3,
    Failed = 4,
    Cancelled = 5,
}

impl TaskRowState {
    /// The status that clients see.
    pub(crate) fn to_status(self) -> TaskStatus {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sql_conditions_agree_with_the_statuses() {
        let connection = rusqlite::Connection::open_in_memory().expect("opens");
        for number in 0..6_i64 {
            let state = TaskRowState::column_result(ValueRef::Integer(number)).expect("a state");
            let sql = concat!(
                "SELECT ",
                unfinished_sql!(),
                ", ",
                ended_sql!(),
                " FROM (SELECT ?1 AS state)"
            );
            let conditions: (bool, bool) = connection
                .query_row(sql, [state], |row| Ok((row.get(0)?, row.get(1)?)))
                .expect("answers");
            let unfinished =
                matches!(state.to_status(), TaskStatus::Queued | TaskStatus::Processing);
            assert_eq!(conditions, (unfinished, !unfinished), "{state:?}");
        }
    }
}
