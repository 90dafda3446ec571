//! The list of tasks, newest first.

use rusqlite::{Connection, params};

use super::schema::{State, failed, millis, unix_ms};
use super::sealed::{malformed, task_id};
use crate::store::list::no_cursor;
use crate::store::{Listed, Listing, Page, StoreError};
use crate::task::{Status, Topic, UnixMs};

/// Rows that one page looks at: whoever asks for what is rare does not hold up the other readers.
const WINDOW: i64 = 50_000;

/// A page; its cursor is the number below which the next begins.
pub(super) fn page(connection: &Connection, listing: &Listing, now: UnixMs) -> Result<Page, StoreError> {
    let top = "SELECT coalesce(max(seq), 0) + 1 FROM tasks";
    let below: i64 = match &listing.after {
        Some(after) => after.parse().map_err(|_| no_cursor("after"))?,
        None => connection.query_row(top, [], |row| row.get(0)).map_err(failed)?,
    };
    let floor = below.saturating_sub(WINDOW).max(1);
    let sql = "SELECT seq, id, topic, state, attempts, created, finished FROM tasks
               WHERE seq < ?1 AND seq >= ?2 AND (state <= 2 OR until > ?3)
                 AND (?4 IS NULL OR topic = ?4) AND (?5 IS NULL OR state IN (?5, ?6))
               ORDER BY seq DESC LIMIT ?7";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let (state, or) = states(listing.status).unzip();
    let most = i64::try_from(listing.limit).unwrap_or(i64::MAX).saturating_add(1);
    let topic = listing.topic.as_ref().map(Topic::as_str);
    let mut rows = statement.query(params![below, floor, millis(now), topic, state, or, most]).map_err(failed)?;
    let (mut page, mut last) = (Page::default(), below);
    while let Some(row) = rows.next().map_err(failed)? {
        if page.tasks.len() == listing.limit {
            page.next = Some(last.to_string());
            return Ok(page);
        }
        last = row.get(0).map_err(failed)?;
        let state: State = row.get(3).map_err(failed)?;
        page.tasks.push(Listed {
            id: task_id(&row.get::<_, String>(1).map_err(failed)?)?,
            topic: Some(Topic::parse(&row.get::<_, String>(2).map_err(failed)?).map_err(malformed)?),
            status: state.status(),
            attempts: Some(row.get(4).map_err(failed)?),
            created: Some(unix_ms(row.get(5).map_err(failed)?)),
            finished: row.get::<_, Option<i64>>(6).map_err(failed)?.map(unix_ms),
        });
    }
    page.next = (floor > 1).then(|| floor.to_string());
    Ok(page)
}

/// The one or two states of a status.
fn states(status: Option<Status>) -> Option<(State, State)> {
    let twice = |state| (state, state);
    Some(match status? {
        Status::Queued => (State::Ready, State::Parked),
        Status::Processing => twice(State::Leased),
        Status::Completed => twice(State::Completed),
        Status::Failed => twice(State::Failed),
        Status::Cancelled => twice(State::Cancelled),
    })
}
