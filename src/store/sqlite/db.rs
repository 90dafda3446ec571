//! The writer's connection and what it remembers: how many tasks stand where, and which leases live.
//!
//! What is remembered is derived from the tables. It is changed along with them inside a transaction, and
//! read anew when one is given up, so it can be ahead of the disk by one commit and never drifts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, named_params};

use super::clock::Clock;
use super::schema::{State, millis, number, unix_ms, with_history};
use crate::store::{CRASH_LIMIT, lease_time};
use crate::task::{FailureKind, TaskId, UnixMs};

/// How many tasks of a topic stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) ready: u64,
    pub(super) leased: u64,
    pub(super) parked: u64,
    pub(super) dead: u64,
}

/// The tallies by topic, shared with those who only look.
#[derive(Clone, Default)]
pub(super) struct Tallies(Arc<Mutex<HashMap<Box<str>, Tally>>>);

/// The database as its one writer has it.
pub(super) struct Db {
    pub(super) connection: Connection,
    pub(super) clock: Clock,
    pub(super) tallies: Tallies,
    /// When each lease expires, by `seq` and the clock's steady time.
    pub(super) held: HashMap<i64, Duration>,
    /// When leases were last looked through, by the same time.
    pub(super) last_reap: Duration,
    /// No parked task is due before this.
    pub(super) next_due: Option<UnixMs>,
    /// The last `seq` given.
    pub(super) last_seq: i64,
    /// Counts lease calls: which topic comes first goes round.
    pub(super) rounds: usize,
    /// Who leads, and until when by the clock's steady time.
    pub(super) lead: Option<(String, Duration)>,
    /// Tasks that this transaction ends.
    pub(super) ended: Vec<TaskId>,
    /// What is remembered is not what the tables say.
    stale: bool,
}

// === impl Tally ===

impl Tally {
    /// All that wait, retries included.
    pub(super) fn queued(&self) -> u64 {
        self.ready + self.parked
    }

    fn count(&mut self, state: State) -> Option<&mut u64> {
        match state {
            State::Ready => Some(&mut self.ready),
            State::Leased => Some(&mut self.leased),
            State::Parked => Some(&mut self.parked),
            State::Failed => Some(&mut self.dead),
            State::Completed | State::Cancelled => None,
        }
    }
}

// === impl Tallies ===

impl Tallies {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Tally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A topic's tally.
    pub(super) fn of(&self, topic: &str) -> Tally {
        self.lock().get(topic).copied().unwrap_or_default()
    }

    /// Whether any task can be leased.
    pub(super) fn any_ready(&self) -> bool {
        self.lock().values().any(|tally| tally.ready > 0)
    }

    /// Counts tasks that came `from` one state (none: they are new) `to` another.
    pub(super) fn moved(&self, topic: &str, from: Option<State>, to: State, tasks: u64) {
        let mut all = self.lock();
        if !all.contains_key(topic) {
            all.insert(topic.into(), Tally::default());
        }
        let Some(tally) = all.get_mut(topic) else { return };
        if let Some(count) = from.and_then(|state| tally.count(state)) {
            *count = count.saturating_sub(tasks);
        }
        if let Some(count) = tally.count(to) {
            *count += tasks;
        }
    }
}

// === impl Db ===

impl Db {
    /// Takes the database over from an earlier boot, whose leases nobody holds any more: what may run again is
    /// released, its attempt counted; the rest is buried by the first `tend`.
    pub(super) fn take_over(connection: Connection, clock: Clock, tallies: Tallies) -> rusqlite::Result<Self> {
        let sql = concat!(
            "UPDATE tasks INDEXED BY leased SET state = 0, ",
            with_history!(),
            " WHERE state = 1 AND attempts < retries + :limit"
        );
        let (now, crash) = (millis(clock.wall()), FailureKind::Crash.as_str());
        let error = "its process ended";
        connection.execute(sql, named_params! {":limit": CRASH_LIMIT, ":now": now, ":kind": crash, ":error": error})?;
        let mut db = Self {
            connection,
            last_reap: clock.steady(),
            clock,
            tallies,
            held: HashMap::new(),
            next_due: None,
            last_seq: 0,
            rounds: 0,
            lead: None,
            ended: Vec::new(),
            stale: true,
        };
        db.reload()?;
        db.held.values_mut().for_each(|expires| *expires = Duration::ZERO);
        Ok(db)
    }

    pub(super) fn begin(&mut self) -> rusqlite::Result<()> {
        if self.stale {
            self.reload()?;
        }
        self.connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(())
    }

    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Gives a transaction up; what it changed is forgotten.
    pub(super) fn abandon(&mut self) {
        // Some errors have ended the transaction already, then there is nothing to roll back.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
        self.ended.clear();
        self.lead = None; // its term may not be on disk
        self.stale = true;
    }

    /// Reads from the tables what is remembered of them; leases that were held keep their time.
    fn reload(&mut self) -> rusqlite::Result<()> {
        let mut tallies = HashMap::<Box<str>, Tally>::new();
        let counted = [
            (State::Ready, "SELECT topic, count(*) FROM tasks INDEXED BY ready WHERE state = 0 GROUP BY topic"),
            (State::Leased, "SELECT topic, count(*) FROM tasks INDEXED BY leased WHERE state = 1 GROUP BY topic"),
            (State::Parked, "SELECT topic, count(*) FROM tasks INDEXED BY parked WHERE state = 2 GROUP BY topic"),
            (State::Failed, "SELECT topic, count(*) FROM dead_letters GROUP BY topic"),
        ];
        for (state, sql) in counted {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let tally = tallies.entry(row.get::<_, String>(0)?.into()).or_default();
                if let Some(count) = tally.count(state) {
                    *count = number(row.get(1)?);
                }
            }
        }
        let expires = self.clock.steady() + lease_time();
        let held = {
            let mut statement =
                self.connection.prepare_cached("SELECT seq FROM tasks INDEXED BY leased WHERE state = 1")?;
            let leased = statement.query_map([], |row| row.get::<_, i64>(0))?;
            leased
                .map(|seq| seq.map(|seq| (seq, *self.held.get(&seq).unwrap_or(&expires))))
                .collect::<Result<_, _>>()?
        };
        // Dead letters keep their inputs after their record is gone: a number must not come twice.
        let last_seq =
            "SELECT max(coalesce((SELECT max(seq) FROM tasks), 0), coalesce((SELECT max(seq) FROM inputs), 0))";
        self.last_seq = self.connection.query_row(last_seq, [], |row| row.get(0))?;
        self.next_due = self.earliest_due()?;
        self.held = held;
        *self.tallies.lock() = tallies;
        self.stale = false;
        Ok(())
    }

    /// When the next parked task is due.
    pub(super) fn earliest_due(&self) -> rusqlite::Result<Option<UnixMs>> {
        let sql = "SELECT min(until) FROM tasks INDEXED BY parked WHERE state = 2";
        let due: Option<i64> = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(due.map(unix_ms))
    }
}
