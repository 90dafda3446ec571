//! Inserting tasks, making delayed tasks ready, and cancelling tasks.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::evidence::increment_tally;
use super::task_end::{TaskEndUpdate, finish_task};
use crate::store::error::{StoreError, StoreRefusal};
use crate::store::evidence::{ACCEPTED_TALLY, TallyOutcome};
use crate::store::queue::CancelResult;
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{
    NewTaskRow, TaskRowState, ended_sql, find_task, time_from_sql, time_to_sql, u64_to_sql,
};
use crate::store::sqlite::schema::map_query_error;
use crate::task::{TaskId, TaskOwner, Topic, UnixMs};

/// The numbers of tasks of a topic at which a new one is refused.
#[derive(Clone, Copy)]
pub(crate) struct EnqueueLimits {
    /// Of waiting tasks.
    pub(crate) max_backlog: u64,
    /// Of ready and leased tasks, if it is limited.
    pub(crate) max_open_tasks: Option<u64>,
}

/// Inserts a task, or refuses it over the limits; a task that is stored already stays as it is.
pub(crate) fn enqueue_task(
    db: &mut WriterDatabase,
    task: &NewTaskRow,
    limits: EnqueueLimits,
) -> rusqlite::Result<Result<(), StoreRefusal>> {
    if let Some(refusal) = find_refusal(db, task, limits) {
        let known = find_task(&db.connection, &task.id)?.is_some();
        return Ok(if known { Ok(()) } else { Err(refusal) });
    }
    let mut inserted = insert_task(db, task)?;
    if inserted.is_none() {
        let sql = concat!("DELETE FROM tasks WHERE id = ?1 AND ", ended_sql!(), " AND until <= ?2");
        let deleted = db
            .connection
            .prepare_cached(sql)?
            .execute(params![task.id.as_str(), time_to_sql(db.clock.store_time())])?;
        if deleted > 0 {
            inserted = insert_task(db, task)?;
        }
    }
    if let Some(state) = inserted {
        db.queue_counts.move_tasks(task.topic.as_str(), None, state, 1);
        if let (Some(route), Some(epoch)) = (&task.route, task.epoch) {
            increment_tally(db, route, u64_to_sql(epoch), ACCEPTED_TALLY)?;
        }
    }
    Ok(Ok(()))
}

/// Why the limits refuse a new task now; none if they do not.
fn find_refusal(
    db: &WriterDatabase,
    task: &NewTaskRow,
    limits: EnqueueLimits,
) -> Option<StoreRefusal> {
    let counts = db.queue_counts.counts_of_topic(task.topic.as_str());
    let (depth, topic) = (counts.waiting_count(), task.topic.clone());
    if depth >= limits.max_backlog {
        return Some(StoreRefusal::BacklogFull { topic, depth, max: limits.max_backlog });
    }
    let is_due = task.due.is_none_or(|due| due <= db.clock.store_time());
    let (max, open) = (limits.max_open_tasks.filter(|_| is_due)?, counts.ready + counts.leased);
    (open >= max).then_some(StoreRefusal::Saturated { topic, open, max })
}

/// Inserts a task and returns its state; none where the id is stored already.
fn insert_task(
    db: &mut WriterDatabase,
    task: &NewTaskRow,
) -> rusqlite::Result<Option<TaskRowState>> {
    let (seq, due) = (db.last_seq + 1, task.due.filter(|due| *due > db.clock.store_time()));
    let state = if due.is_some() { TaskRowState::Delayed } else { TaskRowState::Ready };
    let sql = "INSERT INTO tasks (seq, id, topic, state, retries, created, owner, until, posts,
                                  caller, trace, epoch, clients)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
               ON CONFLICT (id) DO NOTHING";
    let owner = task.owner.as_ref().map(TaskOwner::digest);
    let (created, until) = (time_to_sql(task.created), due.map_or(0, time_to_sql));
    let posts = task.webhook.is_some() || task.reply_to.is_some();
    let (id, topic) = (task.id.as_str(), task.topic.as_str());
    let (caller, trace) = (&task.correlation_id, &task.trace_id);
    let (epoch, clients) = (task.epoch.map(u64_to_sql), task.client_group);
    #[rustfmt::skip]
    let values = params![
        seq, id, topic, state, task.retries, created, owner, until, posts,
        caller, trace, epoch, clients
    ];
    if db.connection.prepare_cached(sql)?.execute(values)? == 0 {
        return Ok(None);
    }
    insert_inputs(db, seq, task, due)?;
    db.last_seq = seq;
    if let Some(due) = due {
        db.next_due = Some(db.next_due.map_or(due, |next| next.min(due)));
    }
    Ok(Some(state))
}

/// Inserts what the task was given.
fn insert_inputs(
    db: &WriterDatabase,
    seq: i64,
    task: &NewTaskRow,
    due: Option<UnixMs>,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO inputs (seq, payload, request, credentials, correlation, route, webhook,
                                   reply_to, causation, due)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let reply_to = task.reply_to.as_ref().map(Topic::as_str);
    let (request, credentials, webhook) = (&task.request, &task.credentials, &task.webhook);
    let (correlation, route, causation) = (&task.correlation_id, &task.route, &task.causation_id);
    let (payload, due_at) = (&*task.payload, due.map(time_to_sql));
    #[rustfmt::skip]
    let values = params![
        seq, payload, request, credentials, correlation, route, webhook, reply_to, causation, due_at
    ];
    db.connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Makes the delayed tasks that have become due ready.
pub(crate) fn ready_due_tasks(db: &mut WriterDatabase) -> rusqlite::Result<()> {
    let now = db.clock.store_time();
    if db.next_due.is_none_or(|due| due > now) {
        return Ok(());
    }
    let sql = "UPDATE tasks INDEXED BY parked SET state = 0 WHERE state = 2 AND until <= ?1
               RETURNING topic";
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

/// Cancels a task in any state that is not ended.
pub(crate) fn cancel_task(
    db: &mut WriterDatabase,
    id: &TaskId,
    ttl: Duration,
) -> rusqlite::Result<CancelResult> {
    let Some(found) = find_task(&db.connection, id)? else { return Ok(CancelResult::NoSuchTask) };
    let result = match found.state {
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
    Ok(result)
}

/// When the oldest waiting task of a topic was accepted. A delayed task counts only after its first
/// attempt: before that it waits on purpose.
pub(crate) fn load_oldest_waiting(
    connection: &Connection,
    topic: &Topic,
) -> Result<Option<UnixMs>, StoreError> {
    let sql = "SELECT min(created) FROM (
                   SELECT * FROM (SELECT created FROM tasks INDEXED BY ready
                                  WHERE state = 0 AND topic = ?1 ORDER BY seq LIMIT 1)
                   UNION ALL
                   SELECT created FROM tasks INDEXED BY parked
                   WHERE state = 2 AND topic = ?1 AND attempts > 0)";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let created = statement
        .query_row([topic.as_str()], |row| row.get::<_, Option<i64>>(0))
        .map_err(map_query_error)?;
    Ok(created.map(time_from_sql))
}
