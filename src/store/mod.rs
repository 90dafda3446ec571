//! Durable tasks over SQLite (`sqlite/`) and Redis Streams (`redis/`).
//!
//! [`TaskStore`] is the sum of small traits, one per concern, each in the file of its types. Both
//! stores keep the same promises, which one contract suite tests (`tests/it/store/contract/`): a
//! task is durable when `enqueue` returns; it has at most one live lease; only the holder of the
//! current lease can settle it, once; an attempt is counted before it runs; and every task ends
//! completed, failed or cancelled. Nothing here knows HTTP or decides on retries: the worker does.

mod caller;
mod circuit;
mod claim;
mod dead_letter;
mod error;
mod evidence;
mod large_write_lane;
mod lease;
mod lease_token;
mod outbox;
mod queue;
mod read;
mod redis;
mod rollout;
mod service;
mod sqlite;
mod task_store;
#[cfg(any(test, feature = "failpoints"))]
pub(crate) mod testing;
mod timing;
mod wait;
mod wire;
mod worker;

use std::sync::Arc;

pub use self::caller::{
    CALLER_RETENTION, DeprecatedCaller, DeprecatedCallerLog, MAX_CALLERS, OTHER_CALLERS,
    RECENT_CALL_DAYS, summarize_recent_callers,
};
pub use self::circuit::Circuit;
pub use self::claim::{ClaimConclusion, ClaimResult, IdempotencyClaim, IdempotencyClaims};
pub use self::dead_letter::{
    DeadLetter, DeadLetterQueue, MAX_LISTED_PAYLOAD_BYTES, ReprocessResult,
};
pub use self::error::{StoreError, StoreRefusal};
pub use self::evidence::{EVIDENCE_RETENTION, StoredEvidence};
pub use self::lease::{
    BuriedTask, Lease, LeaseDemand, LeaseHolder, QueueDemand, SettleResult, Settlement, TaskLeasing,
};
pub use self::lease_token::SharedSecret;
pub use self::outbox::{
    Delivery, DeliveryKind, DeliveryOutbox, DeliveryOutcome, DeliveryRecord, DeliveryStatus,
};
pub use self::queue::{CancelResult, QueueDepth, TaskQueue, TopicQueue};
pub use self::read::{
    TaskListEntry, TaskListPage, TaskListRequest, TaskLookup, TaskReader, TaskState,
};
pub use self::redis::RedisStore;
pub use self::rollout::{
    MAX_HISTORY_ENTRIES, ReplicaReport, ReplicaSync, RolloutCommit, RolloutHistoryEntry,
    RolloutRecord, RolloutStore,
};
pub use self::service::{ServerAdvice, StoreService};
pub use self::sqlite::{SqliteClock, SqliteStore};
pub use self::task_store::TaskStore;
pub use self::timing::{
    CRASH_RERUN_LIMIT, HEARTBEAT_TTL, LEASE_DURATION, REPLICA_TTL, heartbeat_ttl, lease_duration,
    may_rerun_after_crash, replica_ttl,
};
pub use self::wait::{TaskEndWaiter, TaskEndWaiters, TaskWatcher, TaskWatchers, WatchUpdate};
pub use self::wire::envelope::body_as_json;
pub use self::worker::{
    ExternalConsumer, QueueConsumers, TopicLoad, WorkerHeartbeat, WorkerRegistry,
    heartbeat_interval,
};
use crate::config::{StoreConfig, StoreUrl};

/// Opens the configured store. SQLite is opened and locked here; Redis is not connected to yet.
///
/// # Errors
/// [`StoreError::Locked`] for a SQLite file that another process has open;
/// [`StoreError::InvalidSetup`] for a bad path or URL.
pub fn open(config: &StoreConfig) -> Result<Arc<dyn TaskStore>, StoreError> {
    let store: Arc<dyn TaskStore> = match &config.url {
        StoreUrl::Sqlite(path) => Arc::new(SqliteStore::open(path)?),
        StoreUrl::Redis(_) | StoreUrl::Sentinel(_) | StoreUrl::Cluster(_) => {
            Arc::new(RedisStore::new(config)?)
        }
    };
    #[cfg(feature = "failpoints")]
    let store = testing::arm_failpoints(store)?;
    Ok(store)
}
