//! Durable tasks: the whole interface on one page, over SQLite (`sqlite/`) and Redis Streams
//! (`redis/`).
//!
//! Both keep the same promises, held by one contract suite (`tests/contract/`): a task is durable
//! when `enqueue` returns; it has at most one live lease; only the holder of (id, attempt) can
//! settle it, once; an attempt is counted before it runs; and every task ends completed, failed or
//! cancelled. Nothing here knows HTTP or decides a retry: the worker does.

mod advice;
#[cfg(any(test, feature = "failpoints"))]
mod around;
mod circuit;
mod claim;
mod envelope;
#[cfg(feature = "failpoints")]
mod failpoints;
mod holder;
mod list;
mod outbox;
mod redis;
mod rollout;
mod runs;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;
mod waiters;
mod watchers;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::advice::ServerAdvice;
pub use self::circuit::Circuit;
pub use self::claim::{ClaimConclusion, ClaimResult, IdempotencyClaim};
pub use self::holder::{LeaseHolder, SharedSecret};
pub use self::list::{TaskListEntry, TaskListPage, TaskListRequest};
pub use self::outbox::{Delivery, DeliveryKind, DeliveryOutcome, DeliveryRecord, DeliveryStatus};
pub use self::redis::RedisStore;
pub use self::rollout::{
    CALLER_RETENTION, DeprecatedCaller, EVIDENCE_RETENTION, MAX_CALLERS, MAX_HISTORY_ENTRIES,
    OTHER_CALLERS, RECENT_CALL_DAYS, REPLICA_TTL, ReplicaReport, ReplicaSync, RolloutCommit,
    RolloutHistoryEntry, StoredEvidence, replica_ttl, summarize_recent_callers,
};
pub use self::sqlite::{SqliteClock, SqliteStore};
pub use self::waiters::{TaskEndWaiter, TaskEndWaiters};
pub use self::watchers::{TaskLookup, TaskState, TaskWatcher, TaskWatchers, WatchUpdate};
use crate::config::{self, ContentForm, GroupStartPosition, StoreUrl};
use crate::task::{
    Task, TaskAnswer, TaskDetails, TaskFailure, TaskId, TaskProgress, TaskRecord, TaskStatus,
    Topic, UnixMs,
};

/// Why a store call did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, and nothing was changed.
    #[error("the store is unreachable: {0}")]
    Unreachable(String),
    /// The call was sent and never answered: it may or may not have been applied.
    #[error("the store did not answer: {0}")]
    OutcomeUnknown(String),
    /// The store is there and says no.
    #[error("{0}")]
    Refused(#[from] StoreRefusal),
    /// What is stored cannot be read.
    #[error("a stored record cannot be read: {0}")]
    Malformed(String),
    /// Another process has the store open.
    #[error(
        "{path} is in use by process {pid}: stop it, or set REDIS_URL (or store.url) to share a Redis between processes"
    )]
    Locked {
        /// The database file.
        path: String,
        /// The process that holds it, as text; `unknown` where it cannot be told.
        pid: String,
    },
    /// The store cannot be opened as configured.
    #[error("{0}")]
    InvalidSetup(String),
}

impl StoreError {
    /// Whether the store is gone rather than refusing: the circuit opens, and no failure is
    /// counted.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::OutcomeUnknown(_))
    }
}

/// Why a reachable store took nothing in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreRefusal {
    /// `max_backlog` tasks wait already.
    #[error(
        "{topic} has {depth} tasks waiting, the limit is {max}: try later, or raise topics.{topic}.max_backlog"
    )]
    BacklogFull {
        /// The topic.
        topic: Topic,
        /// Waiting tasks.
        depth: u64,
        /// Its `max_backlog`.
        max: u64,
    },
    /// Out of memory or disk.
    #[error("the store is full: {0}")]
    StorageFull(String),
    /// A replica, or a store that stopped writing.
    #[error("the store is read-only: {0}")]
    ReadOnly(String),
}

/// A topic and how its tasks are queued; taken from the configuration at each call, so that an edit
/// counts at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicQueue {
    /// The topic.
    pub topic: Topic,
    /// The consumer group's agent.
    pub agent: String,
    /// How `content` is written on Redis.
    pub content_form: ContentForm,
    /// Waiting tasks over which `enqueue` refuses.
    pub max_backlog: u64,
    /// How long a consumer of another make keeps a task that it is silent about.
    pub reclaim_idle: Duration,
    /// Where others run the tasks: how long one may take from the time it may begin.
    pub external_timeout: Option<Duration>,
    /// `retries` of tasks whose publisher says none: those of other makes.
    pub retries: u32,
    /// Where the consumer group begins on Redis.
    pub group_start: GroupStartPosition,
}

impl TopicQueue {
    /// The queue of a configured topic.
    #[must_use]
    pub fn new(topic: &Topic, config: &config::TopicConfig) -> Self {
        Self {
            topic: topic.clone(),
            agent: config.agent.clone(),
            content_form: config.content_form,
            max_backlog: config.max_backlog,
            reclaim_idle: config.reclaim_idle,
            external_timeout: matches!(config.handler, config::HandlerConfig::External)
                .then_some(config.timeout),
            retries: config.retries,
            group_start: config.group_start,
        }
    }

    /// The queue of a topic that is configured with its agent and nothing else.
    #[must_use]
    pub fn with_default_settings(topic: Topic, agent: &str) -> Self {
        Self {
            topic,
            agent: agent.to_owned(),
            content_form: ContentForm::String,
            max_backlog: 100_000,
            reclaim_idle: Duration::from_mins(3),
            external_timeout: None,
            retries: 3,
            group_start: GroupStartPosition::FirstEntry,
        }
    }
}

/// A right to run one attempt of a task, until it is settled or not renewed.
///
/// (`task.id`, `attempt`) is the fencing token: a settlement under an older attempt changes
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What to run.
    pub task: Task,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// The queue it came from.
    pub queue: TopicQueue,
    /// The store's own handle: the stream entry and which lease of it on Redis, the lease's number
    /// on SQLite.
    pub store_handle: String,
}

/// How a lease ends. Each is atomic and fenced; repeating an applied one says
/// [`SettleResult::Applied`] again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The task is completed, readable for `ttl`.
    Complete {
        /// The result.
        answer: TaskAnswer,
        /// How long it can be read.
        ttl: Duration,
    },
    /// The attempt failed; another may begin at `at`.
    Retry {
        /// The reason.
        failure: TaskFailure,
        /// When the next attempt may begin.
        retry_at: UnixMs,
    },
    /// The task failed for good and becomes a dead letter.
    Bury {
        /// The reason.
        failure: TaskFailure,
        /// How long the failed record can be read; the dead letter stays.
        ttl: Duration,
    },
    /// Given back, unspent: the attempt is not counted.
    Release,
}

/// What a settlement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleResult {
    /// It counts.
    Applied,
    /// The lease was not the current one any more (a later attempt, or cancelled): nothing changed.
    Fenced,
}

/// What a cancellation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelResult {
    /// It was queued and never runs; or it already was cancelled.
    Cancelled,
    /// It is running: it ends as cancelled, and its attempt is fenced.
    WasRunning,
    /// It had ended otherwise, as this.
    AlreadyEnded(TaskStatus),
    /// No such task.
    NoSuchTask,
}

/// A worker's name and load, as other processes see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerHeartbeat {
    /// `<host>.<pid>.<boot>`: one per process.
    pub process: String,
    /// Live slots.
    pub active_slots: u32,
    /// Slots that run a task.
    pub busy_slots: u32,
    /// When the process started.
    pub started_at: UnixMs,
}

/// How a topic's queue stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Tasks that wait, retries included.
    pub queued: u64,
    /// Tasks under a lease.
    pub processing: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Age of the oldest waiting task; zero when none waits.
    pub oldest_age: Duration,
}

/// A task that housekeeping made a dead letter, for whoever counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuriedTask {
    /// Its topic.
    pub topic: Topic,
    /// The route it was canaried on.
    pub route: Option<String>,
    /// Whether it failed because a foreign publisher trimmed it.
    pub trimmed: bool,
}

/// A task that failed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The task's id; for a malformed entry, the store's name of that entry.
    pub id: String,
    /// Its topic.
    pub topic: Topic,
    /// The last error.
    pub error: String,
    /// Attempts made.
    pub attempts: u32,
    /// When it failed.
    pub failed_at: UnixMs,
    /// The payload as it was, or what could not be read.
    pub payload: String,
    /// The store's place of it in the list.
    pub cursor: String,
}

/// What a redrive did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedriveResult {
    /// The dead letter is a queued task again, under its id.
    Queued {
        /// Whether it is a captured request, which runs without its credentials: they went when it
        /// failed.
        is_captured_request: bool,
    },
    /// A task of that id is queued or runs: nothing was done. So says a repeated call.
    TaskActive,
    /// There is no such dead letter.
    NoSuchDeadLetter,
    /// What failed cannot be run: it is no task, or its payload is gone.
    NotRunnable(String),
}

/// A route's rollout state; the store keeps the text and never reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutRecord {
    /// Raised by one at each save.
    pub version: u64,
    /// JSON.
    pub state_json: String,
}

/// The queue, the results, and the little shared state beside them.
///
/// Every method may be called from any runtime, and returns within about `store.timeout`
/// (`lease` also waits) with a [`StoreError`] where the store does not answer.
#[async_trait]
pub trait TaskStore: Send + Sync + 'static {
    /// Background duties, until `shutdown`: notifications for [`Self::end_waiters`], reconnecting.
    async fn run_background(&self, shutdown: CancellationToken);

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Makes a task durable, or refuses. An id that is already there is success: the call may be
    /// repeated. One that is `due` later counts as queued, and nobody sees it before.
    async fn enqueue(&self, task: &Task, queue: &TopicQueue) -> Result<(), StoreError>;

    /// A task as it stands; none when unknown or expired.
    async fn get_task(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError>;

    /// Cancels a task; it stays readable for `ttl`. An enqueue whose answer was given up never
    /// makes a task of the same id afterwards: the embedded store takes calls in their order,
    /// and Redis remembers the id for a minute.
    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<CancelResult, StoreError>;

    /// Up to `max` leases of any of `queues`, due retries included, none starved; waits up to
    /// `wait` for the first. Each lives for [`LEASE_DURATION`] unless renewed. Not to be
    /// dropped while it runs: what it read would wait for its lease to expire.
    async fn lease(
        &self,
        process: &str,
        queues: &[TopicQueue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError>;

    /// Ends a lease.
    async fn settle(
        &self,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<SettleResult, StoreError>;

    /// Extends leases by [`LEASE_DURATION`]; returns those that are lost (fenced, or their task
    /// cancelled).
    async fn renew(&self, process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError>;

    /// Housekeeping, called about every second by each process with workers: expired leases become
    /// leasable again (dead letters when [`may_rerun_after_crash`] says no, kept for `ttl`),
    /// expired records go. Returns what became a dead letter.
    async fn reap_expired(
        &self,
        process: &str,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError>;

    /// How queues stand, in their order.
    async fn load_queue_depths(&self, queues: &[TopicQueue])
    -> Result<Vec<QueueDepth>, StoreError>;

    /// A queue's dead letters, newest first.
    async fn list_dead_letters(
        &self,
        queue: &TopicQueue,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// Says that a worker process lives; forgotten after [`HEARTBEAT_TTL`] without another.
    async fn record_heartbeat(&self, heartbeat: &WorkerHeartbeat) -> Result<(), StoreError>;

    /// Says that a worker process has ended: its heartbeat counts no more.
    async fn remove_heartbeat(&self, process: &str) -> Result<(), StoreError>;

    /// The live worker processes.
    async fn list_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError>;

    /// A route's rollout state.
    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError>;

    /// Saves it, and its events with it, if the stored version is `record.version - 1` (0 is
    /// absent) and `change.term` is the present one; false, and nothing done, when another
    /// writer was first or leads now.
    async fn save_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        change: &RolloutCommit,
    ) -> Result<bool, StoreError>;

    /// Says that a replica is there and what it counted, takes or renews the lead for a candidate
    /// where nobody else has it, and gives the state of `routes`: one call, made every second.
    /// Forgotten after [`REPLICA_TTL`] without another.
    async fn sync_replica(
        &self,
        presence: &ReplicaReport,
        routes: &[String],
    ) -> Result<ReplicaSync, StoreError>;

    /// Says that a replica is going: it is there no more, and leads no more. What it counted stays.
    async fn remove_replica(&self, process: &str) -> Result<(), StoreError>;

    /// Up to `limit` entries of a route's history, newest first, from the one on whose `cursor` is
    /// `before`.
    async fn load_rollout_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RolloutHistoryEntry>, StoreError>;

    /// What is known of epochs of a route, in their order.
    async fn load_evidence(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<StoredEvidence>, StoreError>;

    /// Adds calls of a deprecated route to those of their callers.
    async fn record_deprecated_calls(
        &self,
        route: &str,
        calls: &[DeprecatedCaller],
    ) -> Result<(), StoreError>;

    /// Who called a deprecated route in the last [`CALLER_RETENTION`], the latest first.
    async fn list_deprecated_callers(
        &self,
        route: &str,
    ) -> Result<Vec<DeprecatedCaller>, StoreError>;

    /// Has delayed tasks of `queues` that are due queued, whoever runs them; called every second or
    /// two by each process.
    async fn enqueue_due_tasks(&self, queues: &[TopicQueue]) -> Result<(), StoreError>;

    /// Up to `max` deliveries that are due, hidden from others for `hold`.
    async fn claim_due_deliveries(
        &self,
        max: usize,
        hold: Duration,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Says how a delivery went; it counts unless the delivery was taken again since.
    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError>;

    /// How a task's deliveries stand; settled ones are known for a day.
    async fn list_deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError>;

    /// How many deliveries wait.
    async fn count_pending_deliveries(&self) -> Result<u64, StoreError>;

    /// Claims an idempotency key for a request, for [`LEASE_DURATION`]; the same claim made again
    /// is renewed.
    async fn claim_idempotency_key(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<ClaimResult, StoreError>;

    /// Says how a claimed request was served; it counts while the claim is still its holder's.
    async fn conclude_claim(
        &self,
        claim: &IdempotencyClaim,
        conclusion: &ClaimConclusion,
    ) -> Result<(), StoreError>;

    /// Gives a claim up: the key is free again.
    async fn release_claim(&self, claim: &IdempotencyClaim) -> Result<(), StoreError>;

    /// Those who wait in this process for a task's end.
    fn end_waiters(&self) -> &TaskEndWaiters;

    /// Notes how far an attempt has come, to be read while it runs; false when its lease is not the
    /// current one.
    async fn report_progress(
        &self,
        id: &TaskId,
        holder: &LeaseHolder,
        progress: &TaskProgress,
    ) -> Result<bool, StoreError>;

    /// The secret that the processes of this store share; made when first asked for.
    async fn load_shared_secret(&self) -> Result<SharedSecret, StoreError>;

    /// How many tasks stand, in their order and in one call.
    async fn statuses(&self, ids: &[TaskId]) -> Result<Vec<TaskLookup>, StoreError>;

    /// [`Self::list_dead_letters`] from the one on whose `cursor` is `before`: the next page.
    async fn list_dead_letters_before(
        &self,
        queue: &TopicQueue,
        before: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// Makes a queue's dead letter a queued task again: same id, attempts from 0, its retries
    /// again. Atomic: however often and by whomever it is called, one task comes of a dead
    /// letter.
    async fn redrive_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: UnixMs,
    ) -> Result<RedriveResult, StoreError>;

    /// Deletes a dead letter; false where there is none. The failed task stays readable until it
    /// expires.
    async fn discard_dead_letter(&self, queue: &TopicQueue, id: &str) -> Result<bool, StoreError>;

    /// All that is known of a task; none when unknown or expired.
    async fn load_task_details(&self, id: &TaskId) -> Result<Option<TaskDetails>, StoreError>;

    /// A page of the tasks, newest first; on Redis those of `queues`, the unfinished before the
    /// ended. [`StoreError::Malformed`] for a cursor that is none.
    async fn list_tasks(
        &self,
        queues: &[TopicQueue],
        listing: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError>;

    /// Housekeeping for tasks that consumers of another make run, called about every second by each
    /// process: what they gave up, and what is past its queue's `limit`, has failed. Returns
    /// what did. Nothing to do where there are none.
    async fn reconcile_external(
        &self,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError>;

    /// What should be changed about how the store's servers are set up, asked now.
    async fn check_server_settings(&self) -> Result<Vec<ServerAdvice>, StoreError>;
}

/// A body as JSON text: itself where it is JSON, else a string of it.
#[must_use]
pub fn body_as_json(body: &bytes::Bytes) -> bytes::Bytes {
    let json = envelope::encode_result_json(body);
    if json.get().as_bytes() == body { body.clone() } else { json.get().to_owned().into() }
}

/// How long a lease lives without renewal.
pub const LEASE_DURATION: Duration = Duration::from_secs(30);

/// How long a heartbeat counts.
pub const HEARTBEAT_TTL: Duration = Duration::from_secs(15);

/// [`LEASE_DURATION`], which a test build with the feature `failpoints` can shorten: what the
/// program goes by.
#[must_use]
pub fn lease_duration() -> Duration {
    #[cfg(feature = "failpoints")]
    if let Some(shortened) = failpoints::lease_override() {
        return shortened;
    }
    LEASE_DURATION
}

/// [`HEARTBEAT_TTL`], in the same proportion to [`lease_duration`].
#[must_use]
pub fn heartbeat_ttl() -> Duration {
    lease_duration() / 2
}

/// Runs, beyond those that failures are allowed, that a task may lose to dying workers.
pub const CRASH_RERUN_LIMIT: u32 = 3;

/// Whether a task whose worker died in its `attempts`-th attempt runs again.
#[must_use]
pub fn may_rerun_after_crash(attempts: u32, retries: u32) -> bool {
    attempts < retries.saturating_add(CRASH_RERUN_LIMIT)
}

/// Opens the configured store. SQLite is opened and locked here; Redis is not connected to yet.
///
/// # Errors
/// [`StoreError::Locked`] for an embedded store that another process has;
/// [`StoreError::InvalidSetup`] for a bad path or URL.
pub fn open(config: &config::StoreConfig) -> Result<Arc<dyn TaskStore>, StoreError> {
    let store: Arc<dyn TaskStore> = match &config.url {
        StoreUrl::Sqlite(path) => Arc::new(SqliteStore::open(path)?),
        StoreUrl::Redis(_) | StoreUrl::Sentinel(_) | StoreUrl::Cluster(_) => {
            Arc::new(RedisStore::new(config)?)
        }
    };
    #[cfg(feature = "failpoints")]
    let store = failpoints::arm_failpoints(store)?;
    Ok(store)
}
