//! Leasing, renewing and settling.

use rusqlite::{named_params, params};

use super::task_end::{TaskEndUpdate, clear_lease, finish_task};
use crate::store::lease::SettleResult;
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{
    EncodedSettlement, LeasedTaskRow, TaskRowState, TaskTableRow, append_run_history_sql,
    find_task, limit_to_sql, time_to_sql,
};
use crate::store::timing::lease_duration;
use crate::task::{TaskId, Topic, UnixMs};

/// Leases up to `max` tasks of `topics`, each given with the most tasks to lease from it. Each call
/// begins with the next topic, so that none starves.
pub(crate) fn lease_tasks(
    db: &mut WriterDatabase,
    process_name: &str,
    topics: &[(Topic, usize)],
    max: usize,
) -> rusqlite::Result<Vec<LeasedTaskRow>> {
    let mut leased = Vec::new();
    db.lease_call_count = db.lease_call_count.wrapping_add(1);
    for n in 0..topics.len() {
        let (topic, max_of_topic) = &topics[(db.lease_call_count.wrapping_add(n)) % topics.len()];
        let room = (max - leased.len()).min(*max_of_topic);
        if room > 0 && db.queue_counts.counts_of_topic(topic.as_str()).ready > 0 {
            lease_from_topic(db, process_name, topic, room, &mut leased)?;
        }
    }
    Ok(leased)
}

/// Appends up to `max` leased tasks of a topic to `leased`.
fn lease_from_topic(
    db: &mut WriterDatabase,
    process_name: &str,
    topic: &Topic,
    max: usize,
    leased: &mut Vec<LeasedTaskRow>,
) -> rusqlite::Result<()> {
    let sql = "SELECT seq, id, attempts + 1, lease + 1, retries, created, owner,
                      payload, request, credentials, correlation, route, webhook, reply_to,
                      causation, epoch, clients
               FROM tasks INDEXED BY ready LEFT JOIN inputs USING (seq)
               WHERE state = 0 AND topic = ?1 ORDER BY seq LIMIT ?2";
    let before = leased.len();
    let mut statement = db.connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![topic.as_str(), limit_to_sql(max)])?;
    while let Some(row) = rows.next()? {
        leased.push(LeasedTaskRow::from_row(row, topic)?);
    }
    let sql = "UPDATE tasks SET state = 1, attempts = attempts + 1, lease = lease + 1, settled = 0,
                                began = ?2, worker = ?3
               WHERE seq = ?1";
    let mut statement = db.connection.prepare_cached(sql)?;
    let (expires, now) =
        (db.clock.steady_time() + lease_duration(), time_to_sql(db.clock.store_time()));
    for lease in &leased[before..] {
        statement.execute(params![lease.seq, now, process_name])?;
        db.lease_expiries.insert(lease.seq, expires);
    }
    db.queue_counts.move_tasks(
        topic.as_str(),
        Some(TaskRowState::Ready),
        TaskRowState::Leased,
        (leased.len() - before) as u64,
    );
    Ok(())
}

/// Extends the current leases among `leases` and returns the tasks of the others.
pub(crate) fn renew_leases(
    db: &mut WriterDatabase,
    leases: &[(TaskId, i64)],
) -> rusqlite::Result<Vec<TaskId>> {
    let expires = db.clock.steady_time() + lease_duration();
    let mut lost = Vec::new();
    for (id, lease_number) in leases {
        match find_task(&db.connection, id)? {
            Some(found)
                if found.state == TaskRowState::Leased && found.lease_number == *lease_number =>
            {
                db.lease_expiries.insert(found.seq, expires);
            }
            _ => lost.push(id.clone()),
        }
    }
    Ok(lost)
}

/// Settles the lease with number `lease_number` of a task.
pub(crate) fn settle_lease(
    db: &mut WriterDatabase,
    id: &TaskId,
    lease_number: i64,
    settlement: &EncodedSettlement,
) -> rusqlite::Result<SettleResult> {
    let Some(found) =
        find_task(&db.connection, id)?.filter(|found| found.lease_number == lease_number)
    else {
        return Ok(SettleResult::Fenced);
    };
    let settle_code = settlement.settle_code();
    if found.state != TaskRowState::Leased {
        let repeated = found.settle_code == settle_code;
        return Ok(if repeated { SettleResult::Applied } else { SettleResult::Fenced });
    }
    match settlement {
        EncodedSettlement::Complete { answer, result, tally_outcome, ttl } => {
            let (answer, result) = (Some(answer.as_str()), Some(result.as_str()));
            let end = TaskEndUpdate {
                settle_code,
                answer_json: answer,
                result_json: result,
                ..TaskEndUpdate::new(TaskRowState::Completed, *tally_outcome, *ttl)
            };
            finish_task(db, id, &found, &end)?;
        }
        EncodedSettlement::Bury { failure, message, tally_outcome, ttl } => {
            let failure = Some((failure.as_str(), message.as_str()));
            let end = TaskEndUpdate {
                settle_code,
                failure,
                ..TaskEndUpdate::new(TaskRowState::Failed, *tally_outcome, *ttl)
            };
            finish_task(db, id, &found, &end)?;
        }
        EncodedSettlement::Retry { failure, kind, message, retry_at } => {
            schedule_retry(db, &found, failure, (*kind, message), *retry_at)?;
        }
        EncodedSettlement::Release => {
            let sql =
                "UPDATE tasks SET state = 0, settled = ?2, attempts = attempts - 1 WHERE seq = ?1";
            db.connection.prepare_cached(sql)?.execute(params![found.seq, settle_code])?;
            clear_lease(db, &found, TaskRowState::Ready);
        }
    }
    Ok(SettleResult::Applied)
}

/// Delays a task until `retry_at`. `failure` is the stored failure, `kind_and_error` goes to the
/// history.
fn schedule_retry(
    db: &mut WriterDatabase,
    found: &TaskTableRow,
    failure: &str,
    kind_and_error: (&str, &str),
    retry_at: UnixMs,
) -> rusqlite::Result<()> {
    let sql = concat!(
        "UPDATE tasks SET state = 2, settled = :settled, until = :until, failure = :failure, ",
        append_run_history_sql!(),
        " WHERE seq = :seq"
    );
    db.connection.prepare_cached(sql)?.execute(named_params! {
        ":seq": found.seq,
        ":settled": EncodedSettlement::RETRY_CODE,
        ":until": time_to_sql(retry_at),
        ":failure": failure,
        ":now": time_to_sql(db.clock.store_time()),
        ":kind": kind_and_error.0,
        ":error": kind_and_error.1,
    })?;
    db.next_due = Some(db.next_due.map_or(retry_at, |due| due.min(retry_at)));
    clear_lease(db, found, TaskRowState::Delayed);
    Ok(())
}
