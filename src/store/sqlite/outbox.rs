//! The outbox: written in the transaction that ends its task, body and all; taken and settled like leases.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::db::Db;
use super::schema::{State, failed, millis, unix_ms};
use super::sealed::{malformed, task_id};
use crate::store::StoreError;
use crate::store::outbox::{
    Delivery, DeliveryKind, DeliveryRecord, DeliveryStatus, Outcome, Told, event, raw, seconds,
};
use crate::task::{Owner, Status, TaskId, UnixMs};

/// How long a settled delivery can be looked at.
const KEPT: Duration = Duration::from_hours(24);

/// Of so many bytes of bodies no more are taken at once: they are held in memory until they are delivered.
const ENOUGH: i64 = 4 * 1024 * 1024;

/// A taken one, as its columns hold it.
pub(super) struct Taken {
    task: String,
    kind: String,
    target: String,
    event: String,
    ended: UnixMs,
    body: Vec<u8>,
    owner: Option<String>,
    correlation: Option<String>,
    attempt: u32,
}

/// Posts the end of a task to whom its publisher named: a webhook hears of any end, a reply is a result.
pub(super) fn post(
    db: &mut Db,
    id: &TaskId,
    seq: i64,
    state: State,
    result: Option<&str>,
    error: Option<&str>,
) -> rusqlite::Result<()> {
    let now = db.clock.wall();
    let sql = "SELECT topic, created, payload, correlation, causation, webhook, reply_to, owner
               FROM tasks JOIN inputs USING (seq) WHERE seq = ?1";
    let (told, webhook, reply_to, owner, correlation) = db.connection.prepare_cached(sql)?.query_row([seq], |row| {
        let text = |column| row.get::<_, Option<String>>(column);
        let (correlation, webhook, reply_to) = (text(3)?, text(5)?, text(6)?);
        let payload = row.get::<_, Vec<u8>>(2)?;
        let told = Told {
            task_id: raw(id.as_str()),
            content: raw(&String::from_utf8_lossy(&payload)),
            webhook: raw(&webhook),
            reply_to: raw(&reply_to),
            topic: raw(&row.get::<_, String>(0)?),
            correlation_id: raw(&correlation),
            causation_id: raw(&text(4)?),
            delivery_attempts: raw(&1),
            created_at: raw(&seconds(unix_ms(row.get(1)?))),
            runner_id: raw("omnidaemon"),
            result: result.and_then(|json| serde_json::value::RawValue::from_string(json.to_owned()).ok()),
            error: error.and_then(raw),
            ..Told::default()
        };
        Ok((told.ending(state.status(), now), webhook, reply_to, text(7)?, correlation))
    })?;
    let reply_to = reply_to.filter(|_| state.status() == Status::Completed);
    for (kind, target) in [(DeliveryKind::Webhook, webhook), (DeliveryKind::Reply, reply_to)] {
        let Some(target) = target else { continue };
        let body = told.body(kind).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let sql = "INSERT OR REPLACE INTO outbox (task, kind, target, event, ended, body, owner, correlation, due)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?5)";
        let (event, ended) = (event(id.as_str(), now.0), millis(now));
        let values = params![id.as_str(), kind.as_str(), target, event, ended, &*body, owner, correlation];
        db.connection.prepare_cached(sql)?.execute(values)?;
    }
    Ok(())
}

/// Takes up to `max` deliveries that are due, fewer where they are large, and hides them for `hold`.
pub(super) fn take(db: &mut Db, max: usize, hold: Duration) -> rusqlite::Result<Vec<Taken>> {
    let now = db.clock.wall();
    let sql = "UPDATE outbox SET attempts = attempts + 1, due = ?2 WHERE n IN
                   (SELECT n FROM
                       (SELECT n, bytes, sum(bytes) OVER (ORDER BY due, n) AS so_far FROM
                           (SELECT n, due, length(body) AS bytes FROM outbox INDEXED BY undelivered
                            WHERE due <= ?1 ORDER BY due, n LIMIT ?3))
                    WHERE so_far - bytes <= ?4)
               RETURNING task, kind, target, event, ended, body, owner, correlation, attempts";
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let mut statement = db.connection.prepare_cached(sql)?;
    let taken = statement.query_map(params![millis(now), millis(now.plus(hold)), max, ENOUGH], Taken::read)?;
    taken.collect()
}

/// Says how a taken delivery went; one that was taken again since, or that a later end replaced, is left alone.
pub(super) fn settle(db: &mut Db, delivery: &Delivery, outcome: &Outcome) -> rusqlite::Result<()> {
    let now = db.clock.wall();
    let expires = Some(millis(now.plus(KEPT)));
    let (status, due, error, tried, expires) = match outcome {
        Outcome::Done => (DeliveryStatus::Delivered, None, None, 1, expires),
        Outcome::Drop { error } => (DeliveryStatus::Dropped, None, Some(error), 1, expires),
        Outcome::Again { at, error } => {
            (DeliveryStatus::Pending, Some(millis(*at)), error.as_ref(), i32::from(error.is_some()), None)
        }
    };
    let sql = "UPDATE outbox SET status = ?5, due = ?6, error = coalesce(?7, error), attempts = attempts - 1 + ?8,
                   expires = ?9, body = CASE WHEN ?6 IS NULL THEN x'' ELSE body END
               WHERE task = ?1 AND kind = ?2 AND event = ?3 AND attempts = ?4 AND due IS NOT NULL";
    let (task, kind, event) = (delivery.task.as_str(), delivery.kind.as_str(), &delivery.event);
    let values = params![task, kind, event, delivery.attempt, status.as_str(), due, error, tried, expires];
    db.connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Removes settled deliveries that have been kept long enough.
pub(super) fn purge(db: &mut Db) -> rusqlite::Result<()> {
    let sql = "DELETE FROM outbox WHERE expires <= ?1";
    db.connection.prepare_cached(sql)?.execute([millis(db.clock.wall())])?;
    Ok(())
}

/// How a task's deliveries stand.
pub(super) fn records(connection: &Connection, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
    let sql = "SELECT kind, target, event, attempts, status, error FROM outbox WHERE task = ?1 ORDER BY kind DESC";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let read = |row: &Row<'_>| {
        let kind = DeliveryKind::from_word(&row.get::<_, String>(0)?).unwrap_or(DeliveryKind::Webhook);
        let status = DeliveryStatus::from_word(&row.get::<_, String>(4)?);
        let (target, event, attempts) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok(DeliveryRecord { kind, target, event, attempts, status, error: row.get(5)? })
    };
    statement.query_map([id.as_str()], read).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

/// How many deliveries wait.
pub(super) fn count(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM outbox INDEXED BY undelivered WHERE due IS NOT NULL";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let count = statement.query_row([], |row| row.get::<_, i64>(0)).optional().map_err(failed)?;
    Ok(u64::try_from(count.unwrap_or_default()).unwrap_or_default())
}

// === impl Taken ===

impl Taken {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            task: row.get(0)?,
            kind: row.get(1)?,
            target: row.get(2)?,
            event: row.get(3)?,
            ended: unix_ms(row.get(4)?),
            body: row.get(5)?,
            owner: row.get(6)?,
            correlation: row.get(7)?,
            attempt: row.get(8)?,
        })
    }

    pub(super) fn open(self) -> Result<Delivery, StoreError> {
        Ok(Delivery {
            task: task_id(&self.task)?,
            kind: DeliveryKind::from_word(&self.kind).ok_or_else(|| malformed("an unknown kind of delivery"))?,
            target: self.target,
            event: self.event,
            ended: self.ended,
            body: self.body.into(),
            owner: self.owner.as_deref().map(Owner::from_digest),
            correlation_id: self.correlation,
            attempt: self.attempt,
        })
    }
}
