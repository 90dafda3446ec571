//! Queries for one task: its record, its details, its state.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use crate::store::error::StoreError;
use crate::store::read::{TaskLookup, TaskState};
use crate::store::sqlite::row::{
    TaskRowState, malformed_record, parse_json, parse_task_id, time_from_sql, time_to_sql,
    unfinished_sql,
};
use crate::store::sqlite::schema::map_query_error;
use crate::store::wire::envelope::{StoredAnswer, recover_answer, recover_failure};
use crate::store::wire::run_history;
use crate::task::{TaskDetails, TaskId, TaskOwner, TaskRecord, Topic, UnixMs};

/// The record of a task, unless it has expired.
pub(crate) fn load_task_record(
    connection: &Connection,
    id: &TaskId,
    now: UnixMs,
) -> Result<Option<TaskRecord>, StoreError> {
    let sql = concat!(
        "SELECT id, topic, state, attempts, owner, created, finished, answer, result, failure, until
         FROM tasks WHERE id = ?1 AND (",
        unfinished_sql!(),
        " OR until > ?2)"
    );
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let mut rows =
        statement.query(params![id.as_str(), time_to_sql(now)]).map_err(map_query_error)?;
    rows.next().map_err(map_query_error)?.map(parse_task_record).transpose()
}

/// Decodes a row whose first columns are those of [`load_task_record`].
fn parse_task_record(row: &Row<'_>) -> Result<TaskRecord, StoreError> {
    let text = |column| {
        row.get_ref(column).map_err(map_query_error)?.as_str_or_null().map_err(malformed_record)
    };
    let state: TaskRowState = row.get(2).map_err(map_query_error)?;
    let result = text(8)?.and_then(|json| RawValue::from_string(json.to_owned()).ok());
    let (answer, note) = text(7)?
        .map(|answer| recover_answer(parse_json::<StoredAnswer>(answer), result.as_deref()))
        .map_or((None, None), |(answer, note)| (Some(answer), note));
    Ok(TaskRecord {
        id: parse_task_id(text(0)?.unwrap_or_default())?,
        topic: Topic::parse(text(1)?.unwrap_or_default()).map_err(malformed_record)?,
        status: state.to_status(),
        attempts: row.get(3).map_err(map_query_error)?,
        owner: text(4)?.map(TaskOwner::from_digest),
        created: time_from_sql(row.get(5).map_err(map_query_error)?),
        due: if state == TaskRowState::Delayed {
            Some(time_from_sql(row.get(10).map_err(map_query_error)?))
        } else {
            None
        },
        finished: row.get::<_, Option<i64>>(6).map_err(map_query_error)?.map(time_from_sql),
        answer,
        failure: text(9)?.map(|failure| recover_failure(parse_json(failure))),
        progress: None,
        note,
    })
}

/// The record of a task with its attempts, route and trace, unless it has expired.
pub(crate) fn load_task_details(
    connection: &Connection,
    id: &TaskId,
    now: UnixMs,
) -> Result<Option<TaskDetails>, StoreError> {
    let sql = concat!(
        "SELECT id, topic, state, attempts, owner, created, finished, answer, result, failure,
                until, began, worker, history, caller, trace, route
         FROM tasks LEFT JOIN inputs USING (seq) WHERE id = ?1 AND (",
        unfinished_sql!(),
        " OR until > ?2)"
    );
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let mut rows =
        statement.query(params![id.as_str(), time_to_sql(now)]).map_err(map_query_error)?;
    let Some(row) = rows.next().map_err(map_query_error)? else { return Ok(None) };
    let text = |column| row.get::<_, Option<String>>(column).map_err(map_query_error);
    let began = row.get::<_, Option<i64>>("began").map_err(map_query_error)?.map(time_from_sql);
    let record = parse_task_record(row)?;
    let due = record.due;
    let mut details = TaskDetails::new(
        record,
        run_history::parse_runs(text("history")?.as_deref()),
        text("worker")?,
        began,
    );
    details.correlation_id = text("caller")?;
    details.trace_id = text("trace")?;
    details.route = text("route")?;
    details.next_attempt_at = due;
    Ok(Some(details))
}

/// The state of a task, without its payload and result.
pub(crate) fn look_up_task(
    connection: &Connection,
    id: &TaskId,
    now: UnixMs,
) -> Result<TaskLookup, StoreError> {
    let sql = concat!(
        "SELECT state, attempts FROM tasks WHERE id = ?1 AND (",
        unfinished_sql!(),
        " OR until > ?2)"
    );
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let found = statement
        .query_row(params![id.as_str(), time_to_sql(now)], |row| Ok((row.get(0)?, row.get(1)?)));
    Ok(match found.optional().map_err(map_query_error)? {
        None => TaskLookup::NotFound,
        Some((TaskRowState::Completed | TaskRowState::Failed | TaskRowState::Cancelled, _)) => {
            TaskLookup::Ended
        }
        Some((state, attempts)) => {
            TaskLookup::Active(TaskState { status: state.to_status(), attempts, progress: None })
        }
    })
}
