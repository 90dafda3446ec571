//! The writer's connection, and the state that the writer keeps in memory: how many tasks are in
//! which state, and when each lease expires.
//!
//! The state in memory is derived from the tables. It is changed together with them inside a
//! transaction, and read again after a rollback, so it can be ahead of the disk by one commit and
//! never diverges.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, named_params};

use super::clock::{SqliteClock, read_boot_id};
use super::clock_mark;
use super::queue_counts::{QueueCounts, QueueCountsByTopic};
use crate::store::sqlite::row::{
    TaskRowState, append_run_history_sql, time_from_sql, time_to_sql, u64_from_sql,
};
use crate::store::timing::{CRASH_RERUN_LIMIT, lease_duration};
use crate::task::{FailureKind, TaskId, UnixMs};

/// How often the mark of the clocks is renewed.
const CLOCK_MARK_INTERVAL: Duration = Duration::from_mins(1);

/// The database with the writer's state.
pub(crate) struct WriterDatabase {
    pub(crate) connection: Connection,
    pub(crate) clock: SqliteClock,
    pub(crate) queue_counts: QueueCountsByTopic,
    /// When each lease expires in steady time, by the `seq` of its task.
    pub(crate) lease_expiries: HashMap<i64, Duration>,
    /// The steady time of the last search for expired leases.
    pub(crate) last_reap_at: Duration,
    /// The machine's present boot.
    pub(crate) boot_id: String,
    /// The steady time of the last mark of the clocks.
    pub(crate) last_mark_at: Duration,
    /// No delayed task is due before this time.
    pub(crate) next_due: Option<UnixMs>,
    /// The last `seq` assigned.
    pub(crate) last_seq: i64,
    /// The number of lease calls: each begins with the topic after that of the call before.
    pub(crate) lease_call_count: usize,
    /// The replica that leads, and the steady time until which it does.
    pub(crate) current_leader: Option<(String, Duration)>,
    /// The tasks that the current transaction ends.
    pub(crate) ended_task_ids: Vec<TaskId>,
    /// Whether the state in memory differs from the tables after a rollback.
    needs_reload: bool,
}

impl WriterDatabase {
    /// Takes the database over from an earlier boot, whose leases no process holds any more. Tasks
    /// that may run again become ready, with their attempt counted; the others become dead letters
    /// at the first `reap_expired`.
    pub(crate) fn recover_from_boot(
        connection: Connection,
        clock: SqliteClock,
        queue_counts: QueueCountsByTopic,
    ) -> rusqlite::Result<Self> {
        let boot_id = read_boot_id();
        clock.resume_from(clock_mark::load_clock_mark(&connection)?.as_ref(), &boot_id);
        clock_mark::save_clock_mark(&connection, &clock.take_mark(&boot_id))?;
        let sql = concat!(
            "UPDATE tasks INDEXED BY leased SET state = 0, ",
            append_run_history_sql!(),
            " WHERE state = 1 AND attempts < retries + :limit"
        );
        connection.execute(
            sql,
            named_params! {
                ":limit": CRASH_RERUN_LIMIT,
                ":now": time_to_sql(clock.store_time()),
                ":kind": FailureKind::WorkerCrash.as_str(),
                ":error": "its process ended",
            },
        )?;
        let mut db = Self {
            connection,
            last_reap_at: clock.steady_time(),
            last_mark_at: clock.steady_time(),
            boot_id,
            clock,
            queue_counts,
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

    /// Renews the mark of the clocks, at most once in [`CLOCK_MARK_INTERVAL`].
    pub(crate) fn refresh_clock_mark(&mut self) -> rusqlite::Result<()> {
        let now = self.clock.steady_time();
        if now.saturating_sub(self.last_mark_at) < CLOCK_MARK_INTERVAL {
            return Ok(());
        }
        clock_mark::save_clock_mark(&self.connection, &self.clock.take_mark(&self.boot_id))?;
        self.last_mark_at = now;
        Ok(())
    }

    /// Begins a transaction.
    pub(crate) fn begin_transaction(&mut self) -> rusqlite::Result<()> {
        if self.needs_reload {
            self.reload_from_tables()?;
        }
        self.connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(())
    }

    /// Commits the transaction: its changes are on disk when this returns.
    pub(crate) fn commit_transaction(&mut self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Rolls the transaction back, and the state in memory with it.
    pub(crate) fn roll_back_transaction(&mut self) {
        // After some errors SQLite has rolled the transaction back already.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
        self.ended_task_ids.clear();
        self.current_leader = None; // the leader's new term may not be on disk
        self.needs_reload = true;
    }

    /// Derives the state in memory from the tables; leases that it knows keep their expiry.
    fn reload_from_tables(&mut self) -> rusqlite::Result<()> {
        let mut counts_by_topic = HashMap::<Box<str>, QueueCounts>::new();
        let count_queries = [
            (
                TaskRowState::Ready,
                "SELECT topic, count(*) FROM tasks INDEXED BY ready
                 WHERE state = 0 GROUP BY topic",
            ),
            (
                TaskRowState::Leased,
                "SELECT topic, count(*) FROM tasks INDEXED BY leased
                 WHERE state = 1 GROUP BY topic",
            ),
            (
                TaskRowState::Delayed,
                "SELECT topic, count(*) FROM tasks INDEXED BY parked
                 WHERE state = 2 GROUP BY topic",
            ),
            (TaskRowState::Failed, "SELECT topic, count(*) FROM dead_letters GROUP BY topic"),
        ];
        for (state, sql) in count_queries {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let counts = counts_by_topic.entry(row.get::<_, String>(0)?.into()).or_default();
                if let Some(count) = counts.count_mut(state) {
                    *count = u64_from_sql(row.get(1)?);
                }
            }
        }
        let new_expiry = self.clock.steady_time() + lease_duration();
        let lease_expiries = {
            let mut statement = self
                .connection
                .prepare_cached("SELECT seq FROM tasks INDEXED BY leased WHERE state = 1")?;
            let leased = statement.query_map([], |row| row.get::<_, i64>(0))?;
            leased
                .map(|seq| {
                    seq.map(|seq| (seq, *self.lease_expiries.get(&seq).unwrap_or(&new_expiry)))
                })
                .collect::<Result<_, _>>()?
        };
        // The inputs of a dead letter outlive its task row: their `seq` must not be assigned again.
        let last_seq = "SELECT max(coalesce((SELECT max(seq) FROM tasks), 0),
                                   coalesce((SELECT max(seq) FROM inputs), 0))";
        self.last_seq = self.connection.query_row(last_seq, [], |row| row.get(0))?;
        self.next_due = self.load_earliest_due()?;
        self.lease_expiries = lease_expiries;
        self.queue_counts.replace_all(counts_by_topic);
        self.needs_reload = false;
        Ok(())
    }

    /// When the next delayed task is due.
    pub(crate) fn load_earliest_due(&self) -> rusqlite::Result<Option<UnixMs>> {
        let sql = "SELECT min(until) FROM tasks INDEXED BY parked WHERE state = 2";
        let due: Option<i64> =
            self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(due.map(time_from_sql))
    }
}
