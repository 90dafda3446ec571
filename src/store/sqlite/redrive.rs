//! Dead letters that get another chance, or go: changes inside the writer's transaction, as those in `ops.rs`.

use rusqlite::{OptionalExtension, params};

use super::db::Db;
use super::schema::{State, millis};
use crate::store::Redriven;
use crate::task::{Topic, UnixMs};

/// A dead letter's row, and what it has to run again.
struct Letter {
    n: i64,
    seq: i64,
    readable: bool,
    captured: bool,
    /// Of its record, while that lasts.
    trace: Option<String>,
}

/// Makes a dead letter a queued task again, at the end of its queue.
pub(super) fn redrive(db: &mut Db, topic: &Topic, id: &str, now: UnixMs) -> rusqlite::Result<Redriven> {
    let alive = "SELECT EXISTS (SELECT 1 FROM tasks WHERE id = ?1 AND state <= 2)";
    if db.connection.prepare_cached(alive)?.query_row([id], |row| row.get(0))? {
        return Ok(Redriven::Alive);
    }
    let Some(letter) = find(db, topic, id)? else { return Ok(Redriven::Unknown) };
    if !letter.readable {
        return Ok(Redriven::Unreadable("its payload is gone".into()));
    }
    let seq = db.last_seq + 1;
    db.connection.prepare_cached("DELETE FROM tasks WHERE id = ?1")?.execute([id])?;
    // Leases are numbered on from where none of its first life can be: whoever still runs one of those is fenced.
    let sql = "INSERT INTO tasks (seq, id, topic, state, lease, retries, created, owner, posts, caller, trace)
               SELECT ?2, id, topic, ?3, ?4, retries, created, owner,
                      webhook IS NOT NULL OR reply_to IS NOT NULL, correlation, ?5
               FROM dead_letters d JOIN inputs i ON i.seq = d.seq WHERE n = ?1";
    let values = params![letter.n, seq, State::Ready, millis(now), letter.trace];
    db.connection.prepare_cached(sql)?.execute(values)?;
    db.connection.prepare_cached("UPDATE inputs SET seq = ?2 WHERE seq = ?1")?.execute([letter.seq, seq])?;
    db.connection.prepare_cached("DELETE FROM dead_letters WHERE n = ?1")?.execute([letter.n])?;
    db.last_seq = seq;
    db.tallies.moved(topic.as_str(), Some(State::Failed), State::Ready, 1);
    Ok(Redriven::Queued { captured: letter.captured })
}

/// Deletes a dead letter and its inputs; false where there is none.
pub(super) fn discard(db: &mut Db, topic: &Topic, id: &str) -> rusqlite::Result<bool> {
    let Some(letter) = find(db, topic, id)? else { return Ok(false) };
    db.connection.prepare_cached("DELETE FROM dead_letters WHERE n = ?1")?.execute([letter.n])?;
    db.connection.prepare_cached("DELETE FROM inputs WHERE seq = ?1")?.execute([letter.seq])?;
    // to where nothing is counted
    db.tallies.moved(topic.as_str(), Some(State::Failed), State::Completed, 1);
    Ok(true)
}

fn find(db: &Db, topic: &Topic, id: &str) -> rusqlite::Result<Option<Letter>> {
    let sql = "SELECT n, d.seq, payload IS NOT NULL, request IS NOT NULL, (SELECT trace FROM tasks t WHERE t.id = d.id)
               FROM dead_letters d LEFT JOIN inputs i ON i.seq = d.seq
               WHERE d.id = ?1 AND d.topic = ?2 ORDER BY n DESC LIMIT 1";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Letter {
            n: row.get(0)?,
            seq: row.get(1)?,
            readable: row.get(2)?,
            captured: row.get(3)?,
            trace: row.get(4)?,
        })
    };
    db.connection.prepare_cached(sql)?.query_row(params![id, topic.as_str()], read).optional()
}
