//! Claims on idempotency keys: one row per key, deleted when it has expired.

use rusqlite::{OptionalExtension, params};

use crate::store::claim::{ClaimConclusion, ClaimResult, IdempotencyClaim};
use crate::store::error::StoreError;
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{
    malformed_record, parse_json, parse_task_id, time_from_sql, time_to_sql,
};
use crate::store::timing::LEASE_DURATION;
use crate::store::wire::envelope::StoredAnswer;
use crate::task::UnixMs;

/// The row of a claim.
pub(crate) struct ClaimRow {
    request_digest: String,
    holder_id: Option<String>,
    lease_until: UnixMs,
    task_id: String,
    state: Option<String>,
    answer_json: Option<String>,
}

/// The answer to a claim, as the columns hold it.
pub(crate) enum ClaimRowResult {
    Granted { task_id: String, is_new_task: bool },
    InProgress,
    DifferentRequest,
    Concluded(ClaimRow),
}

/// Claims a key, or renews the claim of the same holder.
pub(crate) fn claim_key(
    db: &mut WriterDatabase,
    claim: &IdempotencyClaim,
) -> rusqlite::Result<ClaimRowResult> {
    let now = db.clock.store_time();
    let found = find_claim(db, claim, now)?;
    let mut is_new_task = true;
    let mut task_id = claim.task_id.to_string();
    if let Some(row) = found {
        if row.request_digest != claim.request_digest {
            return Ok(ClaimRowResult::DifferentRequest);
        }
        let is_task = row.state.as_deref().is_none_or(|state| state == "task");
        let replaced = is_task
            && claim
                .replaced_task_id
                .as_ref()
                .is_some_and(|replaced| replaced.as_str() == row.task_id);
        if row.state.is_some() && !replaced {
            return Ok(ClaimRowResult::Concluded(row));
        }
        if row.lease_until > now
            && row.holder_id.as_ref().is_some_and(|holder| *holder != claim.holder_id)
        {
            return Ok(ClaimRowResult::InProgress);
        }
        if !replaced {
            (is_new_task, task_id) = (false, row.task_id);
        }
    }
    let sql = "INSERT OR REPLACE INTO claims (scope, request, holder, lease, task, until)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let (lease, until) =
        (time_to_sql(now.plus(LEASE_DURATION)), time_to_sql(now.plus(claim.conclusion_ttl)));
    db.connection.prepare_cached(sql)?.execute(params![
        claim.scope_digest,
        claim.request_digest,
        claim.holder_id,
        lease,
        task_id,
        until
    ])?;
    Ok(ClaimRowResult::Granted { task_id, is_new_task })
}

/// The claim on the same key, unless it has expired.
fn find_claim(
    db: &WriterDatabase,
    claim: &IdempotencyClaim,
    now: UnixMs,
) -> rusqlite::Result<Option<ClaimRow>> {
    let sql = "SELECT request, holder, lease, task, state, answer FROM claims
               WHERE scope = ?1 AND until > ?2";
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

/// Stores how a claimed request was served, if the claim is still its holder's.
pub(crate) fn conclude_claim(
    db: &mut WriterDatabase,
    claim: &IdempotencyClaim,
    state: &str,
    task: Option<&str>,
    answer: Option<&str>,
) -> rusqlite::Result<()> {
    let until = time_to_sql(db.clock.store_time().plus(claim.conclusion_ttl));
    let sql = "UPDATE claims SET holder = NULL, state = ?3, task = coalesce(?4, task), answer = ?5,
                   until = ?6
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

/// Deletes a claim, if it is still its holder's.
pub(crate) fn release_claim(
    db: &mut WriterDatabase,
    claim: &IdempotencyClaim,
) -> rusqlite::Result<()> {
    let sql = "DELETE FROM claims WHERE scope = ?1 AND holder = ?2";
    db.connection.prepare_cached(sql)?.execute([&claim.scope_digest, &claim.holder_id])?;
    Ok(())
}

/// Deletes expired claims.
pub(crate) fn purge_claims(db: &mut WriterDatabase) -> rusqlite::Result<()> {
    let sql = "DELETE FROM claims WHERE until <= ?1";
    db.connection.prepare_cached(sql)?.execute([time_to_sql(db.clock.store_time())])?;
    Ok(())
}

// === impl ClaimRowResult ===

impl ClaimRowResult {
    /// Decodes the row.
    pub(crate) fn into_claim_result(self) -> Result<ClaimResult, StoreError> {
        Ok(match self {
            Self::Granted { task_id, is_new_task } => {
                ClaimResult::Granted { task_id: parse_task_id(&task_id)?, is_new_task }
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
