//! Every change to the tables, as plain functions inside the writer's transaction.
//!
//! A change may be applied, given up with its transaction and applied again: it alters nothing but
//! the [`WriterDatabase`]. Whoever changes a task's state also moves it in the tallies, and whoever
//! ends one erases its credentials.

use std::time::Duration;

use rusqlite::{OptionalExtension, named_params, params};

use super::db::WriterDatabase;
use super::schema::{TaskRowState, time_to_sql, u64_to_sql, with_history};
use super::sealed::{EncodedSettlement, LeasedTaskRow, NewTaskRow};
use super::{outbox, rollout};
use crate::store::rollout::{ACCEPTED_TALLY, TallyOutcome};
use crate::store::{
    BuriedTask, CancelResult, SettleResult, StoreRefusal, lease_duration, may_rerun_after_crash,
};
use crate::task::{FailureKind, TaskId, Topic, UnixMs};

/// What becomes of an attempt whose lease was not renewed.
const LEASE_EXPIRED_ERROR: &str = "its worker did not renew its lease";

/// Ended records that one call of [`purge`] removes at most.
pub(super) const PURGE_BATCH_SIZE: usize = 1000;

/// A task's row, as far as changes depend on it.
struct TaskTableRow {
    seq: i64,
    topic: String,
    state: TaskRowState,
    attempts: u32,
    retries: u32,
    lease_number: i64,
    settle_code: i64,
    /// Whether somebody is to be told of its end.
    has_deliveries: bool,
    /// Under which its end is counted.
    epoch: Option<i64>,
    /// The group of its client.
    client_group: Option<u8>,
}

/// How a task ends.
struct TaskEndUpdate<'a> {
    state: TaskRowState,
    tally_outcome: TallyOutcome,
    settle_code: i64,
    ttl: Duration,
    answer_json: Option<&'a str>,
    result_json: Option<&'a str>,
    /// What is stored of the failure, and its message.
    failure: Option<(&'a str, &'a str)>,
}

// === impl End ===

impl TaskEndUpdate<'_> {
    /// That of a task that nobody settled, with neither answer nor failure.
    fn new(state: TaskRowState, tally_outcome: TallyOutcome, ttl: Duration) -> Self {
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

// === in and out ===

/// Inserts a task; one that is there already is left as it is.
pub(super) fn enqueue_task(
    db: &mut WriterDatabase,
    task: &NewTaskRow,
    max_backlog: u64,
) -> rusqlite::Result<Result<(), StoreRefusal>> {
    let depth = db.queue_counts.counts_of_topic(task.topic.as_str()).waiting_count();
    if depth >= max_backlog {
        let known = find_task(db, &task.id)?.is_some();
        let refusal =
            StoreRefusal::BacklogFull { topic: task.topic.clone(), depth, max: max_backlog };
        return Ok(if known { Ok(()) } else { Err(refusal) });
    }
    let mut inserted = insert_task(db, task)?;
    if inserted.is_none() {
        let expired = "DELETE FROM tasks WHERE id = ?1 AND state > 2 AND until <= ?2";
        let gone = db
            .connection
            .prepare_cached(expired)?
            .execute(params![task.id.as_str(), time_to_sql(db.clock.wall_time())])?;
        if gone > 0 {
            inserted = insert_task(db, task)?;
        }
    }
    if let Some(state) = inserted {
        db.queue_counts.move_tasks(task.topic.as_str(), None, state, 1);
        if let (Some(route), Some(epoch)) = (&task.route, task.epoch) {
            rollout::increment_tally(db, route, u64_to_sql(epoch), ACCEPTED_TALLY)?;
        }
    }
    Ok(Ok(()))
}

/// Gives where the task stands then; none where its id is there already.
fn insert_task(
    db: &mut WriterDatabase,
    task: &NewTaskRow,
) -> rusqlite::Result<Option<TaskRowState>> {
    let (seq, due) = (db.last_seq + 1, task.due.filter(|due| *due > db.clock.wall_time()));
    let state = if due.is_some() { TaskRowState::Delayed } else { TaskRowState::Ready };
    let sql = "INSERT INTO tasks (seq, id, topic, state, retries, created, owner, until, posts, caller, trace, epoch,
                                  clients)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT (id) DO NOTHING";
    let owner = task.owner.as_ref().map(crate::task::TaskOwner::digest);
    let (created, until) = (time_to_sql(task.created), due.map_or(0, time_to_sql));
    let posts = task.webhook.is_some() || task.reply_to.is_some();
    let (id, topic, caller, trace) =
        (task.id.as_str(), task.topic.as_str(), &task.correlation_id, &task.trace_id);
    let (epoch, clients) = (task.epoch.map(u64_to_sql), task.client_group);
    let values = params![
        seq,
        id,
        topic,
        state,
        task.retries,
        created,
        owner,
        until,
        posts,
        caller,
        trace,
        epoch,
        clients
    ];
    if db.connection.prepare_cached(sql)?.execute(values)? == 0 {
        return Ok(None);
    }
    let sql =
        "INSERT INTO inputs (seq, payload, request, credentials, correlation, route, webhook, reply_to, causation, due)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let reply_to = task.reply_to.as_ref().map(Topic::as_str);
    let (request, credentials, webhook) = (&task.request, &task.credentials, &task.webhook);
    let (correlation, route, causation) = (&task.correlation_id, &task.route, &task.causation_id);
    let (payload, due_at) = (&*task.payload, due.map(time_to_sql));
    let values = params![
        seq,
        payload,
        request,
        credentials,
        correlation,
        route,
        webhook,
        reply_to,
        causation,
        due_at
    ];
    db.connection.prepare_cached(sql)?.execute(values)?;
    db.last_seq = seq;
    if let Some(due) = due {
        db.next_due = Some(db.next_due.map_or(due, |next| next.min(due)));
    }
    Ok(Some(state))
}

/// Leases up to `max` tasks; which topic comes first goes round.
pub(super) fn lease_tasks(
    db: &mut WriterDatabase,
    process: &str,
    topics: &[Topic],
    max: usize,
) -> rusqlite::Result<Vec<LeasedTaskRow>> {
    let mut leased = Vec::new();
    db.lease_call_count = db.lease_call_count.wrapping_add(1);
    for n in 0..topics.len() {
        let topic = &topics[(db.lease_call_count.wrapping_add(n)) % topics.len()];
        if leased.len() < max && db.queue_counts.counts_of_topic(topic.as_str()).ready > 0 {
            lease_from_topic(db, process, topic, max - leased.len(), &mut leased)?;
        }
    }
    Ok(leased)
}

fn lease_from_topic(
    db: &mut WriterDatabase,
    process: &str,
    topic: &Topic,
    max: usize,
    leased: &mut Vec<LeasedTaskRow>,
) -> rusqlite::Result<()> {
    let sql = "SELECT seq, id, attempts + 1, lease + 1, retries, created, owner,
                      payload, request, credentials, correlation, route, webhook, reply_to, causation, epoch,
                      clients
               FROM tasks INDEXED BY ready LEFT JOIN inputs USING (seq)
               WHERE state = 0 AND topic = ?1 ORDER BY seq LIMIT ?2";
    let before = leased.len();
    let mut statement = db.connection.prepare_cached(sql)?;
    let mut rows =
        statement.query(params![topic.as_str(), i64::try_from(max).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        leased.push(LeasedTaskRow::from_row(row, topic)?);
    }
    let sql =
        "UPDATE tasks SET state = 1, attempts = attempts + 1, lease = lease + 1, settled = 0, began = ?2, worker = ?3
               WHERE seq = ?1";
    let mut statement = db.connection.prepare_cached(sql)?;
    let (expires, now) =
        (db.clock.steady_time() + lease_duration(), time_to_sql(db.clock.wall_time()));
    for lease in &leased[before..] {
        statement.execute(params![lease.seq, now, process])?;
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

/// Makes parked tasks that are due leasable.
pub(super) fn ready_due_tasks(db: &mut WriterDatabase) -> rusqlite::Result<()> {
    let now = db.clock.wall_time();
    if db.next_due.is_none_or(|due| due > now) {
        return Ok(());
    }
    let sql = "UPDATE tasks INDEXED BY parked SET state = 0 WHERE state = 2 AND until <= ?1 RETURNING topic";
    let mut statement = db.connection.prepare_cached(sql)?;
    let mut rows = statement.query([time_to_sql(now)])?;
    while let Some(row) = rows.next()? {
        db.queue_counts.move_tasks(
            row.get_ref(0)?.as_str()?,
            Some(TaskRowState::Delayed),
            TaskRowState::Ready,
            1,
        );
    }
    drop(rows);
    drop(statement);
    db.next_due = db.load_earliest_due()?;
    Ok(())
}

// === ends ===

/// Settles the `lease`-th lease of a task.
pub(super) fn settle_lease(
    db: &mut WriterDatabase,
    id: &TaskId,
    lease: i64,
    settlement: &EncodedSettlement,
) -> rusqlite::Result<SettleResult> {
    let Some(found) = find_task(db, id)?.filter(|found| found.lease_number == lease) else {
        return Ok(SettleResult::Fenced);
    };
    if found.state != TaskRowState::Leased {
        let repeated = found.settle_code == settlement.settle_code();
        return Ok(if repeated { SettleResult::Applied } else { SettleResult::Fenced });
    }
    let settled = settlement.settle_code();
    match settlement {
        EncodedSettlement::Complete { answer, result, tally_outcome: counted, ttl } => {
            let (answer, result) = (Some(answer.as_str()), Some(result.as_str()));
            let end = TaskEndUpdate {
                settle_code: settled,
                answer_json: answer,
                result_json: result,
                ..TaskEndUpdate::new(TaskRowState::Completed, *counted, *ttl)
            };
            finish_task(db, id, &found, &end)?;
        }
        EncodedSettlement::Bury { failure, message, tally_outcome: counted, ttl } => {
            let failure = Some((failure.as_str(), message.as_str()));
            finish_task(
                db,
                id,
                &found,
                &TaskEndUpdate {
                    settle_code: settled,
                    failure,
                    ..TaskEndUpdate::new(TaskRowState::Failed, *counted, *ttl)
                },
            )?;
        }
        EncodedSettlement::Retry { failure, kind, message, retry_at: at } => {
            schedule_retry(db, &found, failure, (*kind, message), *at)?;
        }
        EncodedSettlement::Release => {
            let sql =
                "UPDATE tasks SET state = 0, settled = ?2, attempts = attempts - 1 WHERE seq = ?1";
            db.connection.prepare_cached(sql)?.execute(params![found.seq, settled])?;
            clear_lease(db, &found, TaskRowState::Ready);
        }
    }
    Ok(SettleResult::Applied)
}

fn schedule_retry(
    db: &mut WriterDatabase,
    found: &TaskTableRow,
    failure: &str,
    why: (&str, &str),
    at: UnixMs,
) -> rusqlite::Result<()> {
    let sql = concat!(
        "UPDATE tasks SET state = 2, settled = :settled, until = :until, failure = :failure, ",
        with_history!(),
        " WHERE seq = :seq"
    );
    db.connection.prepare_cached(sql)?.execute(named_params! {
        ":seq": found.seq,
        ":settled": EncodedSettlement::RETRY_CODE,
        ":until": time_to_sql(at),
        ":failure": failure,
        ":now": time_to_sql(db.clock.wall_time()),
        ":kind": why.0,
        ":error": why.1,
    })?;
    db.next_due = Some(db.next_due.map_or(at, |due| due.min(at)));
    clear_lease(db, found, TaskRowState::Delayed);
    Ok(())
}

fn clear_lease(db: &mut WriterDatabase, found: &TaskTableRow, to: TaskRowState) {
    db.lease_expiries.remove(&found.seq);
    db.queue_counts.move_tasks(&found.topic, Some(found.state), to, 1);
}

fn finish_task(
    db: &mut WriterDatabase,
    id: &TaskId,
    found: &TaskTableRow,
    end: &TaskEndUpdate<'_>,
) -> rusqlite::Result<()> {
    let now = db.clock.wall_time();
    // The last failure stays readable beside a later answer.
    let sql = "UPDATE tasks SET state = :state, settled = :settled, finished = :now, until = :until,
                   answer = :answer, result = :result, failure = coalesce(:failure, failure) WHERE seq = :seq";
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
        rollout::tally_task_end(db, found.seq, epoch, end.tally_outcome, found.client_group, now)?;
    }
    if found.has_deliveries {
        outbox::insert_deliveries(
            db,
            id,
            found.seq,
            end.state,
            end.result_json,
            end.failure.map(|(_, message)| message),
        )?;
    }
    if let Some((_, message)) = end.failure {
        let sql = "INSERT INTO dead_letters (seq, id, topic, error, attempts, failed, retries, created, owner)
                   SELECT seq, id, topic, ?2, attempts, ?3, retries, created, owner FROM tasks WHERE seq = ?1";
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

/// Cancels a task wherever it stands.
pub(super) fn cancel_task(
    db: &mut WriterDatabase,
    id: &TaskId,
    ttl: Duration,
) -> rusqlite::Result<CancelResult> {
    let Some(found) = find_task(db, id)? else { return Ok(CancelResult::NoSuchTask) };
    let cancelled = match found.state {
        TaskRowState::Cancelled => return Ok(CancelResult::Cancelled),
        TaskRowState::Completed | TaskRowState::Failed => {
            return Ok(CancelResult::AlreadyEnded(found.state.to_status()));
        }
        TaskRowState::Leased => CancelResult::WasRunning,
        TaskRowState::Ready | TaskRowState::Delayed => CancelResult::Cancelled,
    };
    finish_task(
        db,
        id,
        &found,
        &TaskEndUpdate::new(TaskRowState::Cancelled, TallyOutcome::Cancelled, ttl),
    )?;
    Ok(cancelled)
}

// === leases and records in time ===

/// Extends the leases that are still their holder's; gives the others.
pub(super) fn renew_leases(
    db: &mut WriterDatabase,
    leases: &[(TaskId, i64)],
) -> rusqlite::Result<Vec<TaskId>> {
    let expires = db.clock.steady_time() + lease_duration();
    let mut lost = Vec::new();
    for (id, lease) in leases {
        match find_task(db, id)? {
            Some(found) if found.state == TaskRowState::Leased && found.lease_number == *lease => {
                db.lease_expiries.insert(found.seq, expires);
            }
            _ => lost.push(id.clone()),
        }
    }
    Ok(lost)
}

/// Takes expired leases back: what may run again is ready, the rest is dead. After a pause in which
/// the whole process stood still, and could renew nothing, every lease starts anew. Gives the dead.
pub(super) fn reap_expired(
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
    let mut dead = Vec::new();
    for seq in expired {
        let sql = "SELECT id, topic, route FROM tasks JOIN inputs USING (seq) WHERE seq = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let (id, topic, route): (String, String, Option<String>) =
            db.connection.prepare_cached(sql)?.query_row([seq], read)?;
        let (Ok(id), Ok(topic)) = (TaskId::parse(&id), Topic::parse(&topic)) else { continue };
        let Some(found) = find_task(db, &id)? else { continue };
        tracing::warn!(task = %id, attempt = found.attempts, "a lease was not renewed in time");
        if may_rerun_after_crash(found.attempts, found.retries) {
            let sql = concat!("UPDATE tasks SET state = 0, ", with_history!(), " WHERE seq = :seq");
            let crash = FailureKind::WorkerCrash.as_str();
            let values = named_params! {":seq": seq, ":now": time_to_sql(db.clock.wall_time()), ":kind": crash, ":error": LEASE_EXPIRED_ERROR};
            db.connection.prepare_cached(sql)?.execute(values)?;
            clear_lease(db, &found, TaskRowState::Ready);
            continue;
        }
        let message =
            format!("its worker died in attempt {}, the last that it is given", found.attempts);
        let failure = super::sealed::encode_crash_failure(&message)?;
        let failure = Some((failure.as_str(), message.as_str()));
        finish_task(
            db,
            &id,
            &found,
            &TaskEndUpdate {
                failure,
                ..TaskEndUpdate::new(TaskRowState::Failed, TallyOutcome::Failed, ttl)
            },
        )?;
        dead.push(BuriedTask { topic, route, trimmed: false });
    }
    Ok(dead)
}

/// Removes up to [`PURGE_BATCH_SIZE`] ended records that have expired; says how many.
pub(super) fn purge_ended_tasks(db: &mut WriterDatabase) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM tasks WHERE seq IN
                   (SELECT seq FROM tasks INDEXED BY ended WHERE state > 2 AND until <= ?1 LIMIT ?2)";
    db.connection.prepare_cached(sql)?.execute(params![
        time_to_sql(db.clock.wall_time()),
        i64::try_from(PURGE_BATCH_SIZE).unwrap_or(i64::MAX)
    ])
}

fn find_task(db: &WriterDatabase, id: &TaskId) -> rusqlite::Result<Option<TaskTableRow>> {
    let sql = "SELECT seq, topic, state, attempts, retries, lease, settled, posts, epoch, clients FROM tasks WHERE id = ?1";
    let mut statement = db.connection.prepare_cached(sql)?;
    let found = statement.query_row([id.as_str()], |row| {
        Ok(TaskTableRow {
            seq: row.get(0)?,
            topic: row.get(1)?,
            state: row.get(2)?,
            attempts: row.get(3)?,
            retries: row.get(4)?,
            lease_number: row.get(5)?,
            settle_code: row.get(6)?,
            has_deliveries: row.get(7)?,
            epoch: row.get(8)?,
            client_group: row.get(9)?,
        })
    });
    found.optional()
}
