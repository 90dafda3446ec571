//! Listing, reprocessing and discarding dead letters.

use rusqlite::{Connection, OptionalExtension, params};

use crate::store::dead_letter::{DeadLetter, MAX_LISTED_PAYLOAD_BYTES, ReprocessResult};
use crate::store::error::StoreError;
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{
    TaskRowState, limit_to_sql, time_from_sql, time_to_sql, u64_from_sql, unfinished_sql,
};
use crate::store::sqlite::schema::map_query_error;
use crate::task::Topic;

/// A dead letter's row, and what is left of its inputs.
struct DeadLetterRow {
    letter_number: i64,
    input_seq: i64,
    has_payload: bool,
    has_captured_request: bool,
    /// From the task's record, while that lasts.
    trace_id: Option<String>,
}

/// Selects dead letters of the topic `?1`, each with a payload of at most `?2` bytes. The length of
/// a payload is known without reading it.
macro_rules! dead_letter_columns_sql {
    () => {
        "SELECT id, error, attempts, failed, CASE WHEN length(payload) <= ?2 THEN payload END,
                coalesce(length(payload), 0), n
         FROM dead_letters LEFT JOIN inputs USING (seq)"
    };
}

/// A topic's dead letters with a number below `below`, newest first.
pub(crate) fn list_dead_letters(
    connection: &Connection,
    topic: &Topic,
    below: i64,
    limit: usize,
) -> Result<Vec<DeadLetter>, StoreError> {
    let sql = concat!(
        dead_letter_columns_sql!(),
        " WHERE topic = ?1 AND n < ?3 ORDER BY n DESC LIMIT ?4"
    );
    let values =
        params![topic.as_str(), limit_to_sql(MAX_LISTED_PAYLOAD_BYTES), below, limit_to_sql(limit)];
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    let letters = statement.query_map(values, |row| parse_dead_letter(row, topic));
    letters.map_err(map_query_error)?.collect::<Result<_, _>>().map_err(map_query_error)
}

/// The newest dead letter of that id, with its payload.
pub(crate) fn get_dead_letter(
    connection: &Connection,
    topic: &Topic,
    id: &str,
) -> Result<Option<DeadLetter>, StoreError> {
    let sql = concat!(
        dead_letter_columns_sql!(),
        " WHERE topic = ?1 AND id = ?3 ORDER BY n DESC LIMIT 1"
    );
    let mut statement = connection.prepare_cached(sql).map_err(map_query_error)?;
    statement
        .query_row(params![topic.as_str(), i64::MAX, id], |row| parse_dead_letter(row, topic))
        .optional()
        .map_err(map_query_error)
}

fn parse_dead_letter(row: &rusqlite::Row<'_>, topic: &Topic) -> rusqlite::Result<DeadLetter> {
    let payload: Option<Vec<u8>> = row.get(4)?;
    Ok(DeadLetter {
        id: row.get(0)?,
        topic: topic.clone(),
        error: row.get(1)?,
        attempts: row.get(2)?,
        failed_at: time_from_sql(row.get(3)?),
        payload: payload.map(|payload| String::from_utf8_lossy(&payload).into_owned()),
        payload_bytes: u64_from_sql(row.get(5)?),
        cursor: row.get::<_, i64>(6)?.to_string(),
    })
}

/// Makes a dead letter a queued task again, at the end of its queue.
pub(crate) fn reprocess_dead_letter(
    db: &mut WriterDatabase,
    topic: &Topic,
    id: &str,
) -> rusqlite::Result<ReprocessResult> {
    let is_active =
        concat!("SELECT EXISTS (SELECT 1 FROM tasks WHERE id = ?1 AND ", unfinished_sql!(), ")");
    if db.connection.prepare_cached(is_active)?.query_row([id], |row| row.get(0))? {
        return Ok(ReprocessResult::TaskActive);
    }
    let Some(letter) = find_dead_letter(db, topic, id)? else {
        return Ok(ReprocessResult::NoSuchDeadLetter);
    };
    if !letter.has_payload {
        return Ok(ReprocessResult::NotRunnable("its payload is gone".into()));
    }
    let (seq, now) = (db.last_seq + 1, db.clock.store_time());
    db.connection.prepare_cached("DELETE FROM tasks WHERE id = ?1")?.execute([id])?;
    // The lease numbers continue from the present time in ms, above all numbers from before the
    // reprocess, so that a worker that still runs an old attempt is fenced.
    let sql = "INSERT INTO tasks (seq, id, topic, state, lease, retries, created, owner, posts,
                                  caller, trace)
               SELECT ?2, id, topic, ?3, ?4, retries, created, owner,
                      webhook IS NOT NULL OR reply_to IS NOT NULL, correlation, ?5
               FROM dead_letters d JOIN inputs i ON i.seq = d.seq WHERE n = ?1";
    let values =
        params![letter.letter_number, seq, TaskRowState::Ready, time_to_sql(now), letter.trace_id];
    db.connection.prepare_cached(sql)?.execute(values)?;
    db.connection
        .prepare_cached("UPDATE inputs SET seq = ?2 WHERE seq = ?1")?
        .execute([letter.input_seq, seq])?;
    db.connection
        .prepare_cached("DELETE FROM dead_letters WHERE n = ?1")?
        .execute([letter.letter_number])?;
    db.last_seq = seq;
    db.queue_counts.move_tasks(topic.as_str(), Some(TaskRowState::Failed), TaskRowState::Ready, 1);
    Ok(ReprocessResult::Queued { is_captured_request: letter.has_captured_request })
}

/// Deletes a dead letter and its inputs; false where there is none.
pub(crate) fn discard_dead_letter(
    db: &mut WriterDatabase,
    topic: &Topic,
    id: &str,
) -> rusqlite::Result<bool> {
    let Some(letter) = find_dead_letter(db, topic, id)? else { return Ok(false) };
    db.connection
        .prepare_cached("DELETE FROM dead_letters WHERE n = ?1")?
        .execute([letter.letter_number])?;
    db.connection
        .prepare_cached("DELETE FROM inputs WHERE seq = ?1")?
        .execute([letter.input_seq])?;
    // Completed tasks are not counted, so this only removes the dead letter from the counts.
    db.queue_counts.move_tasks(
        topic.as_str(),
        Some(TaskRowState::Failed),
        TaskRowState::Completed,
        1,
    );
    Ok(true)
}

/// The newest dead letter of that id.
fn find_dead_letter(
    db: &WriterDatabase,
    topic: &Topic,
    id: &str,
) -> rusqlite::Result<Option<DeadLetterRow>> {
    let sql = "SELECT n, d.seq, payload IS NOT NULL, request IS NOT NULL,
                      (SELECT trace FROM tasks t WHERE t.id = d.id)
               FROM dead_letters d LEFT JOIN inputs i ON i.seq = d.seq
               WHERE d.id = ?1 AND d.topic = ?2 ORDER BY n DESC LIMIT 1";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(DeadLetterRow {
            letter_number: row.get(0)?,
            input_seq: row.get(1)?,
            has_payload: row.get(2)?,
            has_captured_request: row.get(3)?,
            trace_id: row.get(4)?,
        })
    };
    db.connection.prepare_cached(sql)?.query_row(params![id, topic.as_str()], read).optional()
}
