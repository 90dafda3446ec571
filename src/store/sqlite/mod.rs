//! The embedded store: one SQLite file, one process, no server.
//!
//! A lock beside the file keeps others out (`lock`); one thread writes (`writer`), each batch of
//! changes (`ops`) in one transaction that is on disk before anybody is answered; another reads
//! (`reader`) and waits for no commit. A lease's token is the task's id and the number of the
//! lease, which no later lease has, not even after a release gave the attempt back. Leases belong
//! to this process: those of an earlier boot are released on open. Threads, not tasks: any runtime
//! may call.

mod claim;
mod clock;
mod db;
mod list;
mod lock;
mod ops;
mod outbox;
mod reader;
mod redrive;
mod rollout;
mod running;
mod schema;
mod sealed;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::clock::SqliteClock;
use self::db::{QueueCountsByTopic, WriterDatabase};
use self::lock::DatabaseLock;
use self::reader::ReaderThread;
use self::running::RunningAttempts;
use self::sealed::{EncodedSettlement, LeasedTaskRow, NewTaskRow};
use self::writer::WriterThread;
use super::list::invalid_cursor;
use super::{
    BuriedTask, CancelResult, ClaimConclusion, ClaimResult, DeadLetter, Delivery, DeliveryOutcome,
    DeliveryRecord, DeprecatedCaller, IdempotencyClaim, Lease, LeaseHolder, QueueDepth,
    RedriveResult, ReplicaReport, ReplicaSync, RolloutCommit, RolloutHistoryEntry, RolloutRecord,
    ServerAdvice, SettleResult, Settlement, SharedSecret, StoreError, StoredEvidence,
    TaskEndWaiters, TaskListPage, TaskListRequest, TaskLookup, TaskStore, TopicQueue,
    WorkerHeartbeat, heartbeat_ttl, replica_ttl,
};
use crate::task::{
    FailureKind, TaskDetails, TaskFailure, TaskId, TaskProgress, TaskRecord, TaskStatus, Topic,
    UnixMs,
};

/// How long the record of a task that could not be read back is kept; its dead letter stays.
const MALFORMED_TTL: Duration = Duration::from_hours(24);

/// Purges in one call of `tend` at most: the writer has other work in between.
const MAX_PURGE_ROUNDS: usize = 50;

/// Tasks in a SQLite file.
pub struct SqliteStore {
    // Dropped in this order: the writer finishes and closes, then the reader, and the lock goes
    // last.
    writer: WriterThread,
    reader: Arc<ReaderThread>,
    queue_counts: QueueCountsByTopic,
    end_waiters: TaskEndWaiters,
    clock: SqliteClock,
    heartbeats: Mutex<HashMap<String, (WorkerHeartbeat, Duration)>>,
    /// What each replica says of itself, and until when that counts.
    replicas: Mutex<BTreeMap<String, (String, Duration)>>,
    running_attempts: RunningAttempts,
    /// Of this boot: so are the leases that it signs for.
    shared_secret: SharedSecret,
    _lock: DatabaseLock,
}

// === impl SqliteStore ===

impl SqliteStore {
    /// Opens the database at `path`, making it where it is missing, and locks it for this process.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it; [`StoreError::InvalidSetup`] when it
    /// cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with_clock(path, SqliteClock::default())
    }

    /// [`Self::open`] under a clock of the caller's, who can put it ahead.
    pub fn open_with_clock(path: &Path, clock: SqliteClock) -> Result<Self, StoreError> {
        let path = schema::create_database_file(path)?;
        let lock = DatabaseLock::acquire_lock(&path)?;
        let connection = schema::open_writer(&path)?;
        let (tallies, waiters) = (QueueCountsByTopic::default(), TaskEndWaiters::default());
        let db = WriterDatabase::recover_from_boot(connection, clock.clone(), tallies.clone())
            .map_err(schema::map_setup_error(&path))?;
        let no_thread =
            |error| StoreError::InvalidSetup(format!("no thread for the embedded store: {error}"));
        let reader = Arc::new(ReaderThread::start(schema::open_reader(&path)?).map_err(no_thread)?);
        let running = RunningAttempts::default();
        let (tell, ended) = (
            build_end_notifier(Arc::clone(&reader), waiters.clone(), clock.clone()),
            running.clone(),
        );
        let on_end = move |id| {
            ended.forget_task(&id);
            tell(id);
        };
        let writer = WriterThread::start(db, on_end).map_err(no_thread)?;
        let (heartbeats, replicas, secret) =
            (Mutex::default(), Mutex::default(), SharedSecret::random());
        Ok(Self {
            writer,
            reader,
            queue_counts: tallies,
            end_waiters: waiters,
            clock,
            heartbeats,
            replicas,
            running_attempts: running,
            shared_secret: secret,
            _lock: lock,
        })
    }

    /// Opens what was leased; what cannot be read back is a dead letter, and holds nobody up.
    async fn decode_leases(&self, rows: Vec<LeasedTaskRow>, queues: &[TopicQueue]) -> Vec<Lease> {
        let mut leases = Vec::with_capacity(rows.len());
        for row in rows {
            let token = row.lease_token();
            let Some(queue) = queues.iter().find(|queue| queue.topic == row.topic) else {
                continue;
            };
            match row.into_lease(queue) {
                Ok(lease) => {
                    self.running_attempts
                        .begin_attempt(&lease.task.id, sealed::lease_number_of(&lease));
                    leases.push(lease);
                }
                Err(error) => {
                    tracing::error!(?token, %error, "a task cannot be read back and becomes a dead letter");
                    if let Err(error) = self.bury_malformed(token, &error).await {
                        tracing::error!(%error, "it could not be buried and will be when its lease has expired");
                    }
                }
            }
        }
        leases
    }

    async fn bury_malformed(
        &self,
        token: Result<(TaskId, i64), StoreError>,
        error: &StoreError,
    ) -> Result<(), StoreError> {
        let (id, number) = token?;
        let failure = TaskFailure::new(FailureKind::Malformed, error.to_string());
        let bury =
            EncodedSettlement::from_settlement(&Settlement::Bury { failure, ttl: MALFORMED_TTL })?;
        self.writer.submit_change(move |db| ops::settle_lease(db, &id, number, &bury)).await?;
        Ok(())
    }

    fn lock_live_heartbeats(&self) -> MutexGuard<'_, HashMap<String, (WorkerHeartbeat, Duration)>> {
        let mut heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.steady_time();
        heartbeats.retain(|_, (_, until)| *until > now);
        heartbeats
    }

    fn lock_live_replicas(&self) -> MutexGuard<'_, BTreeMap<String, (String, Duration)>> {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.steady_time();
        replicas.retain(|_, (_, until)| *until > now);
        replicas
    }
}

/// What hears of each end: it gives those who wait the full record, read beside the writer.
fn build_end_notifier(
    reader: Arc<ReaderThread>,
    waiters: TaskEndWaiters,
    clock: SqliteClock,
) -> impl Fn(TaskId) + Send + 'static {
    move |id| {
        if !waiters.has_waiter_for(&id) {
            return;
        }
        let (waiters, now) = (waiters.clone(), clock.wall_time());
        reader.send_query(move |connection| match reader::load_task_record(connection, &id, now) {
            Ok(record) => waiters.resolve_task(&id, record.map(Arc::new).as_ref()),
            Err(error) => {
                tracing::error!(task = %id, %error, "an ended task cannot be read back");
                waiters.resolve_task(&id, None);
            }
        });
    }
}

#[async_trait]
impl TaskStore for SqliteStore {
    /// Nothing to do: the threads tell of ends themselves.
    async fn run_background(&self, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.submit_change(|_| Ok(())).await
    }

    async fn enqueue(
        &self,
        task: &crate::task::Task,
        queue: &TopicQueue,
    ) -> Result<(), StoreError> {
        let (task, max_backlog) = (NewTaskRow::from_task(task)?, queue.max_backlog);
        let taken =
            self.writer.submit_change(move |db| ops::enqueue_task(db, &task, max_backlog)).await?;
        Ok(taken?)
    }

    async fn get_task(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        let (asked, now) = (id.clone(), self.clock.wall_time());
        let mut record = self
            .reader
            .run_query(move |connection| reader::load_task_record(connection, &asked, now))
            .await?;
        if let Some(record) =
            record.as_mut().filter(|record| record.status == TaskStatus::Processing)
        {
            record.progress = self.running_attempts.progress_of_task(id);
        }
        Ok(record)
    }

    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<CancelResult, StoreError> {
        let id = id.clone();
        self.writer.submit_change(move |db| ops::cancel_task(db, &id, ttl)).await
    }

    async fn lease(
        &self,
        process: &str,
        queues: &[TopicQueue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let topics: Vec<Topic> = queues.iter().map(|queue| queue.topic.clone()).collect();
        let rows = self.writer.request_leases(process.to_owned(), topics, max, wait).await?;
        Ok(self.decode_leases(rows, queues).await)
    }

    async fn settle(
        &self,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<SettleResult, StoreError> {
        let (id, number, settlement) = (
            lease.task.id.clone(),
            sealed::lease_number_of(lease),
            EncodedSettlement::from_settlement(settlement)?,
        );
        let settled = self
            .writer
            .submit_change(move |db| ops::settle_lease(db, &id, number, &settlement))
            .await;
        if settled.is_ok() {
            self.running_attempts.end_attempt(&lease.task.id, number);
        }
        settled
    }

    async fn renew(&self, _process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        let leases: Vec<_> = leases
            .iter()
            .map(|lease| (lease.task.id.clone(), sealed::lease_number_of(lease)))
            .collect();
        self.writer.submit_change(move |db| ops::renew_leases(db, &leases)).await
    }

    async fn reap_expired(
        &self,
        _process: &str,
        _queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        let keep = move |db: &mut WriterDatabase| {
            outbox::purge_settled_deliveries(db)?;
            claim::purge_claims(db)?;
            rollout::purge_epochs(db)?;
            ops::reap_expired(db, ttl)
        };
        let dead = self.writer.submit_change(keep).await?;
        for _ in 0..MAX_PURGE_ROUNDS {
            if self.writer.submit_change(ops::purge_ended_tasks).await? < ops::PURGE_BATCH_SIZE {
                break;
            }
        }
        Ok(dead)
    }

    async fn load_queue_depths(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueDepth>, StoreError> {
        let topics: Vec<Topic> = queues.iter().map(|queue| queue.topic.clone()).collect();
        let (tallies, now) = (self.queue_counts.clone(), self.clock.wall_time());
        let depth = move |connection: &rusqlite::Connection, topic: &Topic| {
            let tally = tallies.counts_of_topic(topic.as_str());
            let oldest = if tally.waiting_count() > 0 {
                reader::load_oldest_waiting(connection, topic)?
            } else {
                None
            };
            Ok(QueueDepth {
                queued: tally.waiting_count(),
                processing: tally.leased,
                dead_letters: tally.dead_letters,
                oldest_age: oldest.map(|created| now.since(created)).unwrap_or_default(),
            })
        };
        self.reader
            .run_query(move |connection| {
                topics.iter().map(|topic| depth(connection, topic)).collect()
            })
            .await
    }

    async fn list_dead_letters(
        &self,
        queue: &TopicQueue,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let topic = queue.topic.clone();
        self.reader
            .run_query(move |connection| {
                reader::list_dead_letters(connection, &topic, i64::MAX, limit)
            })
            .await
    }

    async fn record_heartbeat(&self, heartbeat: &WorkerHeartbeat) -> Result<(), StoreError> {
        let until = self.clock.steady_time() + heartbeat_ttl();
        self.lock_live_heartbeats().insert(heartbeat.process.clone(), (heartbeat.clone(), until));
        Ok(())
    }

    async fn remove_heartbeat(&self, process: &str) -> Result<(), StoreError> {
        self.lock_live_heartbeats().remove(process);
        Ok(())
    }

    async fn list_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError> {
        Ok(self.lock_live_heartbeats().values().map(|(heartbeat, _)| heartbeat.clone()).collect())
    }

    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        let route = route.to_owned();
        self.reader
            .run_query(move |connection| {
                rollout::load_rollout(connection, &route).map_err(schema::map_query_error)
            })
            .await
    }

    async fn save_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        change: &RolloutCommit,
    ) -> Result<bool, StoreError> {
        let (route, record, change) = (route.to_owned(), record.clone(), change.clone());
        self.writer
            .submit_change(move |db| rollout::save_rollout(db, &route, &record, &change))
            .await
    }

    async fn sync_replica(
        &self,
        presence: &ReplicaReport,
        routes: &[String],
    ) -> Result<ReplicaSync, StoreError> {
        let said = (presence.description_json.clone(), self.clock.steady_time() + replica_ttl());
        self.lock_live_replicas().insert(presence.process.clone(), said);
        let (presence, routes) = (presence.clone(), routes.to_vec());
        let mut meeting = self
            .writer
            .submit_change(move |db| rollout::sync_replica(db, &presence, &routes))
            .await?;
        let replica = |(process, (about, _)): (&String, &(String, Duration))| {
            (process.clone(), about.clone())
        };
        meeting.replicas = self.lock_live_replicas().iter().map(replica).collect();
        Ok(meeting)
    }

    async fn remove_replica(&self, process: &str) -> Result<(), StoreError> {
        self.lock_live_replicas().remove(process);
        let process = process.to_owned();
        self.writer
            .submit_change(move |db| {
                rollout::release_lead(db, &process);
                Ok(())
            })
            .await
    }

    async fn load_rollout_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RolloutHistoryEntry>, StoreError> {
        let (route, before) = (route.to_owned(), before.map(str::to_owned));
        self.reader
            .run_query(move |connection| {
                rollout::load_rollout_history(connection, &route, before.as_deref(), limit)
            })
            .await
    }

    async fn load_evidence(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<StoredEvidence>, StoreError> {
        let (route, epochs, now) = (route.to_owned(), epochs.to_vec(), self.clock.wall_time());
        let ask = move |connection: &rusqlite::Connection| {
            rollout::load_evidence(connection, &route, &epochs, now)
        };
        self.reader
            .run_query(move |connection| ask(connection).map_err(schema::map_query_error))
            .await
    }

    async fn record_deprecated_calls(
        &self,
        route: &str,
        calls: &[DeprecatedCaller],
    ) -> Result<(), StoreError> {
        let (route, calls) = (route.to_owned(), calls.to_vec());
        self.writer
            .submit_change(move |db| rollout::record_deprecated_calls(db, &route, &calls))
            .await
    }

    async fn list_deprecated_callers(
        &self,
        route: &str,
    ) -> Result<Vec<DeprecatedCaller>, StoreError> {
        let (route, now) = (route.to_owned(), self.clock.wall_time());
        let ask = move |connection: &rusqlite::Connection| {
            rollout::list_deprecated_callers(connection, &route, now)
        };
        self.reader
            .run_query(move |connection| ask(connection).map_err(schema::map_query_error))
            .await
    }

    /// Nothing to do: the writer wakes for them.
    async fn enqueue_due_tasks(&self, _queues: &[TopicQueue]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn claim_due_deliveries(
        &self,
        max: usize,
        hold: Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        if self.count_pending_deliveries().await? == 0 {
            return Ok(Vec::new()); // the writer is left alone
        }
        let taken = self
            .writer
            .submit_change(move |db| outbox::claim_due_deliveries(db, max, hold))
            .await?;
        taken.into_iter().map(outbox::DeliveryRow::into_delivery).collect()
    }

    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError> {
        let (delivery, outcome) = (delivery.clone(), outcome.clone());
        self.writer.submit_change(move |db| outbox::settle_delivery(db, &delivery, &outcome)).await
    }

    async fn list_deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        let id = id.clone();
        self.reader.run_query(move |connection| outbox::list_deliveries(connection, &id)).await
    }

    async fn count_pending_deliveries(&self) -> Result<u64, StoreError> {
        self.reader.run_query(outbox::count_pending_deliveries).await
    }

    async fn claim_idempotency_key(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<ClaimResult, StoreError> {
        let claim = claim.clone();
        self.writer.submit_change(move |db| claim::claim_key(db, &claim)).await?.into_claim_result()
    }

    async fn conclude_claim(
        &self,
        claim: &IdempotencyClaim,
        conclusion: &ClaimConclusion,
    ) -> Result<(), StoreError> {
        let (claim, state) = (claim.clone(), conclusion.as_str());
        let (task, answer) = match conclusion {
            ClaimConclusion::Task(task) => (Some(task.to_string()), None),
            ClaimConclusion::Answer(answer) => (None, Some(sealed::encode_answer_json(answer)?)),
            ClaimConclusion::AnswerNotStored => (None, None),
        };
        let conclude = move |db: &mut WriterDatabase| {
            claim::conclude_claim(db, &claim, state, task.as_deref(), answer.as_deref())
        };
        self.writer.submit_change(conclude).await
    }

    async fn release_claim(&self, claim: &IdempotencyClaim) -> Result<(), StoreError> {
        let claim = claim.clone();
        self.writer.submit_change(move |db| claim::release_claim(db, &claim)).await
    }

    fn end_waiters(&self) -> &TaskEndWaiters {
        &self.end_waiters
    }

    async fn report_progress(
        &self,
        id: &TaskId,
        holder: &LeaseHolder,
        progress: &TaskProgress,
    ) -> Result<bool, StoreError> {
        Ok(self.running_attempts.record_progress(
            id,
            sealed::parse_lease_number(&holder.store_handle),
            progress,
        ))
    }

    async fn load_shared_secret(&self) -> Result<SharedSecret, StoreError> {
        Ok(self.shared_secret.clone())
    }

    async fn statuses(&self, ids: &[TaskId]) -> Result<Vec<TaskLookup>, StoreError> {
        let (asked, now) = (ids.to_vec(), self.clock.wall_time());
        let look = move |connection: &rusqlite::Connection| {
            asked
                .iter()
                .map(|id| reader::look_up_task(connection, id, now))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut found = self.reader.run_query(look).await?;
        for (id, glance) in ids.iter().zip(&mut found) {
            if let TaskLookup::Active(standing) = glance
                && standing.status == TaskStatus::Processing
            {
                standing.progress = self.running_attempts.progress_of_task(id);
            }
        }
        Ok(found)
    }

    async fn list_dead_letters_before(
        &self,
        queue: &TopicQueue,
        before: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let topic = queue.topic.clone();
        let before = before.parse().map_err(|_| invalid_cursor("before"))?;
        self.reader
            .run_query(move |connection| {
                reader::list_dead_letters(connection, &topic, before, limit)
            })
            .await
    }

    async fn redrive_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: UnixMs,
    ) -> Result<RedriveResult, StoreError> {
        let (topic, id) = (queue.topic.clone(), id.to_owned());
        self.writer
            .submit_change(move |db| redrive::redrive_dead_letter(db, &topic, &id, now))
            .await
    }

    async fn discard_dead_letter(&self, queue: &TopicQueue, id: &str) -> Result<bool, StoreError> {
        let (topic, id) = (queue.topic.clone(), id.to_owned());
        self.writer.submit_change(move |db| redrive::discard_dead_letter(db, &topic, &id)).await
    }

    async fn load_task_details(&self, id: &TaskId) -> Result<Option<TaskDetails>, StoreError> {
        let (asked, now) = (id.clone(), self.clock.wall_time());
        let mut life = self
            .reader
            .run_query(move |connection| reader::load_task_details(connection, &asked, now))
            .await?;
        if let Some(life) =
            life.as_mut().filter(|life| life.record.status == TaskStatus::Processing)
        {
            life.record.progress = self.running_attempts.progress_of_task(id);
        }
        Ok(life)
    }

    async fn list_tasks(
        &self,
        _queues: &[TopicQueue],
        listing: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError> {
        let (listing, now) = (listing.clone(), self.clock.wall_time());
        self.reader
            .run_query(move |connection| list::load_task_page(connection, &listing, now))
            .await
    }

    async fn check_server_settings(&self) -> Result<Vec<ServerAdvice>, StoreError> {
        Ok(Vec::new()) // it sets its file up itself
    }

    /// Nothing to do: nobody else can have the file.
    async fn reconcile_external(
        &self,
        _queues: &[TopicQueue],
        _ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        Ok(Vec::new())
    }
}
