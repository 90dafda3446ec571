//! The last known moment of all clocks, in the table `clock`.
//!
//! Within one boot of the machine any mark will do. After another boot the time that the machine
//! was off is counted from the last one, so it is renewed now and then.

use rusqlite::{Connection, OptionalExtension, params};

use super::clock::ClockMark;
use crate::store::sqlite::row::{time_from_sql, time_to_sql};

/// The mark of an earlier process.
pub(crate) fn load_clock_mark(connection: &Connection) -> rusqlite::Result<Option<ClockMark>> {
    let sql = "SELECT boot, since_boot, store, system FROM clock";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(ClockMark {
            boot_id: row.get(0)?,
            since_boot: time_from_sql(row.get(1)?),
            store_time: time_from_sql(row.get(2)?),
            system_time: time_from_sql(row.get(3)?),
        })
    };
    connection.query_row(sql, [], read).optional()
}

/// Replaces the mark.
pub(crate) fn save_clock_mark(connection: &Connection, mark: &ClockMark) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO clock (id, boot, since_boot, store, system)
               VALUES (1, ?1, ?2, ?3, ?4)";
    let times = [mark.since_boot, mark.store_time, mark.system_time].map(time_to_sql);
    let values = params![mark.boot_id, times[0], times[1], times[2]];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}
