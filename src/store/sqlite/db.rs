//! The writer's connection and what it remembers: how many tasks stand where, and which leases
//! live.
//!
//! What is remembered is derived from the tables. It is changed along with them inside a
//! transaction, and read anew when one is given up, so it can be ahead of the disk by one commit
//! and never drifts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, named_params};

use super::clock::SqliteClock;
use super::schema::{TaskRowState, time_from_sql, time_to_sql, u64_from_sql, with_history};
use crate::store::{CRASH_RERUN_LIMIT, lease_duration};
use crate::task::{FailureKind, TaskId, UnixMs};

/// How many tasks of a topic stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueCounts {
    pub(super) ready: u64,
    pub(super) leased: u64,
    pub(super) delayed: u64,
    pub(super) dead_letters: u64,
}

/// The tallies by topic, shared with those who only look.
#[derive(Clone, Default)]
pub(super) struct QueueCountsByTopic(Arc<Mutex<HashMap<Box<str>, QueueCounts>>>);

/// The database as its one writer has it.
pub(super) struct WriterDatabase {
    pub(super) connection: Connection,
    pub(super) clock: SqliteClock,
    pub(super) queue_counts: QueueCountsByTopic,
    /// When each lease expires, by `seq` and the clock's steady time.
    pub(super) lease_expiries: HashMap<i64, Duration>,
    /// When leases were last looked through, by the same time.
    pub(super) last_reap_at: Duration,
    /// No parked task is due before this.
    pub(super) next_due: Option<UnixMs>,
    /// The last `seq` given.
    pub(super) last_seq: i64,
    /// Counts lease calls: which topic comes first goes round.
    pub(super) lease_call_count: usize,
    /// Who leads, and until when by the clock's steady time.
    pub(super) current_leader: Option<(String, Duration)>,
    /// Tasks that this transaction ends.
    pub(super) ended_task_ids: Vec<TaskId>,
    /// What is remembered is not what the tables say.
    needs_reload: bool,
}

// === impl Tally ===

impl QueueCounts {
    /// All that wait, retries included.
    pub(super) fn waiting_count(&self) -> u64 {
        self.ready + self.delayed
    }

    fn count_mut(&mut self, state: TaskRowState) -> Option<&mut u64> {
        match state {
            TaskRowState::Ready => Some(&mut self.ready),
            TaskRowState::Leased => Some(&mut self.leased),
            TaskRowState::Delayed => Some(&mut self.delayed),
            TaskRowState::Failed => Some(&mut self.dead_letters),
            TaskRowState::Completed | TaskRowState::Cancelled => None,
        }
    }
}

// === impl Tallies ===

impl QueueCountsByTopic {
    fn lock_counts(&self) -> MutexGuard<'_, HashMap<Box<str>, QueueCounts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A topic's tally.
    pub(super) fn counts_of_topic(&self, topic: &str) -> QueueCounts {
        self.lock_counts().get(topic).copied().unwrap_or_default()
    }

    /// Whether any task can be leased.
    pub(super) fn has_ready_tasks(&self) -> bool {
        self.lock_counts().values().any(|tally| tally.ready > 0)
    }

    /// Counts tasks that came `from` one state (none: they are new) `to` another.
    pub(super) fn move_tasks(
        &self,
        topic: &str,
        from: Option<TaskRowState>,
        to: TaskRowState,
        tasks: u64,
    ) {
        let mut all = self.lock_counts();
        if !all.contains_key(topic) {
            all.insert(topic.into(), QueueCounts::default());
        }
        let Some(tally) = all.get_mut(topic) else { return };
        if let Some(count) = from.and_then(|state| tally.count_mut(state)) {
            *count = count.saturating_sub(tasks);
        }
        if let Some(count) = tally.count_mut(to) {
            *count += tasks;
        }
    }
}

// === impl Db ===

impl WriterDatabase {
    /// Takes the database over from an earlier boot, whose leases nobody holds any more: what may
    /// run again is released, its attempt counted; the rest is buried by the first `tend`.
    pub(super) fn recover_from_boot(
        connection: Connection,
        clock: SqliteClock,
        tallies: QueueCountsByTopic,
    ) -> rusqlite::Result<Self> {
        let sql = concat!(
            "UPDATE tasks INDEXED BY leased SET state = 0, ",
            with_history!(),
            " WHERE state = 1 AND attempts < retries + :limit"
        );
        let (now, crash) = (time_to_sql(clock.wall_time()), FailureKind::WorkerCrash.as_str());
        let error = "its process ended";
        connection
            .execute(sql, named_params! {":limit": CRASH_RERUN_LIMIT, ":now": now, ":kind": crash, ":error": error})?;
        let mut db = Self {
            connection,
            last_reap_at: clock.steady_time(),
            clock,
            queue_counts: tallies,
            lease_expiries: HashMap::new(),
            next_due: None,
            last_seq: 0,
            lease_call_count: 0,
            current_leader: None,
            ended_task_ids: Vec::new(),
            needs_reload: true,
        };
        db.reload_from_tables()?;
        db.lease_expiries.values_mut().for_each(|expires| *expires = Duration::ZERO);
        Ok(db)
    }

    pub(super) fn begin_transaction(&mut self) -> rusqlite::Result<()> {
        if self.needs_reload {
            self.reload_from_tables()?;
        }
        self.connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(())
    }

    pub(super) fn commit_transaction(&mut self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Gives a transaction up; what it changed is forgotten.
    pub(super) fn roll_back_transaction(&mut self) {
        // Some errors have ended the transaction already, then there is nothing to roll back.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
        self.ended_task_ids.clear();
        self.current_leader = None; // its term may not be on disk
        self.needs_reload = true;
    }

    /// Reads from the tables what is remembered of them; leases that were held keep their time.
    fn reload_from_tables(&mut self) -> rusqlite::Result<()> {
        let mut tallies = HashMap::<Box<str>, QueueCounts>::new();
        let counted = [
            (
                TaskRowState::Ready,
                "SELECT topic, count(*) FROM tasks INDEXED BY ready WHERE state = 0 GROUP BY topic",
            ),
            (
                TaskRowState::Leased,
                "SELECT topic, count(*) FROM tasks INDEXED BY leased WHERE state = 1 GROUP BY topic",
            ),
            (
                TaskRowState::Delayed,
                "SELECT topic, count(*) FROM tasks INDEXED BY parked WHERE state = 2 GROUP BY topic",
            ),
            (TaskRowState::Failed, "SELECT topic, count(*) FROM dead_letters GROUP BY topic"),
        ];
        for (state, sql) in counted {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let tally = tallies.entry(row.get::<_, String>(0)?.into()).or_default();
                if let Some(count) = tally.count_mut(state) {
                    *count = u64_from_sql(row.get(1)?);
                }
            }
        }
        let expires = self.clock.steady_time() + lease_duration();
        let held = {
            let mut statement = self
                .connection
                .prepare_cached("SELECT seq FROM tasks INDEXED BY leased WHERE state = 1")?;
            let leased = statement.query_map([], |row| row.get::<_, i64>(0))?;
            leased
                .map(|seq| seq.map(|seq| (seq, *self.lease_expiries.get(&seq).unwrap_or(&expires))))
                .collect::<Result<_, _>>()?
        };
        // Dead letters keep their inputs after their record is gone: a number must not come twice.
        let last_seq = "SELECT max(coalesce((SELECT max(seq) FROM tasks), 0), coalesce((SELECT max(seq) FROM inputs), 0))";
        self.last_seq = self.connection.query_row(last_seq, [], |row| row.get(0))?;
        self.next_due = self.load_earliest_due()?;
        self.lease_expiries = held;
        *self.queue_counts.lock_counts() = tallies;
        self.needs_reload = false;
        Ok(())
    }

    /// When the next parked task is due.
    pub(super) fn load_earliest_due(&self) -> rusqlite::Result<Option<UnixMs>> {
        let sql = "SELECT min(until) FROM tasks INDEXED BY parked WHERE state = 2";
        let due: Option<i64> =
            self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(due.map(time_from_sql))
    }
}
