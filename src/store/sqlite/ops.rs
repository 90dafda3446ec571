//! Every change to the tables, as plain functions inside the writer's transaction.
//!
//! A change may be applied, given up with its transaction and applied again: it alters nothing but the
//! [`Db`]. Whoever changes a task's state also moves it in the tallies, and whoever ends one erases its credentials.

use std::time::Duration;

use rusqlite::{OptionalExtension, named_params, params};

use super::db::Db;
use super::schema::{State, millis, stored, with_history};
use super::sealed::{Leased, NewTask, Sealed};
use super::{outbox, rollout};
use crate::store::rollout::{ACCEPTED, Ended};
use crate::store::{Buried, Cancelled, Refusal, Settled, lease_time, may_rerun};
use crate::task::{FailureKind, TaskId, Topic, UnixMs};

/// What becomes of an attempt whose lease was not renewed.
const LAPSED: &str = "its worker did not renew its lease";

/// Ended records that one call of [`purge`] removes at most.
pub(super) const PURGE: usize = 1000;

/// A task's row, as far as changes depend on it.
struct Found {
    seq: i64,
    topic: String,
    state: State,
    attempts: u32,
    retries: u32,
    lease: i64,
    settled: i64,
    /// Whether somebody is to be told of its end.
    posts: bool,
    /// Under which its end is counted.
    epoch: Option<i64>,
    /// The group of its client.
    clients: Option<u8>,
}

/// How a task ends.
struct End<'a> {
    state: State,
    counted: Ended,
    settled: i64,
    ttl: Duration,
    answer: Option<&'a str>,
    result: Option<&'a str>,
    /// What is stored of the failure, and its message.
    failure: Option<(&'a str, &'a str)>,
}

// === impl End ===

impl End<'_> {
    /// That of a task that nobody settled, with neither answer nor failure.
    fn new(state: State, counted: Ended, ttl: Duration) -> Self {
        Self { state, counted, settled: 0, ttl, answer: None, result: None, failure: None }
    }
}

// === in and out ===

/// Inserts a task; one that is there already is left as it is.
pub(super) fn enqueue(db: &mut Db, task: &NewTask, max_backlog: u64) -> rusqlite::Result<Result<(), Refusal>> {
    let depth = db.tallies.of(task.topic.as_str()).queued();
    if depth >= max_backlog {
        let known = find(db, &task.id)?.is_some();
        let refusal = Refusal::Backlog { topic: task.topic.clone(), depth, max: max_backlog };
        return Ok(if known { Ok(()) } else { Err(refusal) });
    }
    let mut inserted = insert(db, task)?;
    if inserted.is_none() {
        let expired = "DELETE FROM tasks WHERE id = ?1 AND state > 2 AND until <= ?2";
        let gone =
            db.connection.prepare_cached(expired)?.execute(params![task.id.as_str(), millis(db.clock.wall())])?;
        if gone > 0 {
            inserted = insert(db, task)?;
        }
    }
    if let Some(state) = inserted {
        db.tallies.moved(task.topic.as_str(), None, state, 1);
        if let (Some(route), Some(epoch)) = (&task.route, task.epoch) {
            rollout::count(db, route, stored(epoch), ACCEPTED)?;
        }
    }
    Ok(Ok(()))
}

/// Gives where the task stands then; none where its id is there already.
fn insert(db: &mut Db, task: &NewTask) -> rusqlite::Result<Option<State>> {
    let (seq, due) = (db.last_seq + 1, task.due.filter(|due| *due > db.clock.wall()));
    let state = if due.is_some() { State::Parked } else { State::Ready };
    let sql = "INSERT INTO tasks (seq, id, topic, state, retries, created, owner, until, posts, caller, trace, epoch,
                                  clients)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT (id) DO NOTHING";
    let owner = task.owner.as_ref().map(crate::task::Owner::digest);
    let (created, until) = (millis(task.created), due.map_or(0, millis));
    let posts = task.webhook.is_some() || task.reply_to.is_some();
    let (id, topic, caller, trace) = (task.id.as_str(), task.topic.as_str(), &task.correlation, &task.trace);
    let (epoch, clients) = (task.epoch.map(stored), task.clients);
    let values =
        params![seq, id, topic, state, task.retries, created, owner, until, posts, caller, trace, epoch, clients];
    if db.connection.prepare_cached(sql)?.execute(values)? == 0 {
        return Ok(None);
    }
    let sql =
        "INSERT INTO inputs (seq, payload, request, credentials, correlation, route, webhook, reply_to, causation, due)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let reply_to = task.reply_to.as_ref().map(Topic::as_str);
    let (request, credentials, webhook) = (&task.request, &task.credentials, &task.webhook);
    let (correlation, route, causation) = (&task.correlation, &task.route, &task.causation);
    let (payload, due_at) = (&*task.payload, due.map(millis));
    let values = params![seq, payload, request, credentials, correlation, route, webhook, reply_to, causation, due_at];
    db.connection.prepare_cached(sql)?.execute(values)?;
    db.last_seq = seq;
    if let Some(due) = due {
        db.next_due = Some(db.next_due.map_or(due, |next| next.min(due)));
    }
    Ok(Some(state))
}

/// Leases up to `max` tasks; which topic comes first goes round.
pub(super) fn lease(db: &mut Db, process: &str, topics: &[Topic], max: usize) -> rusqlite::Result<Vec<Leased>> {
    let mut leased = Vec::new();
    db.rounds = db.rounds.wrapping_add(1);
    for n in 0..topics.len() {
        let topic = &topics[(db.rounds.wrapping_add(n)) % topics.len()];
        if leased.len() < max && db.tallies.of(topic.as_str()).ready > 0 {
            lease_of(db, process, topic, max - leased.len(), &mut leased)?;
        }
    }
    Ok(leased)
}

fn lease_of(db: &mut Db, process: &str, topic: &Topic, max: usize, leased: &mut Vec<Leased>) -> rusqlite::Result<()> {
    let sql = "SELECT seq, id, attempts + 1, lease + 1, retries, created, owner,
                      payload, request, credentials, correlation, route, webhook, reply_to, causation, epoch,
                      clients
               FROM tasks INDEXED BY ready LEFT JOIN inputs USING (seq)
               WHERE state = 0 AND topic = ?1 ORDER BY seq LIMIT ?2";
    let before = leased.len();
    let mut statement = db.connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![topic.as_str(), i64::try_from(max).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        leased.push(Leased::read(row, topic)?);
    }
    let sql =
        "UPDATE tasks SET state = 1, attempts = attempts + 1, lease = lease + 1, settled = 0, began = ?2, worker = ?3
               WHERE seq = ?1";
    let mut statement = db.connection.prepare_cached(sql)?;
    let (expires, now) = (db.clock.steady() + lease_time(), millis(db.clock.wall()));
    for lease in &leased[before..] {
        statement.execute(params![lease.seq, now, process])?;
        db.held.insert(lease.seq, expires);
    }
    db.tallies.moved(topic.as_str(), Some(State::Ready), State::Leased, (leased.len() - before) as u64);
    Ok(())
}

/// Makes parked tasks that are due leasable.
pub(super) fn promote(db: &mut Db) -> rusqlite::Result<()> {
    let now = db.clock.wall();
    if db.next_due.is_none_or(|due| due > now) {
        return Ok(());
    }
    let sql = "UPDATE tasks INDEXED BY parked SET state = 0 WHERE state = 2 AND until <= ?1 RETURNING topic";
    let mut statement = db.connection.prepare_cached(sql)?;
    let mut rows = statement.query([millis(now)])?;
    while let Some(row) = rows.next()? {
        db.tallies.moved(row.get_ref(0)?.as_str()?, Some(State::Parked), State::Ready, 1);
    }
    drop(rows);
    drop(statement);
    db.next_due = db.earliest_due()?;
    Ok(())
}

// === ends ===

/// Settles the `lease`-th lease of a task.
pub(super) fn settle(db: &mut Db, id: &TaskId, lease: i64, settlement: &Sealed) -> rusqlite::Result<Settled> {
    let Some(found) = find(db, id)?.filter(|found| found.lease == lease) else { return Ok(Settled::Fenced) };
    if found.state != State::Leased {
        let repeated = found.settled == settlement.number();
        return Ok(if repeated { Settled::Applied } else { Settled::Fenced });
    }
    let settled = settlement.number();
    match settlement {
        Sealed::Complete { answer, result, counted, ttl } => {
            let (answer, result) = (Some(answer.as_str()), Some(result.as_str()));
            let end = End { settled, answer, result, ..End::new(State::Completed, *counted, *ttl) };
            finish(db, id, &found, &end)?;
        }
        Sealed::Bury { failure, message, counted, ttl } => {
            let failure = Some((failure.as_str(), message.as_str()));
            finish(db, id, &found, &End { settled, failure, ..End::new(State::Failed, *counted, *ttl) })?;
        }
        Sealed::Retry { failure, kind, message, at } => park(db, &found, failure, (*kind, message), *at)?,
        Sealed::Release => {
            let sql = "UPDATE tasks SET state = 0, settled = ?2, attempts = attempts - 1 WHERE seq = ?1";
            db.connection.prepare_cached(sql)?.execute(params![found.seq, settled])?;
            unhold(db, &found, State::Ready);
        }
    }
    Ok(Settled::Applied)
}

fn park(db: &mut Db, found: &Found, failure: &str, why: (&str, &str), at: UnixMs) -> rusqlite::Result<()> {
    let sql = concat!(
        "UPDATE tasks SET state = 2, settled = :settled, until = :until, failure = :failure, ",
        with_history!(),
        " WHERE seq = :seq"
    );
    db.connection.prepare_cached(sql)?.execute(named_params! {
        ":seq": found.seq,
        ":settled": Sealed::RETRY,
        ":until": millis(at),
        ":failure": failure,
        ":now": millis(db.clock.wall()),
        ":kind": why.0,
        ":error": why.1,
    })?;
    db.next_due = Some(db.next_due.map_or(at, |due| due.min(at)));
    unhold(db, found, State::Parked);
    Ok(())
}

fn unhold(db: &mut Db, found: &Found, to: State) {
    db.held.remove(&found.seq);
    db.tallies.moved(&found.topic, Some(found.state), to, 1);
}

fn finish(db: &mut Db, id: &TaskId, found: &Found, end: &End<'_>) -> rusqlite::Result<()> {
    let now = db.clock.wall();
    // The last failure stays readable beside a later answer.
    let sql = "UPDATE tasks SET state = :state, settled = :settled, finished = :now, until = :until,
                   answer = :answer, result = :result, failure = coalesce(:failure, failure) WHERE seq = :seq";
    db.connection.prepare_cached(sql)?.execute(named_params! {
        ":seq": found.seq,
        ":state": end.state,
        ":settled": end.settled,
        ":now": millis(now),
        ":until": millis(now.plus(end.ttl)),
        ":answer": end.answer,
        ":result": end.result,
        ":failure": end.failure.map(|(stored, _)| stored),
    })?;
    if let Some(epoch) = found.epoch {
        rollout::count_end(db, found.seq, epoch, end.counted, found.clients, now)?;
    }
    if found.posts {
        outbox::post(db, id, found.seq, end.state, end.result, end.failure.map(|(_, message)| message))?;
    }
    if let Some((_, message)) = end.failure {
        let sql = "INSERT INTO dead_letters (seq, id, topic, error, attempts, failed, retries, created, owner)
                   SELECT seq, id, topic, ?2, attempts, ?3, retries, created, owner FROM tasks WHERE seq = ?1";
        db.connection.prepare_cached(sql)?.execute(params![found.seq, message, millis(now)])?;
        let sql = "UPDATE inputs SET credentials = NULL WHERE seq = ?1 AND credentials IS NOT NULL";
        db.connection.prepare_cached(sql)?.execute([found.seq])?;
    } else {
        db.connection.prepare_cached("DELETE FROM inputs WHERE seq = ?1")?.execute([found.seq])?;
    }
    unhold(db, found, end.state);
    db.ended.push(id.clone());
    Ok(())
}

/// Cancels a task wherever it stands.
pub(super) fn cancel(db: &mut Db, id: &TaskId, ttl: Duration) -> rusqlite::Result<Cancelled> {
    let Some(found) = find(db, id)? else { return Ok(Cancelled::Unknown) };
    let cancelled = match found.state {
        State::Cancelled => return Ok(Cancelled::Done),
        State::Completed | State::Failed => return Ok(Cancelled::Ended(found.state.status())),
        State::Leased => Cancelled::Running,
        State::Ready | State::Parked => Cancelled::Done,
    };
    finish(db, id, &found, &End::new(State::Cancelled, Ended::Cancelled, ttl))?;
    Ok(cancelled)
}

// === leases and records in time ===

/// Extends the leases that are still their holder's; gives the others.
pub(super) fn renew(db: &mut Db, leases: &[(TaskId, i64)]) -> rusqlite::Result<Vec<TaskId>> {
    let expires = db.clock.steady() + lease_time();
    let mut lost = Vec::new();
    for (id, lease) in leases {
        match find(db, id)? {
            Some(found) if found.state == State::Leased && found.lease == *lease => {
                db.held.insert(found.seq, expires);
            }
            _ => lost.push(id.clone()),
        }
    }
    Ok(lost)
}

/// Takes expired leases back: what may run again is ready, the rest is dead. After a pause in which the whole
/// process stood still, and could renew nothing, every lease starts anew. Gives the dead.
pub(super) fn reap(db: &mut Db, ttl: Duration) -> rusqlite::Result<Vec<Buried>> {
    let now = db.clock.steady();
    let pause = now.saturating_sub(std::mem::replace(&mut db.last_reap, now));
    if pause > lease_time() / 2 {
        db.held.values_mut().for_each(|expires| *expires = now + lease_time());
    }
    let expired: Vec<i64> = db.held.iter().filter(|(_, expires)| **expires <= now).map(|(seq, _)| *seq).collect();
    let mut dead = Vec::new();
    for seq in expired {
        let sql = "SELECT id, topic, route FROM tasks JOIN inputs USING (seq) WHERE seq = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let (id, topic, route): (String, String, Option<String>) =
            db.connection.prepare_cached(sql)?.query_row([seq], read)?;
        let (Ok(id), Ok(topic)) = (TaskId::parse(&id), Topic::parse(&topic)) else { continue };
        let Some(found) = find(db, &id)? else { continue };
        tracing::warn!(task = %id, attempt = found.attempts, "a lease was not renewed in time");
        if may_rerun(found.attempts, found.retries) {
            let sql = concat!("UPDATE tasks SET state = 0, ", with_history!(), " WHERE seq = :seq");
            let crash = FailureKind::Crash.as_str();
            let values = named_params! {":seq": seq, ":now": millis(db.clock.wall()), ":kind": crash, ":error": LAPSED};
            db.connection.prepare_cached(sql)?.execute(values)?;
            unhold(db, &found, State::Ready);
            continue;
        }
        let message = format!("its worker died in attempt {}, the last that it is given", found.attempts);
        let failure = super::sealed::crash(&message)?;
        let failure = Some((failure.as_str(), message.as_str()));
        finish(db, &id, &found, &End { failure, ..End::new(State::Failed, Ended::Failed, ttl) })?;
        dead.push(Buried { topic, route, trimmed: false });
    }
    Ok(dead)
}

/// Removes up to [`PURGE`] ended records that have expired; says how many.
pub(super) fn purge(db: &mut Db) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM tasks WHERE seq IN
                   (SELECT seq FROM tasks INDEXED BY ended WHERE state > 2 AND until <= ?1 LIMIT ?2)";
    db.connection
        .prepare_cached(sql)?
        .execute(params![millis(db.clock.wall()), i64::try_from(PURGE).unwrap_or(i64::MAX)])
}

fn find(db: &Db, id: &TaskId) -> rusqlite::Result<Option<Found>> {
    let sql =
        "SELECT seq, topic, state, attempts, retries, lease, settled, posts, epoch, clients FROM tasks WHERE id = ?1";
    let mut statement = db.connection.prepare_cached(sql)?;
    let found = statement.query_row([id.as_str()], |row| {
        Ok(Found {
            seq: row.get(0)?,
            topic: row.get(1)?,
            state: row.get(2)?,
            attempts: row.get(3)?,
            retries: row.get(4)?,
            lease: row.get(5)?,
            settled: row.get(6)?,
            posts: row.get(7)?,
            epoch: row.get(8)?,
            clients: row.get(9)?,
        })
    });
    found.optional()
}
