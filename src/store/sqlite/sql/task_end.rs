//! The end of a task: its record, its tally, its deliveries and its dead letter in one change.

use std::time::Duration;

use rusqlite::{named_params, params};

use super::evidence::tally_task_end;
use super::outbox::insert_deliveries;
use crate::store::evidence::TallyOutcome;
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{TaskRowState, TaskTableRow, time_to_sql};
use crate::task::TaskId;

/// How a task ends.
pub(crate) struct TaskEndUpdate<'a> {
    pub(crate) state: TaskRowState,
    pub(crate) tally_outcome: TallyOutcome,
    pub(crate) settle_code: i64,
    pub(crate) ttl: Duration,
    pub(crate) answer_json: Option<&'a str>,
    pub(crate) result_json: Option<&'a str>,
    /// The stored failure and its message.
    pub(crate) failure: Option<(&'a str, &'a str)>,
}

impl TaskEndUpdate<'_> {
    /// An end without settlement, answer or failure.
    pub(crate) fn new(state: TaskRowState, tally_outcome: TallyOutcome, ttl: Duration) -> Self {
        Self {
            state,
            tally_outcome,
            settle_code: 0,
            ttl,
            answer_json: None,
            result_json: None,
            failure: None,
        }
    }
}

/// Ends a task: stores how, counts it, writes its deliveries, and makes a failed task a dead
/// letter.
pub(crate) fn finish_task(
    db: &mut WriterDatabase,
    id: &TaskId,
    found: &TaskTableRow,
    end: &TaskEndUpdate<'_>,
) -> rusqlite::Result<()> {
    let now = db.clock.store_time();
    // coalesce: the failure of an earlier attempt stays readable beside the answer.
    let sql =
        "UPDATE tasks SET state = :state, settled = :settled, finished = :now, until = :until,
                   answer = :answer, result = :result, failure = coalesce(:failure, failure)
               WHERE seq = :seq";
    db.connection.prepare_cached(sql)?.execute(named_params! {
        ":seq": found.seq,
        ":state": end.state,
        ":settled": end.settle_code,
        ":now": time_to_sql(now),
        ":until": time_to_sql(now.plus(end.ttl)),
        ":answer": end.answer_json,
        ":result": end.result_json,
        ":failure": end.failure.map(|(stored, _)| stored),
    })?;
    if let Some(epoch) = found.epoch {
        tally_task_end(db, found.seq, epoch, end.tally_outcome, found.client_group, now)?;
    }
    if found.has_deliveries {
        insert_deliveries(
            db,
            id,
            found.seq,
            end.state,
            end.result_json,
            end.failure.map(|(_, message)| message),
        )?;
    }
    if let Some((_, message)) = end.failure {
        let sql = "INSERT INTO dead_letters (seq, id, topic, error, attempts, failed, retries,
                                             created, owner)
                   SELECT seq, id, topic, ?2, attempts, ?3, retries, created, owner
                   FROM tasks WHERE seq = ?1";
        db.connection.prepare_cached(sql)?.execute(params![
            found.seq,
            message,
            time_to_sql(now)
        ])?;
        let sql = "UPDATE inputs SET credentials = NULL WHERE seq = ?1 AND credentials IS NOT NULL";
        db.connection.prepare_cached(sql)?.execute([found.seq])?;
    } else {
        db.connection.prepare_cached("DELETE FROM inputs WHERE seq = ?1")?.execute([found.seq])?;
    }
    clear_lease(db, found, end.state);
    db.ended_task_ids.push(id.clone());
    Ok(())
}

/// Moves a task from the state in which it was found to another, and forgets its lease.
pub(crate) fn clear_lease(db: &mut WriterDatabase, found: &TaskTableRow, to: TaskRowState) {
    db.lease_expiries.remove(&found.seq);
    db.queue_counts.move_tasks(&found.topic, Some(found.state), to, 1);
}
