//! Dead letters that get another chance, or go: changes inside the writer's transaction, as those
//! in `ops.rs`.

use rusqlite::{OptionalExtension, params};

use super::db::WriterDatabase;
use super::schema::{TaskRowState, time_to_sql};
use crate::store::RedriveResult;
use crate::task::{Topic, UnixMs};

/// A dead letter's row, and what it has to run again.
struct DeadLetterRow {
    letter_number: i64,
    input_seq: i64,
    has_payload: bool,
    has_captured_request: bool,
    /// Of its record, while that lasts.
    trace_id: Option<String>,
}

/// Makes a dead letter a queued task again, at the end of its queue.
pub(super) fn redrive_dead_letter(
    db: &mut WriterDatabase,
    topic: &Topic,
    id: &str,
    now: UnixMs,
) -> rusqlite::Result<RedriveResult> {
    let alive = "SELECT EXISTS (SELECT 1 FROM tasks WHERE id = ?1 AND state <= 2)";
    if db.connection.prepare_cached(alive)?.query_row([id], |row| row.get(0))? {
        return Ok(RedriveResult::TaskActive);
    }
    let Some(letter) = find_dead_letter(db, topic, id)? else {
        return Ok(RedriveResult::NoSuchDeadLetter);
    };
    if !letter.has_payload {
        return Ok(RedriveResult::NotRunnable("its payload is gone".into()));
    }
    let seq = db.last_seq + 1;
    db.connection.prepare_cached("DELETE FROM tasks WHERE id = ?1")?.execute([id])?;
    // Leases are numbered on from where none of its first life can be: whoever still runs one of
    // those is fenced.
    let sql = "INSERT INTO tasks (seq, id, topic, state, lease, retries, created, owner, posts, caller, trace)
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
    Ok(RedriveResult::Queued { is_captured_request: letter.has_captured_request })
}

/// Deletes a dead letter and its inputs; false where there is none.
pub(super) fn discard_dead_letter(
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
    // to where nothing is counted
    db.queue_counts.move_tasks(
        topic.as_str(),
        Some(TaskRowState::Failed),
        TaskRowState::Completed,
        1,
    );
    Ok(true)
}

fn find_dead_letter(
    db: &WriterDatabase,
    topic: &Topic,
    id: &str,
) -> rusqlite::Result<Option<DeadLetterRow>> {
    let sql = "SELECT n, d.seq, payload IS NOT NULL, request IS NOT NULL, (SELECT trace FROM tasks t WHERE t.id = d.id)
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
