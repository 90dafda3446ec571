//! The rollout states and their history.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::lead::{current_leader, load_term};
use crate::store::error::{StoreError, invalid_cursor};
use crate::store::rollout::{
    MAX_HISTORY_ENTRIES, RolloutCommit, RolloutHistoryEntry, RolloutRecord,
};
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{limit_to_sql, u64_from_sql, u64_to_sql};
use crate::store::sqlite::schema::map_query_error;

/// The rollout state of a route.
pub(crate) fn load_rollout(
    connection: &Connection,
    route: &str,
) -> rusqlite::Result<Option<RolloutRecord>> {
    let sql = "SELECT version, state FROM rollouts WHERE route = ?1";
    let record = |row: &Row<'_>| {
        Ok(RolloutRecord { version: u64_from_sql(row.get(0)?), state_json: row.get(1)? })
    };
    connection.prepare_cached(sql)?.query_row([route], record).optional()
}

/// Saves a rollout's state with its events, if its version follows the stored one and the required
/// term leads; else changes nothing and returns false.
pub(crate) fn save_rollout(
    db: &mut WriterDatabase,
    route: &str,
    record: &RolloutRecord,
    commit: &RolloutCommit,
) -> rusqlite::Result<bool> {
    let current = load_rollout(&db.connection, route)?.map_or(0, |record| record.version);
    if current.checked_add(1) != Some(record.version) {
        return Ok(false);
    }
    if let Some(required_term) = commit.required_term
        && (current_leader(db).is_none() || load_term(db)? != required_term)
    {
        return Ok(false);
    }
    let sql = "INSERT INTO rollouts (route, version, state) VALUES (?1, ?2, ?3)
               ON CONFLICT (route) DO UPDATE
               SET version = excluded.version, state = excluded.state";
    db.connection.prepare_cached(sql)?.execute(params![
        route,
        u64_to_sql(record.version),
        record.state_json
    ])?;
    for event in &commit.history_events {
        let sql = "INSERT INTO history (route, event) VALUES (?1, ?2)";
        db.connection.prepare_cached(sql)?.execute([route, event])?;
    }
    let sql = "DELETE FROM history WHERE route = ?1 AND n <=
                   (SELECT n FROM history WHERE route = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)";
    let values = params![route, limit_to_sql(MAX_HISTORY_ENTRIES)];
    db.connection.prepare_cached(sql)?.execute(values)?;
    Ok(true)
}

/// Entries of a route's history before the one with the cursor `before_cursor`, newest first.
pub(crate) fn load_rollout_history(
    connection: &Connection,
    route: &str,
    before_cursor: Option<&str>,
    limit: usize,
) -> Result<Vec<RolloutHistoryEntry>, StoreError> {
    let below: i64 =
        before_cursor.map_or(Ok(i64::MAX), str::parse).map_err(|_| invalid_cursor("before"))?;
    let sql = "SELECT n, event FROM history WHERE route = ?1 AND n < ?2 ORDER BY n DESC LIMIT ?3";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let entries = statement.query_map(params![route, below, limit_to_sql(limit)], |row| {
        Ok(RolloutHistoryEntry {
            cursor: row.get::<_, i64>(0)?.to_string(),
            event_json: row.get(1)?,
        })
    });
    entries.map_err(map_query_error)?.collect::<Result<_, _>>().map_err(map_query_error)
}
