//! The outbox: deliveries are inserted in the transaction that ends their task, with their body,
//! and claimed and settled like leases.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use crate::store::error::StoreError;
use crate::store::outbox::{
    Delivery, DeliveryKind, DeliveryOutcome, DeliveryRecord, DeliveryStatus,
};
use crate::store::sqlite::database::{SqliteClock, WriterDatabase};
use crate::store::sqlite::row::{
    TaskRowState, limit_to_sql, malformed_record, parse_task_id, time_from_sql, time_to_sql,
};
use crate::store::sqlite::schema::map_query_error;
use crate::store::wire::task_end_message::{
    TaskEndMessage, end_event_id, to_raw_json, to_unix_seconds,
};
use crate::task::UnixMs;
use crate::task::{TaskId, TaskOwner, TaskStatus};

/// How long a settled delivery can be read.
const SETTLED_RETENTION: Duration = Duration::from_hours(24);

/// The most bytes of bodies that one call claims, beyond the first delivery: they stay in memory
/// until they are delivered.
const MAX_CLAIMED_BYTES: i64 = 4 * 1024 * 1024;

/// A claimed delivery, as its columns hold it.
pub(crate) struct DeliveryRow {
    task_id: String,
    kind: String,
    target: String,
    event_id: String,
    ended_at: UnixMs,
    body: Vec<u8>,
    owner: Option<String>,
    correlation_id: Option<String>,
    attempt: u32,
}

/// Inserts the deliveries of a task's end: a webhook receives any end, a reply only a result. They
/// replace those of an earlier end of the same task.
pub(crate) fn insert_deliveries(
    db: &mut WriterDatabase,
    id: &TaskId,
    seq: i64,
    state: TaskRowState,
    result: Option<&str>,
    error: Option<&str>,
) -> rusqlite::Result<()> {
    let now = db.clock.store_time();
    let sql = "SELECT topic, created, payload, correlation, causation, webhook, reply_to, owner
               FROM tasks JOIN inputs USING (seq) WHERE seq = ?1";
    let (message, webhook, reply_to, owner, correlation) =
        db.connection.prepare_cached(sql)?.query_row([seq], |row| {
            let text = |column| row.get::<_, Option<String>>(column);
            let (correlation, webhook, reply_to) = (text(3)?, text(5)?, text(6)?);
            let payload = row.get::<_, Vec<u8>>(2)?;
            let message = TaskEndMessage {
                task_id: to_raw_json(id.as_str()),
                content: to_raw_json(&String::from_utf8_lossy(&payload)),
                webhook: to_raw_json(&webhook),
                reply_to: to_raw_json(&reply_to),
                topic: to_raw_json(&row.get::<_, String>(0)?),
                correlation_id: to_raw_json(&correlation),
                causation_id: to_raw_json(&text(4)?),
                delivery_attempts: to_raw_json(&1),
                created_at: {
                    let created = db.clock.to_system_time(time_from_sql(row.get(1)?));
                    to_raw_json(&to_unix_seconds(created))
                },
                runner_id: to_raw_json("omnidaemon"),
                result: result.and_then(|json| RawValue::from_string(json.to_owned()).ok()),
                error: error.and_then(to_raw_json),
                ..TaskEndMessage::default()
            };
            let ended_at = db.clock.to_system_time(now);
            let message = message.with_ending(state.to_status(), ended_at);
            Ok((message, webhook, reply_to, text(7)?, correlation))
        })?;
    let reply_to = reply_to.filter(|_| state.to_status() == TaskStatus::Completed);
    for (kind, target) in [(DeliveryKind::Webhook, webhook), (DeliveryKind::Reply, reply_to)] {
        let Some(target) = target else { continue };
        let body = message
            .encode_body(kind)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let sql = "INSERT OR REPLACE INTO outbox (task, kind, target, event, ended, body, owner,
                                                  correlation, due)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?5)";
        let (event, ended) = (end_event_id(id.as_str(), now.0), time_to_sql(now));
        let values =
            params![id.as_str(), kind.as_str(), target, event, ended, &*body, owner, correlation];
        db.connection.prepare_cached(sql)?.execute(values)?;
    }
    Ok(())
}

/// Claims up to `max` due deliveries, fewer where their bodies are large, and hides them for
/// `hide_for`.
pub(crate) fn claim_due_deliveries(
    db: &mut WriterDatabase,
    max: usize,
    hide_for: Duration,
) -> rusqlite::Result<Vec<DeliveryRow>> {
    let now = db.clock.store_time();
    let sql = "UPDATE outbox SET attempts = attempts + 1, due = ?2 WHERE n IN
                   (SELECT n FROM
                       (SELECT n, bytes, sum(bytes) OVER (ORDER BY due, n) AS so_far FROM
                           (SELECT n, due, length(body) AS bytes FROM outbox INDEXED BY undelivered
                            WHERE due <= ?1 ORDER BY due, n LIMIT ?3))
                    WHERE so_far - bytes <= ?4)
               RETURNING task, kind, target, event, ended, body, owner, correlation, attempts";
    let max = limit_to_sql(max);
    let mut statement = db.connection.prepare_cached(sql)?;
    let claimed = statement.query_map(
        params![time_to_sql(now), time_to_sql(now.plus(hide_for)), max, MAX_CLAIMED_BYTES],
        DeliveryRow::from_row,
    )?;
    claimed.collect()
}

/// Stores how a delivery attempt ended, unless the delivery was claimed again since or replaced by
/// that of a later end.
pub(crate) fn settle_delivery(
    db: &mut WriterDatabase,
    delivery: &Delivery,
    outcome: &DeliveryOutcome,
) -> rusqlite::Result<()> {
    let now = db.clock.store_time();
    let expires = Some(time_to_sql(now.plus(SETTLED_RETENTION)));
    let (status, due, error, counted_attempts, expires) = match outcome {
        DeliveryOutcome::Delivered => (DeliveryStatus::Delivered, None, None, 1, expires),
        DeliveryOutcome::Dropped { error } => {
            (DeliveryStatus::Dropped, None, Some(error), 1, expires)
        }
        DeliveryOutcome::Retry { retry_at, error } => (
            DeliveryStatus::Pending,
            Some(time_to_sql(db.clock.to_store_time(*retry_at))),
            error.as_ref(),
            i32::from(error.is_some()),
            None,
        ),
    };
    let sql = "UPDATE outbox SET status = ?5, due = ?6, error = coalesce(?7, error),
                   attempts = attempts - 1 + ?8, expires = ?9,
                   body = CASE WHEN ?6 IS NULL THEN x'' ELSE body END
               WHERE task = ?1 AND kind = ?2 AND event = ?3 AND attempts = ?4 AND due IS NOT NULL";
    let (task, kind, event) =
        (delivery.task_id.as_str(), delivery.kind.as_str(), &delivery.event_id);
    let values = params![
        task,
        kind,
        event,
        delivery.attempt,
        status.as_str(),
        due,
        error,
        counted_attempts,
        expires
    ];
    db.connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Deletes settled deliveries whose retention has ended.
pub(crate) fn purge_settled_deliveries(db: &mut WriterDatabase) -> rusqlite::Result<()> {
    let sql = "DELETE FROM outbox WHERE expires <= ?1";
    db.connection.prepare_cached(sql)?.execute([time_to_sql(db.clock.store_time())])?;
    Ok(())
}

/// The deliveries of a task.
pub(crate) fn list_deliveries(
    connection: &Connection,
    id: &TaskId,
) -> Result<Vec<DeliveryRecord>, StoreError> {
    let sql = "SELECT kind, target, event, attempts, status, error FROM outbox WHERE task = ?1
               ORDER BY kind DESC";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let read = |row: &Row<'_>| {
        let kind =
            DeliveryKind::from_word(&row.get::<_, String>(0)?).unwrap_or(DeliveryKind::Webhook);
        let status = DeliveryStatus::from_word(&row.get::<_, String>(4)?);
        let (target, event, attempts) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok(DeliveryRecord {
            kind,
            target,
            event_id: event,
            attempts,
            status,
            last_error: row.get(5)?,
        })
    };
    statement
        .query_map([id.as_str()], read)
        .map_err(map_query_error)?
        .collect::<Result<_, _>>()
        .map_err(map_query_error)
}

/// The number of deliveries that are not settled.
pub(crate) fn count_pending_deliveries(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM outbox INDEXED BY undelivered WHERE due IS NOT NULL";
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let count =
        statement.query_row([], |row| row.get::<_, i64>(0)).optional().map_err(map_query_error)?;
    Ok(u64::try_from(count.unwrap_or_default()).unwrap_or_default())
}

// === impl DeliveryRow ===

impl DeliveryRow {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            task_id: row.get(0)?,
            kind: row.get(1)?,
            target: row.get(2)?,
            event_id: row.get(3)?,
            ended_at: time_from_sql(row.get(4)?),
            body: row.get(5)?,
            owner: row.get(6)?,
            correlation_id: row.get(7)?,
            attempt: row.get(8)?,
        })
    }

    /// Decodes the row; its time is converted to the system's.
    pub(crate) fn into_delivery(self, clock: &SqliteClock) -> Result<Delivery, StoreError> {
        Ok(Delivery {
            task_id: parse_task_id(&self.task_id)?,
            kind: DeliveryKind::from_word(&self.kind)
                .ok_or_else(|| malformed_record("an unknown kind of delivery"))?,
            target: self.target,
            event_id: self.event_id,
            ended_at: clock.to_system_time(self.ended_at),
            body: self.body.into(),
            owner: self.owner.as_deref().map(TaskOwner::from_digest),
            correlation_id: self.correlation_id,
            attempt: self.attempt,
        })
    }
}
