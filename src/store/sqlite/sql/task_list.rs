//! The list of tasks, newest first.

use rusqlite::{Connection, params};

use crate::store::error::{StoreError, invalid_cursor};
use crate::store::read::{TaskListEntry, TaskListPage, TaskListRequest};
use crate::store::sqlite::row::{
    TaskRowState, limit_to_sql, malformed_record, parse_task_id, time_from_sql, time_to_sql,
    unfinished_sql,
};
use crate::store::sqlite::schema::map_query_error;
use crate::task::{TaskStatus, Topic, UnixMs};

/// The most rows that one page scans, so that a filter with few matches does not block other
/// queries.
const MAX_ROWS_SCANNED: i64 = 50_000;

/// A page of the list. Its cursor is the `seq` below which the next page begins.
pub(crate) fn load_task_page(
    connection: &Connection,
    request: &TaskListRequest,
    now: UnixMs,
) -> Result<TaskListPage, StoreError> {
    let newest = "SELECT coalesce(max(seq), 0) + 1 FROM tasks";
    let below: i64 = match &request.after_cursor {
        Some(after) => after.parse().map_err(|_| invalid_cursor("after"))?,
        None => connection.query_row(newest, [], |row| row.get(0)).map_err(map_query_error)?,
    };
    let floor = below.saturating_sub(MAX_ROWS_SCANNED).max(1);
    let sql = concat!(
        "SELECT seq, id, topic, state, attempts, created, finished FROM tasks
         WHERE seq < ?1 AND seq >= ?2 AND (",
        unfinished_sql!(),
        " OR until > ?3)
           AND (?4 IS NULL OR topic = ?4) AND (?5 IS NULL OR state IN (?5, ?6))
         ORDER BY seq DESC LIMIT ?7"
    );
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let (state, other_state) = row_states_of_status(request.status).unzip();
    let row_limit = limit_to_sql(request.limit).saturating_add(1);
    let topic = request.topic.as_ref().map(Topic::as_str);
    let mut rows = statement
        .query(params![below, floor, time_to_sql(now), topic, state, other_state, row_limit])
        .map_err(map_query_error)?;
    let (mut page, mut last_seq) = (TaskListPage::default(), below);
    while let Some(row) = rows.next().map_err(map_query_error)? {
        if page.tasks.len() == request.limit {
            page.next_cursor = Some(last_seq.to_string());
            return Ok(page);
        }
        last_seq = row.get(0).map_err(map_query_error)?;
        let state: TaskRowState = row.get(3).map_err(map_query_error)?;
        page.tasks.push(TaskListEntry {
            id: parse_task_id(&row.get::<_, String>(1).map_err(map_query_error)?)?,
            topic: Some(
                Topic::parse(&row.get::<_, String>(2).map_err(map_query_error)?)
                    .map_err(malformed_record)?,
            ),
            status: state.to_status(),
            attempts: Some(row.get(4).map_err(map_query_error)?),
            created_at: Some(time_from_sql(row.get(5).map_err(map_query_error)?)),
            finished_at: row.get::<_, Option<i64>>(6).map_err(map_query_error)?.map(time_from_sql),
        });
    }
    page.next_cursor = (floor > 1).then(|| floor.to_string());
    Ok(page)
}

/// The one or two row states of a status; a single state is returned twice.
fn row_states_of_status(status: Option<TaskStatus>) -> Option<(TaskRowState, TaskRowState)> {
    let twice = |state| (state, state);
    Some(match status? {
        TaskStatus::Queued => (TaskRowState::Ready, TaskRowState::Delayed),
        TaskStatus::Processing => twice(TaskRowState::Leased),
        TaskStatus::Completed => twice(TaskRowState::Completed),
        TaskStatus::Failed => twice(TaskRowState::Failed),
        TaskStatus::Cancelled => twice(TaskRowState::Cancelled),
    })
}
