//! The reader: one thread with a read-only connection, which sees each commit and waits for none.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::schema::{TaskRowState, map_query_error, time_from_sql, time_to_sql};
use super::sealed::{malformed_record, parse_json, parse_task_id};
use crate::store::envelope::{StoredAnswer, StoredFailure};
use crate::store::{DeadLetter, StoreError, TaskLookup, TaskState, runs};
use crate::task::{TaskDetails, TaskId, TaskOwner, TaskRecord, Topic, UnixMs};

type ReaderQuery = Box<dyn FnOnce(&Connection) + Send>;

/// The thread's handle; dropping it joins the thread.
pub(super) struct ReaderThread {
    queries: Option<Sender<ReaderQuery>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Reader ===

impl ReaderThread {
    /// Starts the thread.
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (queries, received): (_, Receiver<ReaderQuery>) = mpsc::channel();
        let run = move || received.iter().for_each(|query| query(&connection));
        let thread = thread::Builder::new().name("sqlite-reader".into()).spawn(run)?;
        Ok(Self { queries: Some(queries), thread: Some(thread) })
    }

    /// Queues a query; false when the thread is gone.
    pub(super) fn send_query(&self, query: impl FnOnce(&Connection) + Send + 'static) -> bool {
        self.queries.as_ref().is_some_and(|queries| queries.send(Box::new(query)).is_ok())
    }

    /// Runs a query and gives its answer.
    pub(super) async fn run_query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send_query(move |connection| drop(reply.send(query(connection))));
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Unreachable("its reader thread has ended".into())))
    }
}

impl Drop for ReaderThread {
    fn drop(&mut self) {
        drop(self.queries.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the embedded store's reader thread panicked");
        }
    }
}

// === queries ===

/// A task, unless it has expired.
pub(super) fn load_task_record(
    connection: &Connection,
    id: &TaskId,
    now: UnixMs,
) -> Result<Option<TaskRecord>, StoreError> {
    let sql = "SELECT id, topic, state, attempts, owner, created, finished, answer, result, failure, until FROM tasks
               WHERE id = ?1 AND (state <= 2 OR until > ?2)";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let mut rows =
        statement.query(params![id.as_str(), time_to_sql(now)]).map_err(map_query_error)?;
    rows.next().map_err(map_query_error)?.map(parse_task_record).transpose()
}

fn parse_task_record(row: &Row<'_>) -> Result<TaskRecord, StoreError> {
    let text = |column| {
        row.get_ref(column).map_err(map_query_error)?.as_str_or_null().map_err(malformed_record)
    };
    let state: TaskRowState = row.get(2).map_err(map_query_error)?;
    let result = text(8)?
        .map(|json| RawValue::from_string(json.to_owned()))
        .transpose()
        .map_err(malformed_record)?;
    let answer = match text(7)? {
        Some(answer) => Some(parse_json::<StoredAnswer>(answer)?.into_answer(result.as_deref())?),
        None => None,
    };
    Ok(TaskRecord {
        id: parse_task_id(text(0)?.unwrap_or_default())?,
        topic: Topic::parse(text(1)?.unwrap_or_default()).map_err(malformed_record)?,
        status: state.to_status(),
        attempts: row.get(3).map_err(map_query_error)?,
        owner: text(4)?.map(TaskOwner::from_digest),
        created: time_from_sql(row.get(5).map_err(map_query_error)?),
        due: if state == TaskRowState::Delayed {
            Some(time_from_sql(row.get(10).map_err(map_query_error)?))
        } else {
            None
        },
        finished: row.get::<_, Option<i64>>(6).map_err(map_query_error)?.map(time_from_sql),
        answer,
        failure: text(9)?
            .map(|failure| parse_json::<StoredFailure>(failure)?.into_failure())
            .transpose()?,
        progress: None,
    })
}

/// All that is known of a task, unless it has expired.
pub(super) fn load_task_details(
    connection: &Connection,
    id: &TaskId,
    now: UnixMs,
) -> Result<Option<TaskDetails>, StoreError> {
    let sql = "SELECT id, topic, state, attempts, owner, created, finished, answer, result, failure,
                      until, began, worker, history, caller, trace, route
               FROM tasks LEFT JOIN inputs USING (seq) WHERE id = ?1 AND (state <= 2 OR until > ?2)";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let mut rows =
        statement.query(params![id.as_str(), time_to_sql(now)]).map_err(map_query_error)?;
    let Some(row) = rows.next().map_err(map_query_error)? else { return Ok(None) };
    let text = |column| row.get::<_, Option<String>>(column).map_err(map_query_error);
    let began = row.get::<_, Option<i64>>("began").map_err(map_query_error)?.map(time_from_sql);
    let record = parse_task_record(row)?;
    let due = record.due;
    let mut life = TaskDetails::new(
        record,
        runs::parse_runs(text("history")?.as_deref()),
        text("worker")?,
        began,
    );
    life.correlation_id = text("caller")?;
    life.trace_id = text("trace")?;
    life.route = text("route")?;
    life.next_attempt_at = due;
    Ok(Some(life))
}

/// A task as it stands, without its bodies.
pub(super) fn look_up_task(
    connection: &Connection,
    id: &TaskId,
    now: UnixMs,
) -> Result<TaskLookup, StoreError> {
    let sql = "SELECT state, attempts FROM tasks WHERE id = ?1 AND (state <= 2 OR until > ?2)";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let found = statement
        .query_row(params![id.as_str(), time_to_sql(now)], |row| Ok((row.get(0)?, row.get(1)?)));
    Ok(match found.optional().map_err(map_query_error)? {
        None => TaskLookup::NotFound,
        Some((TaskRowState::Completed | TaskRowState::Failed | TaskRowState::Cancelled, _)) => {
            TaskLookup::Ended
        }
        Some((state, attempts)) => {
            TaskLookup::Active(TaskState { status: state.to_status(), attempts, progress: None })
        }
    })
}

/// When the oldest waiting task of a topic was accepted; one that is not due yet is not late.
pub(super) fn load_oldest_waiting(
    connection: &Connection,
    topic: &Topic,
) -> Result<Option<UnixMs>, StoreError> {
    let sql = "SELECT min(created) FROM (
                   SELECT * FROM (SELECT created FROM tasks INDEXED BY ready
                                  WHERE state = 0 AND topic = ?1 ORDER BY seq LIMIT 1)
                   UNION ALL
                   SELECT created FROM tasks INDEXED BY parked WHERE state = 2 AND topic = ?1 AND attempts > 0)";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let created = statement
        .query_row([topic.as_str()], |row| row.get::<_, Option<i64>>(0))
        .map_err(map_query_error)?;
    Ok(created.map(time_from_sql))
}

/// A topic's dead letters before the one of that number, newest first.
pub(super) fn list_dead_letters(
    connection: &Connection,
    topic: &Topic,
    before: i64,
    limit: usize,
) -> Result<Vec<DeadLetter>, StoreError> {
    let sql = "SELECT id, error, attempts, failed, payload, n FROM dead_letters LEFT JOIN inputs USING (seq)
               WHERE topic = ?1 AND n < ?3 ORDER BY n DESC LIMIT ?2";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let letters = statement.query_map(
        params![topic.as_str(), i64::try_from(limit).unwrap_or(i64::MAX), before],
        |row| {
            let payload: Option<Vec<u8>> = row.get(4)?;
            Ok(DeadLetter {
                id: row.get(0)?,
                topic: topic.clone(),
                error: row.get(1)?,
                attempts: row.get(2)?,
                failed_at: time_from_sql(row.get(3)?),
                payload: String::from_utf8_lossy(&payload.unwrap_or_default()).into_owned(),
                cursor: row.get::<_, i64>(5)?.to_string(),
            })
        },
    );
    letters.map_err(map_query_error)?.collect::<Result<_, _>>().map_err(map_query_error)
}
