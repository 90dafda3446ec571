//! Rollouts: changes inside the writer's transaction, as those in `ops.rs`, and what the reader is asked.
//!
//! Presence and the lead belong to this process and are remembered, not written: only a new term is, so that no later
//! boot gives it again. A replica's counts are written where they differ from what stands there, so that an idle one
//! costs no commit.

use rusqlite::{Connection, OptionalExtension, params};

use super::db::Db;
use super::schema::{failed, millis, number, stored, unix_ms};
use crate::store::list::no_cursor;
use crate::store::rollout::{
    CALLER_KEPT, CALLERS, Caller, Change, EVIDENCE_KEPT, Ended, HISTORY, HistoryEntry, Meeting, OTHERS, Presence,
    StoredEvidence, lead_time,
};
use crate::store::{RolloutRecord, StoreError};
use crate::task::UnixMs;

// === state ===

/// A route's rollout state.
pub(super) fn load(connection: &Connection, route: &str) -> rusqlite::Result<Option<RolloutRecord>> {
    let sql = "SELECT version, state FROM rollouts WHERE route = ?1";
    let record = |row: &rusqlite::Row<'_>| Ok(RolloutRecord { version: number(row.get(0)?), state: row.get(1)? });
    connection.prepare_cached(sql)?.query_row([route], record).optional()
}

/// Saves a rollout's state over the version before it, and its events with it, or nothing.
pub(super) fn save(db: &mut Db, route: &str, record: &RolloutRecord, change: &Change) -> rusqlite::Result<bool> {
    let current = load(&db.connection, route)?.map_or(0, |record| record.version);
    if current.checked_add(1) != Some(record.version) {
        return Ok(false);
    }
    if let Some(decided_in) = change.term
        && (leader(db).is_none() || term(db)? != decided_in)
    {
        return Ok(false);
    }
    let sql = "INSERT INTO rollouts (route, version, state) VALUES (?1, ?2, ?3)
               ON CONFLICT (route) DO UPDATE SET version = excluded.version, state = excluded.state";
    db.connection.prepare_cached(sql)?.execute(params![route, stored(record.version), record.state])?;
    for event in &change.events {
        let sql = "INSERT INTO history (route, event) VALUES (?1, ?2)";
        db.connection.prepare_cached(sql)?.execute([route, event])?;
    }
    let sql = "DELETE FROM history WHERE route = ?1 AND n <=
                   (SELECT n FROM history WHERE route = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)";
    let kept = i64::try_from(HISTORY).unwrap_or(i64::MAX);
    db.connection.prepare_cached(sql)?.execute(params![route, kept])?;
    Ok(true)
}

/// Entries of a route's history before the one of that cursor, newest first.
pub(super) fn history(
    connection: &Connection,
    route: &str,
    before: Option<&str>,
    limit: usize,
) -> Result<Vec<HistoryEntry>, StoreError> {
    let before: i64 = before.map_or(Ok(i64::MAX), str::parse).map_err(|_| no_cursor("before"))?;
    let sql = "SELECT n, event FROM history WHERE route = ?1 AND n < ?2 ORDER BY n DESC LIMIT ?3";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let entries = statement.query_map(params![route, before, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        Ok(HistoryEntry { cursor: row.get::<_, i64>(0)?.to_string(), event: row.get(1)? })
    });
    entries.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

// === the meeting ===

/// Notes what a replica counted, gives or renews the lead, and reads what it asks for; who is there is not known here.
pub(super) fn meet(db: &mut Db, presence: &Presence, routes: &[String]) -> rusqlite::Result<Meeting> {
    for (route, epoch, counted) in &presence.counts {
        let sql = "INSERT INTO counts (route, epoch, process, counted) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (route, epoch, process) DO UPDATE SET counted = excluded.counted
                   WHERE counted <> excluded.counted";
        let values = params![route, stored(*epoch), presence.process, counted];
        if db.connection.prepare_cached(sql)?.execute(values)? > 0 {
            keep(db, route, stored(*epoch))?;
        }
    }
    let term = lead(db, presence)?;
    let records = routes.iter().map(|route| load(&db.connection, route)).collect::<Result<_, _>>()?;
    Ok(Meeting { term, leader: leader(db).map(str::to_owned), replicas: Vec::new(), records, ahead: 0 })
}

/// The term, where the replica leads now.
fn lead(db: &mut Db, presence: &Presence) -> rusqlite::Result<Option<u64>> {
    let Presence { process, candidate, .. } = presence;
    let until = db.clock.steady() + lead_time();
    let leads = leader(db).map(|leader| leader == process);
    match (leads, candidate) {
        (Some(false), _) | (None, false) => return Ok(None),
        (Some(true), false) => {
            db.lead = None;
            return Ok(None);
        }
        (Some(true), true) => {}
        (None, true) => {
            let next = stored(term(db)? + 1);
            db.connection.prepare_cached("INSERT INTO terms (term) VALUES (?1)")?.execute([next])?;
            db.connection.prepare_cached("DELETE FROM terms WHERE term < ?1")?.execute([next])?;
        }
    }
    db.lead = Some((process.clone(), until));
    term(db).map(Some)
}

/// Takes the lead from a replica that has it.
pub(super) fn resign(db: &mut Db, process: &str) {
    db.lead.take_if(|(leader, _)| leader == process);
}

fn leader(db: &Db) -> Option<&str> {
    let now = db.clock.steady();
    db.lead.as_ref().filter(|(_, until)| *until > now).map(|(leader, _)| leader.as_str())
}

fn term(db: &Db) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce(max(term), 0) FROM terms";
    db.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).map(number)
}

// === tallies ===

/// Counts one more.
pub(super) fn count(db: &mut Db, route: &str, epoch: i64, name: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tallies (route, epoch, name, count) VALUES (?1, ?2, ?3, 1)
               ON CONFLICT (route, epoch, name) DO UPDATE SET count = count + 1 RETURNING count";
    let counted: i64 = db.connection.prepare_cached(sql)?.query_row(params![route, epoch, name], |row| row.get(0))?;
    if counted == 1 { keep(db, route, epoch) } else { Ok(()) }
}

/// Counts the end of a task whose inputs are still there.
pub(super) fn count_end(
    db: &mut Db,
    seq: i64,
    epoch: i64,
    ended: Ended,
    clients: Option<u8>,
    now: UnixMs,
) -> rusqlite::Result<()> {
    let sql = "SELECT route, max(created, coalesce(due, 0)) FROM tasks JOIN inputs USING (seq) WHERE seq = ?1";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found: Option<(Option<String>, i64)> = db.connection.prepare_cached(sql)?.query_row([seq], read).optional()?;
    let Some((Some(route), began)) = found else { return Ok(()) };
    count(db, &route, epoch, &ended.tally(now.since(unix_ms(began)), clients))
}

/// Keeps what is known of an epoch for [`EVIDENCE_KEPT`] from now.
fn keep(db: &Db, route: &str, epoch: i64) -> rusqlite::Result<()> {
    let until = millis(db.clock.wall().plus(EVIDENCE_KEPT));
    let sql = "INSERT INTO epochs (route, epoch, until) VALUES (?1, ?2, ?3)
               ON CONFLICT (route, epoch) DO UPDATE SET until = excluded.until";
    db.connection.prepare_cached(sql)?.execute(params![route, epoch, until])?;
    Ok(())
}

/// Forgets epochs whose time is over, and callers who have not called for long.
pub(super) fn purge(db: &mut Db) -> rusqlite::Result<()> {
    let now = db.clock.wall();
    let over: Vec<(String, i64)> = {
        let mut statement = db.connection.prepare_cached("SELECT route, epoch FROM epochs WHERE until <= ?1")?;
        let rows = statement.query_map([millis(now)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    for epoch in over {
        for sql in [
            "DELETE FROM tallies WHERE route = ?1 AND epoch = ?2",
            "DELETE FROM counts WHERE route = ?1 AND epoch = ?2",
            "DELETE FROM epochs WHERE route = ?1 AND epoch = ?2",
        ] {
            db.connection.prepare_cached(sql)?.execute(params![epoch.0, epoch.1])?;
        }
    }
    Ok(())
}

/// What is known of epochs of a route, in their order.
pub(super) fn evidence(
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
    let mut known = Vec::with_capacity(epochs.len());
    for epoch in epochs {
        let asked = params![route, stored(*epoch), millis(now)];
        let mut evidence = StoredEvidence::default();
        let mut rows = tallies.query(asked)?;
        while let Some(row) = rows.next()? {
            evidence.add(row.get_ref(0)?.as_str()?, number(row.get(1)?));
        }
        evidence.counts = counts.query_map(asked, |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        known.push(evidence);
    }
    Ok(known)
}

// === callers ===

/// Adds calls to those of their callers, and forgets who has not called for long.
pub(super) fn note_callers(db: &mut Db, route: &str, calls: &[Caller]) -> rusqlite::Result<()> {
    let over = millis(horizon(db.clock.wall()));
    db.connection
        .prepare_cached("DELETE FROM callers WHERE route = ?1 AND last <= ?2")?
        .execute(params![route, over])?;
    for Caller { who, count, last } in calls {
        let sql = "SELECT EXISTS (SELECT 1 FROM callers WHERE route = ?1 AND who = ?2)
                       OR (SELECT count(*) FROM callers WHERE route = ?1 AND who <> ?3) < ?4";
        let most = i64::try_from(CALLERS).unwrap_or(i64::MAX);
        let has_room: bool =
            db.connection.prepare_cached(sql)?.query_row(params![route, who, OTHERS, most], |row| row.get(0))?;
        let who = if has_room { who.as_str() } else { OTHERS };
        let sql = "INSERT INTO callers (route, who, count, last) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (route, who) DO UPDATE
                   SET count = count + excluded.count, last = max(last, excluded.last)";
        db.connection.prepare_cached(sql)?.execute(params![route, who, stored(*count), millis(*last)])?;
    }
    Ok(())
}

/// Who called of late, the latest first.
pub(super) fn callers(connection: &Connection, route: &str, now: UnixMs) -> rusqlite::Result<Vec<Caller>> {
    let sql = "SELECT who, count, last FROM callers WHERE route = ?1 AND last > ?2 ORDER BY last DESC, who DESC";
    let caller = |row: &rusqlite::Row<'_>| {
        Ok(Caller { who: row.get(0)?, count: number(row.get(1)?), last: unix_ms(row.get(2)?) })
    };
    connection.prepare_cached(sql)?.query_map(params![route, millis(horizon(now))], caller)?.collect()
}

/// Whose last call was before this is forgotten.
fn horizon(now: UnixMs) -> UnixMs {
    UnixMs(now.0.saturating_sub(u64::try_from(CALLER_KEPT.as_millis()).unwrap_or(u64::MAX)))
}
