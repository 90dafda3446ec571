//! Rows and values as the columns hold them, and their conversion.
//!
//! Callers encode and decode rows, so that the one writer thread spends its time on the tables.

mod leased_task;
mod new_task;
mod run_history_sql;
mod settlement;
mod state;
mod task_row;
mod values;

pub(crate) use self::leased_task::LeasedTaskRow;
pub(crate) use self::new_task::NewTaskRow;
pub(crate) use self::run_history_sql::append_run_history_sql;
pub(crate) use self::settlement::{EncodedSettlement, encode_crash_failure};
pub(crate) use self::state::{TaskRowState, ended_sql, unfinished_sql};
pub(crate) use self::task_row::{TaskTableRow, find_task};
pub(crate) use self::values::{
    encode_answer_json, lease_number_of, limit_to_sql, malformed_record, parse_json,
    parse_lease_number, parse_task_id, time_from_sql, time_to_sql, u64_from_sql, u64_to_sql,
};
