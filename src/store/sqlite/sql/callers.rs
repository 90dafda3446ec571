//! The callers of deprecated routes.

use rusqlite::{Connection, Row, params};

use crate::store::caller::{CALLER_RETENTION, DeprecatedCaller, MAX_CALLERS, OTHER_CALLERS};
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{
    limit_to_sql, time_from_sql, time_to_sql, u64_from_sql, u64_to_sql,
};
use crate::task::UnixMs;

/// Adds calls to the sums of their callers, and deletes the route's callers whose last call is
/// older than [`CALLER_RETENTION`].
pub(crate) fn record_deprecated_calls(
    db: &mut WriterDatabase,
    route: &str,
    calls: &[DeprecatedCaller],
) -> rusqlite::Result<()> {
    let cutoff = time_to_sql(caller_cutoff(db.clock.store_time()));
    db.connection
        .prepare_cached("DELETE FROM callers WHERE route = ?1 AND last <= ?2")?
        .execute(params![route, cutoff])?;
    for DeprecatedCaller { name, call_count, last_called_at } in calls {
        let sql = "SELECT EXISTS (SELECT 1 FROM callers WHERE route = ?1 AND who = ?2)
                       OR (SELECT count(*) FROM callers WHERE route = ?1 AND who <> ?3) < ?4";
        let max_callers = limit_to_sql(MAX_CALLERS);
        let has_room: bool = db
            .connection
            .prepare_cached(sql)?
            .query_row(params![route, name, OTHER_CALLERS, max_callers], |row| row.get(0))?;
        let name = if has_room { name.as_str() } else { OTHER_CALLERS };
        let sql = "INSERT INTO callers (route, who, count, last) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (route, who) DO UPDATE
                   SET count = count + excluded.count, last = max(last, excluded.last)";
        db.connection.prepare_cached(sql)?.execute(params![
            route,
            name,
            u64_to_sql(*call_count),
            time_to_sql(db.clock.to_store_time(*last_called_at))
        ])?;
    }
    Ok(())
}

/// The callers of a route within [`CALLER_RETENTION`], latest call first.
pub(crate) fn list_deprecated_callers(
    connection: &Connection,
    route: &str,
    now: UnixMs,
) -> rusqlite::Result<Vec<DeprecatedCaller>> {
    let sql = "SELECT who, count, last FROM callers WHERE route = ?1 AND last > ?2
               ORDER BY last DESC, who DESC";
    let caller = |row: &Row<'_>| {
        Ok(DeprecatedCaller {
            name: row.get(0)?,
            call_count: u64_from_sql(row.get(1)?),
            last_called_at: time_from_sql(row.get(2)?),
        })
    };
    connection
        .prepare_cached(sql)?
        .query_map(params![route, time_to_sql(caller_cutoff(now))], caller)?
        .collect()
}

/// Callers whose last call is not later than this are no longer listed.
fn caller_cutoff(now: UnixMs) -> UnixMs {
    UnixMs(now.0.saturating_sub(u64::try_from(CALLER_RETENTION.as_millis()).unwrap_or(u64::MAX)))
}
