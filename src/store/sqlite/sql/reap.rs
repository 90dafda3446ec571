//! Ending expired leases, and deleting expired records.

use std::time::Duration;

use rusqlite::{named_params, params};

use super::task_end::{TaskEndUpdate, clear_lease, finish_task};
use crate::store::evidence::TallyOutcome;
use crate::store::lease::BuriedTask;
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{
    TaskRowState, TaskTableRow, append_run_history_sql, encode_crash_failure, ended_sql, find_task,
    limit_to_sql, time_to_sql,
};
use crate::store::timing::{lease_duration, may_rerun_after_crash};
use crate::task::{FailureKind, TaskId, Topic};

/// The error in the history of an attempt whose lease expired.
const LEASE_EXPIRED_ERROR: &str = "its worker did not renew its lease";

/// The most records that one call of [`purge_ended_tasks`] deletes.
pub(crate) const PURGE_BATCH_SIZE: usize = 1000;

/// Ends expired leases: tasks that may run again become ready, the others become dead letters,
/// which are returned. After a pause in which the whole process was stopped, and could renew no
/// lease, all leases are extended instead.
pub(crate) fn reap_expired(
    db: &mut WriterDatabase,
    ttl: Duration,
) -> rusqlite::Result<Vec<BuriedTask>> {
    let now = db.clock.steady_time();
    let pause = now.saturating_sub(std::mem::replace(&mut db.last_reap_at, now));
    if pause > lease_duration() / 2 {
        db.lease_expiries.values_mut().for_each(|expires| *expires = now + lease_duration());
    }
    let expired: Vec<i64> = db
        .lease_expiries
        .iter()
        .filter(|(_, expires)| **expires <= now)
        .map(|(seq, _)| *seq)
        .collect();
    let mut buried = Vec::new();
    for seq in expired {
        buried.extend(end_expired_lease(db, seq, ttl)?);
    }
    Ok(buried)
}

/// Ends one expired lease; the dead letter, if the task became one.
fn end_expired_lease(
    db: &mut WriterDatabase,
    seq: i64,
    ttl: Duration,
) -> rusqlite::Result<Option<BuriedTask>> {
    let sql = "SELECT id, topic, route FROM tasks JOIN inputs USING (seq) WHERE seq = ?1";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let (id, topic, route): (String, String, Option<String>) =
        db.connection.prepare_cached(sql)?.query_row([seq], read)?;
    let (Ok(id), Ok(topic)) = (TaskId::parse(&id), Topic::parse(&topic)) else { return Ok(None) };
    let Some(found) = find_task(&db.connection, &id)? else { return Ok(None) };
    tracing::warn!(task = %id, attempt = found.attempts, "a lease was not renewed in time");
    if may_rerun_after_crash(found.attempts, found.retries) {
        ready_after_crash(db, &found)?;
        return Ok(None);
    }
    let message = format!("its worker crashed in attempt {}, the last one allowed", found.attempts);
    let failure = encode_crash_failure(&message)?;
    let failure = Some((failure.as_str(), message.as_str()));
    let end = TaskEndUpdate {
        failure,
        ..TaskEndUpdate::new(TaskRowState::Failed, TallyOutcome::Failed, ttl)
    };
    finish_task(db, &id, &found, &end)?;
    Ok(Some(BuriedTask { topic, route, trimmed: false }))
}

/// Makes a task ready whose lease has expired, with the attempt counted.
fn ready_after_crash(db: &mut WriterDatabase, found: &TaskTableRow) -> rusqlite::Result<()> {
    let sql =
        concat!("UPDATE tasks SET state = 0, ", append_run_history_sql!(), " WHERE seq = :seq");
    db.connection.prepare_cached(sql)?.execute(named_params! {
        ":seq": found.seq,
        ":now": time_to_sql(db.clock.store_time()),
        ":kind": FailureKind::WorkerCrash.as_str(),
        ":error": LEASE_EXPIRED_ERROR,
    })?;
    clear_lease(db, found, TaskRowState::Ready);
    Ok(())
}

/// Deletes up to [`PURGE_BATCH_SIZE`] expired records; returns how many.
pub(crate) fn purge_ended_tasks(db: &mut WriterDatabase) -> rusqlite::Result<usize> {
    let sql = concat!(
        "DELETE FROM tasks WHERE seq IN (SELECT seq FROM tasks INDEXED BY ended WHERE ",
        ended_sql!(),
        " AND until <= ?1 LIMIT ?2)"
    );
    db.connection
        .prepare_cached(sql)?
        .execute(params![time_to_sql(db.clock.store_time()), limit_to_sql(PURGE_BATCH_SIZE)])
}
