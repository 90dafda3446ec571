//! Claims on idempotency keys: a row each, purged when it is over.

use rusqlite::{OptionalExtension, params};

use super::db::Db;
use super::schema::{millis, unix_ms};
use super::sealed::{malformed, read, task_id};
use crate::store::claim::{Claim, Claimed, Conclusion};
use crate::store::envelope::StoredAnswer;
use crate::store::{LEASE, StoreError};
use crate::task::UnixMs;

/// A claim's row.
pub(super) struct Row {
    request: String,
    holder: Option<String>,
    lease: UnixMs,
    task: String,
    state: Option<String>,
    answer: Option<String>,
}

/// What became of a claim, as its columns hold it.
pub(super) enum Found {
    Mine { task: String, fresh: bool },
    Busy,
    Other,
    Done(Row),
}

/// Claims a key, or renews the claim.
pub(super) fn claim(db: &mut Db, claim: &Claim) -> rusqlite::Result<Found> {
    let now = db.clock.wall();
    let found = find(db, claim, now)?;
    let mut fresh = true;
    let mut task = claim.task.to_string();
    if let Some(row) = found {
        if row.request != claim.request {
            return Ok(Found::Other);
        }
        let is_task = row.state.as_deref().is_none_or(|state| state == "task");
        let replaced = is_task && claim.instead_of.as_ref().is_some_and(|old| old.as_str() == row.task);
        if row.state.is_some() && !replaced {
            return Ok(Found::Done(row));
        }
        if row.lease > now && row.holder.as_ref().is_some_and(|holder| *holder != claim.holder) {
            return Ok(Found::Busy);
        }
        if !replaced {
            (fresh, task) = (false, row.task);
        }
    }
    let sql =
        "INSERT OR REPLACE INTO claims (scope, request, holder, lease, task, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let (lease, until) = (millis(now.plus(LEASE)), millis(now.plus(claim.ttl)));
    db.connection.prepare_cached(sql)?.execute(params![
        claim.scope,
        claim.request,
        claim.holder,
        lease,
        task,
        until
    ])?;
    Ok(Found::Mine { task, fresh })
}

fn find(db: &Db, claim: &Claim, now: UnixMs) -> rusqlite::Result<Option<Row>> {
    let sql = "SELECT request, holder, lease, task, state, answer FROM claims WHERE scope = ?1 AND until > ?2";
    let mut statement = db.connection.prepare_cached(sql)?;
    let row = statement.query_row(params![claim.scope, millis(now)], |row| {
        Ok(Row {
            request: row.get(0)?,
            holder: row.get(1)?,
            lease: unix_ms(row.get(2)?),
            task: row.get(3)?,
            state: row.get(4)?,
            answer: row.get(5)?,
        })
    });
    row.optional()
}

/// Says how a claimed request was served, if the claim is still its holder's.
pub(super) fn conclude(
    db: &mut Db,
    claim: &Claim,
    state: &str,
    task: Option<&str>,
    answer: Option<&str>,
) -> rusqlite::Result<()> {
    let until = millis(db.clock.wall().plus(claim.ttl));
    let sql = "UPDATE claims SET holder = NULL, state = ?3, task = coalesce(?4, task), answer = ?5, until = ?6
               WHERE scope = ?1 AND holder = ?2";
    db.connection.prepare_cached(sql)?.execute(params![claim.scope, claim.holder, state, task, answer, until])?;
    Ok(())
}

/// Gives a claim up, if it is still its holder's.
pub(super) fn abandon(db: &mut Db, claim: &Claim) -> rusqlite::Result<()> {
    let sql = "DELETE FROM claims WHERE scope = ?1 AND holder = ?2";
    db.connection.prepare_cached(sql)?.execute([&claim.scope, &claim.holder])?;
    Ok(())
}

/// Removes claims that are over.
pub(super) fn purge(db: &mut Db) -> rusqlite::Result<()> {
    let sql = "DELETE FROM claims WHERE until <= ?1";
    db.connection.prepare_cached(sql)?.execute([millis(db.clock.wall())])?;
    Ok(())
}

// === impl Found ===

impl Found {
    pub(super) fn open(self) -> Result<Claimed, StoreError> {
        Ok(match self {
            Self::Mine { task, fresh } => Claimed::Mine { task: task_id(&task)?, fresh },
            Self::Busy => Claimed::Busy,
            Self::Other => Claimed::Other,
            Self::Done(row) => Claimed::Done(match (row.state.as_deref(), row.answer) {
                (Some("task"), _) => Conclusion::Task(task_id(&row.task)?),
                (Some("answer"), Some(answer)) => Conclusion::Answer(read::<StoredAnswer>(&answer)?.open(None)?),
                (Some("unkept"), _) => Conclusion::Unkept,
                (state, _) => return Err(malformed(format!("a claim in the state {state:?}"))),
            }),
        })
    }
}
