//! Claims on idempotency keys: a row each, purged when it is over.

use rusqlite::{OptionalExtension, params};

use super::db::WriterDatabase;
use super::schema::{time_from_sql, time_to_sql};
use super::sealed::{malformed_record, parse_json, parse_task_id};
use crate::store::claim::{ClaimConclusion, ClaimResult, IdempotencyClaim};
use crate::store::envelope::StoredAnswer;
use crate::store::{LEASE_DURATION, StoreError};
use crate::task::UnixMs;

/// A claim's row.
pub(super) struct ClaimRow {
    request_digest: String,
    holder_id: Option<String>,
    lease_until: UnixMs,
    task_id: String,
    state: Option<String>,
    answer_json: Option<String>,
}

/// What became of a claim, as its columns hold it.
pub(super) enum ClaimRowResult {
    Granted { task_id: String, is_new_task: bool },
    InProgress,
    DifferentRequest,
    Concluded(ClaimRow),
}

/// Claims a key, or renews the claim.
pub(super) fn claim_key(
    db: &mut WriterDatabase,
    claim: &IdempotencyClaim,
) -> rusqlite::Result<ClaimRowResult> {
    let now = db.clock.wall_time();
    let found = find_claim(db, claim, now)?;
    let mut fresh = true;
    let mut task = claim.task_id.to_string();
    if let Some(row) = found {
        if row.request_digest != claim.request_digest {
            return Ok(ClaimRowResult::DifferentRequest);
        }
        let is_task = row.state.as_deref().is_none_or(|state| state == "task");
        let replaced = is_task
            && claim.replaced_task_id.as_ref().is_some_and(|old| old.as_str() == row.task_id);
        if row.state.is_some() && !replaced {
            return Ok(ClaimRowResult::Concluded(row));
        }
        if row.lease_until > now
            && row.holder_id.as_ref().is_some_and(|holder| *holder != claim.holder_id)
        {
            return Ok(ClaimRowResult::InProgress);
        }
        if !replaced {
            (fresh, task) = (false, row.task_id);
        }
    }
    let sql = "INSERT OR REPLACE INTO claims (scope, request, holder, lease, task, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let (lease, until) =
        (time_to_sql(now.plus(LEASE_DURATION)), time_to_sql(now.plus(claim.conclusion_ttl)));
    db.connection.prepare_cached(sql)?.execute(params![
        claim.scope_digest,
        claim.request_digest,
        claim.holder_id,
        lease,
        task,
        until
    ])?;
    Ok(ClaimRowResult::Granted { task_id: task, is_new_task: fresh })
}

fn find_claim(
    db: &WriterDatabase,
    claim: &IdempotencyClaim,
    now: UnixMs,
) -> rusqlite::Result<Option<ClaimRow>> {
    let sql = "SELECT request, holder, lease, task, state, answer FROM claims WHERE scope = ?1 AND until > ?2";
    let mut statement = db.connection.prepare_cached(sql)?;
    let row = statement.query_row(params![claim.scope_digest, time_to_sql(now)], |row| {
        Ok(ClaimRow {
            request_digest: row.get(0)?,
            holder_id: row.get(1)?,
            lease_until: time_from_sql(row.get(2)?),
            task_id: row.get(3)?,
            state: row.get(4)?,
            answer_json: row.get(5)?,
        })
    });
    row.optional()
}

/// Says how a claimed request was served, if the claim is still its holder's.
pub(super) fn conclude_claim(
    db: &mut WriterDatabase,
    claim: &IdempotencyClaim,
    state: &str,
    task: Option<&str>,
    answer: Option<&str>,
) -> rusqlite::Result<()> {
    let until = time_to_sql(db.clock.wall_time().plus(claim.conclusion_ttl));
    let sql = "UPDATE claims SET holder = NULL, state = ?3, task = coalesce(?4, task), answer = ?5, until = ?6
               WHERE scope = ?1 AND holder = ?2";
    db.connection.prepare_cached(sql)?.execute(params![
        claim.scope_digest,
        claim.holder_id,
        state,
        task,
        answer,
        until
    ])?;
    Ok(())
}

/// Gives a claim up, if it is still its holder's.
pub(super) fn release_claim(
    db: &mut WriterDatabase,
    claim: &IdempotencyClaim,
) -> rusqlite::Result<()> {
    let sql = "DELETE FROM claims WHERE scope = ?1 AND holder = ?2";
    db.connection.prepare_cached(sql)?.execute([&claim.scope_digest, &claim.holder_id])?;
    Ok(())
}

/// Removes claims that are over.
pub(super) fn purge_claims(db: &mut WriterDatabase) -> rusqlite::Result<()> {
    let sql = "DELETE FROM claims WHERE until <= ?1";
    db.connection.prepare_cached(sql)?.execute([time_to_sql(db.clock.wall_time())])?;
    Ok(())
}

// === impl Found ===

impl ClaimRowResult {
    pub(super) fn into_claim_result(self) -> Result<ClaimResult, StoreError> {
        Ok(match self {
            Self::Granted { task_id: task, is_new_task: fresh } => {
                ClaimResult::Granted { task_id: parse_task_id(&task)?, is_new_task: fresh }
            }
            Self::InProgress => ClaimResult::InProgress,
            Self::DifferentRequest => ClaimResult::DifferentRequest,
            Self::Concluded(row) => {
                ClaimResult::Concluded(match (row.state.as_deref(), row.answer_json) {
                    (Some("task"), _) => ClaimConclusion::Task(parse_task_id(&row.task_id)?),
                    (Some("answer"), Some(answer)) => ClaimConclusion::Answer(
                        parse_json::<StoredAnswer>(&answer)?.into_answer(None)?,
                    ),
                    (Some("unkept"), _) => ClaimConclusion::AnswerNotStored,
                    (state, _) => {
                        return Err(malformed_record(format!("a claim in the state {state:?}")));
                    }
                })
            }
        })
    }
}
