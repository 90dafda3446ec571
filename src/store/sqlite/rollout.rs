//! Rollouts: changes inside the writer's transaction, as those in `ops.rs`, and what the reader is
//! asked.
//!
//! Presence and the lead belong to this process and are remembered, not written: only a new term
//! is, so that no later boot gives it again. A replica's counts are written where they differ from
//! what stands there, so that an idle one costs no commit.

use rusqlite::{Connection, OptionalExtension, params};

use super::db::WriterDatabase;
use super::schema::{map_query_error, time_from_sql, time_to_sql, u64_from_sql, u64_to_sql};
use crate::store::list::invalid_cursor;
use crate::store::rollout::{
    CALLER_RETENTION, DeprecatedCaller, EVIDENCE_RETENTION, MAX_CALLERS, MAX_HISTORY_ENTRIES,
    OTHER_CALLERS, ReplicaReport, ReplicaSync, RolloutCommit, RolloutHistoryEntry, StoredEvidence,
    TallyOutcome, replica_ttl,
};
use crate::store::{RolloutRecord, StoreError};
use crate::task::UnixMs;

// === state ===

/// A route's rollout state.
pub(super) fn load_rollout(
    connection: &Connection,
    route: &str,
) -> rusqlite::Result<Option<RolloutRecord>> {
    let sql = "SELECT version, state FROM rollouts WHERE route = ?1";
    let record = |row: &rusqlite::Row<'_>| {
        Ok(RolloutRecord { version: u64_from_sql(row.get(0)?), state_json: row.get(1)? })
    };
    connection.prepare_cached(sql)?.query_row([route], record).optional()
}

/// Saves a rollout's state over the version before it, and its events with it, or nothing.
pub(super) fn save_rollout(
    db: &mut WriterDatabase,
    route: &str,
    record: &RolloutRecord,
    change: &RolloutCommit,
) -> rusqlite::Result<bool> {
    let current = load_rollout(&db.connection, route)?.map_or(0, |record| record.version);
    if current.checked_add(1) != Some(record.version) {
        return Ok(false);
    }
    if let Some(decided_in) = change.required_term
        && (current_leader(db).is_none() || load_term(db)? != decided_in)
    {
        return Ok(false);
    }
    let sql = "INSERT INTO rollouts (route, version, state) VALUES (?1, ?2, ?3)
               ON CONFLICT (route) DO UPDATE SET version = excluded.version, state = excluded.state";
    db.connection.prepare_cached(sql)?.execute(params![
        route,
        u64_to_sql(record.version),
        record.state_json
    ])?;
    for event in &change.history_events {
        let sql = "INSERT INTO history (route, event) VALUES (?1, ?2)";
        db.connection.prepare_cached(sql)?.execute([route, event])?;
    }
    let sql = "DELETE FROM history WHERE route = ?1 AND n <=
                   (SELECT n FROM history WHERE route = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)";
    let kept = i64::try_from(MAX_HISTORY_ENTRIES).unwrap_or(i64::MAX);
    db.connection.prepare_cached(sql)?.execute(params![route, kept])?;
    Ok(true)
}

/// Entries of a route's history before the one of that cursor, newest first.
pub(super) fn load_rollout_history(
    connection: &Connection,
    route: &str,
    before: Option<&str>,
    limit: usize,
) -> Result<Vec<RolloutHistoryEntry>, StoreError> {
    let before: i64 =
        before.map_or(Ok(i64::MAX), str::parse).map_err(|_| invalid_cursor("before"))?;
    let sql = "SELECT n, event FROM history WHERE route = ?1 AND n < ?2 ORDER BY n DESC LIMIT ?3";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let entries = statement.query_map(
        params![route, before, i64::try_from(limit).unwrap_or(i64::MAX)],
        |row| {
            Ok(RolloutHistoryEntry {
                cursor: row.get::<_, i64>(0)?.to_string(),
                event_json: row.get(1)?,
            })
        },
    );
    entries.map_err(map_query_error)?.collect::<Result<_, _>>().map_err(map_query_error)
}

// === the meeting ===

/// Notes what a replica counted, gives or renews the lead, and reads what it asks for; who is there
/// is not known here.
pub(super) fn sync_replica(
    db: &mut WriterDatabase,
    presence: &ReplicaReport,
    routes: &[String],
) -> rusqlite::Result<ReplicaSync> {
    for (route, epoch, counted) in &presence.epoch_counts {
        let sql = "INSERT INTO counts (route, epoch, process, counted) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (route, epoch, process) DO UPDATE SET counted = excluded.counted
                   WHERE counted <> excluded.counted";
        let values = params![route, u64_to_sql(*epoch), presence.process, counted];
        if db.connection.prepare_cached(sql)?.execute(values)? > 0 {
            extend_epoch_retention(db, route, u64_to_sql(*epoch))?;
        }
    }
    let term = acquire_lead(db, presence)?;
    let records =
        routes.iter().map(|route| load_rollout(&db.connection, route)).collect::<Result<_, _>>()?;
    Ok(ReplicaSync {
        term,
        leader: current_leader(db).map(str::to_owned),
        replicas: Vec::new(),
        rollout_records: records,
        clock_ahead_ms: 0,
    })
}

/// The term, where the replica leads now.
fn acquire_lead(
    db: &mut WriterDatabase,
    presence: &ReplicaReport,
) -> rusqlite::Result<Option<u64>> {
    let ReplicaReport { process, wants_lead: candidate, .. } = presence;
    let until = db.clock.steady_time() + replica_ttl();
    let leads = current_leader(db).map(|leader| leader == process);
    match (leads, candidate) {
        (Some(false), _) | (None, false) => return Ok(None),
        (Some(true), false) => {
            db.current_leader = None;
            return Ok(None);
        }
        (Some(true), true) => {}
        (None, true) => {
            let next = u64_to_sql(load_term(db)? + 1);
            db.connection
                .prepare_cached("INSERT INTO terms (term) VALUES (?1)")?
                .execute([next])?;
            db.connection.prepare_cached("DELETE FROM terms WHERE term < ?1")?.execute([next])?;
        }
    }
    db.current_leader = Some((process.clone(), until));
    load_term(db).map(Some)
}

/// Takes the lead from a replica that has it.
pub(super) fn release_lead(db: &mut WriterDatabase, process: &str) {
    db.current_leader.take_if(|(leader, _)| leader == process);
}

fn current_leader(db: &WriterDatabase) -> Option<&str> {
    let now = db.clock.steady_time();
    db.current_leader.as_ref().filter(|(_, until)| *until > now).map(|(leader, _)| leader.as_str())
}

fn load_term(db: &WriterDatabase) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce(max(term), 0) FROM terms";
    db.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).map(u64_from_sql)
}

// === tallies ===

/// Counts one more.
pub(super) fn increment_tally(
    db: &mut WriterDatabase,
    route: &str,
    epoch: i64,
    name: &str,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tallies (route, epoch, name, count) VALUES (?1, ?2, ?3, 1)
               ON CONFLICT (route, epoch, name) DO UPDATE SET count = count + 1 RETURNING count";
    let counted: i64 = db
        .connection
        .prepare_cached(sql)?
        .query_row(params![route, epoch, name], |row| row.get(0))?;
    if counted == 1 { extend_epoch_retention(db, route, epoch) } else { Ok(()) }
}

/// Counts the end of a task whose inputs are still there.
pub(super) fn tally_task_end(
    db: &mut WriterDatabase,
    seq: i64,
    epoch: i64,
    ended: TallyOutcome,
    clients: Option<u8>,
    now: UnixMs,
) -> rusqlite::Result<()> {
    let sql = "SELECT route, max(created, coalesce(due, 0)) FROM tasks JOIN inputs USING (seq) WHERE seq = ?1";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found: Option<(Option<String>, i64)> =
        db.connection.prepare_cached(sql)?.query_row([seq], read).optional()?;
    let Some((Some(route), began)) = found else { return Ok(()) };
    increment_tally(db, &route, epoch, &ended.tally_name(now.since(time_from_sql(began)), clients))
}

/// Keeps what is known of an epoch for [`EVIDENCE_RETENTION`] from now.
fn extend_epoch_retention(db: &WriterDatabase, route: &str, epoch: i64) -> rusqlite::Result<()> {
    let until = time_to_sql(db.clock.wall_time().plus(EVIDENCE_RETENTION));
    let sql = "INSERT INTO epochs (route, epoch, until) VALUES (?1, ?2, ?3)
               ON CONFLICT (route, epoch) DO UPDATE SET until = excluded.until";
    db.connection.prepare_cached(sql)?.execute(params![route, epoch, until])?;
    Ok(())
}

/// Forgets epochs whose time is over, and callers who have not called for long.
pub(super) fn purge_epochs(db: &mut WriterDatabase) -> rusqlite::Result<()> {
    let now = db.clock.wall_time();
    let over: Vec<(String, i64)> = {
        let mut statement =
            db.connection.prepare_cached("SELECT route, epoch FROM epochs WHERE until <= ?1")?;
        let rows = statement.query_map([time_to_sql(now)], |row| Ok((row.get(0)?, row.get(1)?)))?;
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
pub(super) fn load_evidence(
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
        let asked = params![route, u64_to_sql(*epoch), time_to_sql(now)];
        let mut evidence = StoredEvidence::default();
        let mut rows = tallies.query(asked)?;
        while let Some(row) = rows.next()? {
            evidence.add_tally(row.get_ref(0)?.as_str()?, u64_from_sql(row.get(1)?));
        }
        evidence.replica_counts = counts
            .query_map(asked, |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        known.push(evidence);
    }
    Ok(known)
}

// === callers ===

/// Adds calls to those of their callers, and forgets who has not called for long.
pub(super) fn record_deprecated_calls(
    db: &mut WriterDatabase,
    route: &str,
    calls: &[DeprecatedCaller],
) -> rusqlite::Result<()> {
    let over = time_to_sql(caller_cutoff(db.clock.wall_time()));
    db.connection
        .prepare_cached("DELETE FROM callers WHERE route = ?1 AND last <= ?2")?
        .execute(params![route, over])?;
    for DeprecatedCaller { name: who, call_count: count, last_called_at: last } in calls {
        let sql = "SELECT EXISTS (SELECT 1 FROM callers WHERE route = ?1 AND who = ?2)
                       OR (SELECT count(*) FROM callers WHERE route = ?1 AND who <> ?3) < ?4";
        let most = i64::try_from(MAX_CALLERS).unwrap_or(i64::MAX);
        let has_room: bool = db
            .connection
            .prepare_cached(sql)?
            .query_row(params![route, who, OTHER_CALLERS, most], |row| row.get(0))?;
        let who = if has_room { who.as_str() } else { OTHER_CALLERS };
        let sql = "INSERT INTO callers (route, who, count, last) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (route, who) DO UPDATE
                   SET count = count + excluded.count, last = max(last, excluded.last)";
        db.connection.prepare_cached(sql)?.execute(params![
            route,
            who,
            u64_to_sql(*count),
            time_to_sql(*last)
        ])?;
    }
    Ok(())
}

/// Who called of late, the latest first.
pub(super) fn list_deprecated_callers(
    connection: &Connection,
    route: &str,
    now: UnixMs,
) -> rusqlite::Result<Vec<DeprecatedCaller>> {
    let sql = "SELECT who, count, last FROM callers WHERE route = ?1 AND last > ?2 ORDER BY last DESC, who DESC";
    let caller = |row: &rusqlite::Row<'_>| {
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

/// Whose last call was before this is forgotten.
fn caller_cutoff(now: UnixMs) -> UnixMs {
    UnixMs(now.0.saturating_sub(u64::try_from(CALLER_RETENTION.as_millis()).unwrap_or(u64::MAX)))
}
