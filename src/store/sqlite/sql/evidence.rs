//! Tallies and counts of rollout epochs.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::evidence::{EVIDENCE_RETENTION, StoredEvidence, TallyOutcome};
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{time_from_sql, time_to_sql, u64_from_sql, u64_to_sql};
use crate::task::UnixMs;

/// Adds one to a tally; its first count extends the retention of the epoch.
pub(crate) fn increment_tally(
    db: &mut WriterDatabase,
    route: &str,
    epoch: i64,
    name: &str,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tallies (route, epoch, name, count) VALUES (?1, ?2, ?3, 1)
               ON CONFLICT (route, epoch, name) DO UPDATE SET count = count + 1 RETURNING count";
    let count: i64 = db
        .connection
        .prepare_cached(sql)?
        .query_row(params![route, epoch, name], |row| row.get(0))?;
    if count == 1 { extend_epoch_retention(db, route, epoch) } else { Ok(()) }
}

/// Counts the end of a task whose inputs are still stored. The duration is from when the task could
/// begin.
pub(crate) fn tally_task_end(
    db: &mut WriterDatabase,
    seq: i64,
    epoch: i64,
    outcome: TallyOutcome,
    client_group: Option<u8>,
    now: UnixMs,
) -> rusqlite::Result<()> {
    let sql = "SELECT route, max(created, coalesce(due, 0)) FROM tasks JOIN inputs USING (seq)
               WHERE seq = ?1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found: Option<(Option<String>, i64)> =
        db.connection.prepare_cached(sql)?.query_row([seq], read).optional()?;
    let Some((Some(route), began)) = found else { return Ok(()) };
    let tally_name = outcome.tally_name(now.since(time_from_sql(began)), client_group);
    increment_tally(db, &route, epoch, &tally_name)
}

/// Keeps the evidence of an epoch for [`EVIDENCE_RETENTION`] from now.
pub(crate) fn extend_epoch_retention(
    db: &WriterDatabase,
    route: &str,
    epoch: i64,
) -> rusqlite::Result<()> {
    let until = time_to_sql(db.clock.store_time().plus(EVIDENCE_RETENTION));
    let sql = "INSERT INTO epochs (route, epoch, until) VALUES (?1, ?2, ?3)
               ON CONFLICT (route, epoch) DO UPDATE SET until = excluded.until";
    db.connection.prepare_cached(sql)?.execute(params![route, epoch, until])?;
    Ok(())
}

/// Deletes epochs whose retention has ended, with their tallies and counts.
pub(crate) fn purge_epochs(db: &mut WriterDatabase) -> rusqlite::Result<()> {
    let now = db.clock.store_time();
    let expired: Vec<(String, i64)> = {
        let mut statement =
            db.connection.prepare_cached("SELECT route, epoch FROM epochs WHERE until <= ?1")?;
        let rows = statement.query_map([time_to_sql(now)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    for (route, epoch) in expired {
        for sql in [
            "DELETE FROM tallies WHERE route = ?1 AND epoch = ?2",
            "DELETE FROM counts WHERE route = ?1 AND epoch = ?2",
            "DELETE FROM epochs WHERE route = ?1 AND epoch = ?2",
        ] {
            db.connection.prepare_cached(sql)?.execute(params![route, epoch])?;
        }
    }
    Ok(())
}

/// The evidence of each of a route's epochs, in their order.
pub(crate) fn load_evidence(
    connection: &Connection,
    route: &str,
    epochs: &[u64],
    now: UnixMs,
) -> rusqlite::Result<Vec<StoredEvidence>> {
    let mut tallies = connection.prepare_cached(
        "SELECT name, count FROM tallies JOIN epochs USING (route, epoch)
         WHERE route = ?1 AND epoch = ?2 AND until > ?3",
    )?;
    let mut counts = connection.prepare_cached(
        "SELECT process, counted FROM counts JOIN epochs USING (route, epoch)
         WHERE route = ?1 AND epoch = ?2 AND until > ?3 ORDER BY process",
    )?;
    let mut evidence_by_epoch = Vec::with_capacity(epochs.len());
    for epoch in epochs {
        let values = params![route, u64_to_sql(*epoch), time_to_sql(now)];
        let mut evidence = StoredEvidence::default();
        let mut rows = tallies.query(values)?;
        while let Some(row) = rows.next()? {
            evidence.add_tally(row.get_ref(0)?.as_str()?, u64_from_sql(row.get(1)?));
        }
        evidence.replica_counts = counts
            .query_map(values, |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        evidence_by_epoch.push(evidence);
    }
    Ok(evidence_by_epoch)
}
