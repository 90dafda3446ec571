//! Tasks on Redis Streams, on the same keys as the Python `OmniDaemon`, whose publishers and agents
//! work beside us.
//!
//! Each transition is one Lua script, so it is atomic and one round trip (`scripts/`). The stream's
//! pending list is the truth about who holds an entry; a record per task (`omni:task:<id>`) holds
//! the fencing token (attempt and turn), and is what tells a late or repeated settlement from a
//! current one; it goes when the task completes or fails, whose result (`omni:result:<id>`) then
//! says all that is known of it. A task that waits for a retry stays pending, held by nobody
//! (`~delayed`), with its time in an index that is rebuilt if lost. What any group still wants
//! is never trimmed. Redis's own clock times leases, delays and retries: scripts are told for how
//! long, never until when.

mod attend;
mod batch;
mod checks;
mod claim;
mod delay;
mod durable;
mod enqueue;
mod error;
mod events;
mod fan;
mod finish;
mod keys;
mod lease;
mod life;
mod link;
mod list;
mod live;
mod message;
mod missing;
mod notify;
mod outbox;
mod partition;
mod progress;
mod read;
mod redrive;
mod resolve;
mod rollout;
mod row;
mod script;
mod servers;
mod settle;
mod shared;
mod tend;
mod watch;

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use self::durable::DurableWriter;
use self::keys::RedisKeys;
use self::link::{MasterLink, PartitionCountMark};
use self::partition::Partition;
use self::resolve::{MasterDiscovery, hash_slot};
use super::{
    BuriedTask, CancelResult, ClaimConclusion, ClaimResult, DeadLetter, DeadLetterQueue, Delivery,
    DeliveryOutbox, DeliveryOutcome, DeliveryRecord, DeprecatedCaller, DeprecatedCallerLog,
    IdempotencyClaim, IdempotencyClaims, Lease, LeaseHolder, QueueDepth, RedriveResult,
    ReplicaReport, ReplicaSync, RolloutCommit, RolloutHistoryEntry, RolloutRecord, RolloutStore,
    ServerAdvice, SettleResult, Settlement, SharedSecret, StoreError, StoreService, StoredEvidence,
    TaskEndWaiters, TaskLeasing, TaskListPage, TaskListRequest, TaskLookup, TaskQueue, TaskReader,
    TopicQueue, WorkerHeartbeat, WorkerRegistry,
};
use crate::config::{StoreConfig, StoreDurability, StoreUrl};
use crate::task::{Task, TaskDetails, TaskId, TaskProgress, TaskRecord, UnixMs};

/// A [`TaskStore`] on Redis, 7.0 or later, or Valkey: one partition, or several in a Cluster.
pub struct RedisStore {
    /// At least one.
    partitions: Vec<Partition>,
    /// This process's name, on whose channel it hears of its tasks' ends.
    instance_id: String,
    waiters: TaskEndWaiters,
    /// The partition that the next lease call begins with.
    next_partition: AtomicUsize,
    shared_secret: OnceCell<SharedSecret>,
}

impl RedisStore {
    /// The store at `config.url`. Connects nowhere; connections live on the runtime of the first
    /// `run`.
    ///
    /// # Errors
    /// [`StoreError::InvalidSetup`] for a URL or a setting that this release cannot serve, with the
    /// way out.
    pub fn new(config: &StoreConfig) -> Result<Self, StoreError> {
        let (url, by): (_, fn(&RedisKeys) -> MasterDiscovery) = match &config.url {
            StoreUrl::Redis(url) => (url, |_| MasterDiscovery::FixedAddress),
            StoreUrl::Sentinel(url) => (url, |_| MasterDiscovery::Sentinel),
            StoreUrl::Cluster(url) => {
                (url, |keys| MasterDiscovery::SlotOwner(hash_slot(keys.hash_tag_content())))
            }
            StoreUrl::Sqlite(path) => {
                return Err(StoreError::InvalidSetup(format!(
                    "sqlite:{} is not a redis URL",
                    path.display()
                )));
            }
        };
        let (name, waiters) = (format!("{:08x}", rand::random::<u32>()), TaskEndWaiters::default());
        let partition = |keys: RedisKeys, mark: Option<PartitionCountMark>| {
            let durable = match config.durability {
                StoreDurability::Default => None,
                StoreDurability::WaitForReplica => {
                    let link = MasterLink::new(url, by(&keys), config.timeout, mark.clone())?;
                    Some(DurableWriter::new(link, keys.durability_probe_key(), config.timeout))
                }
            };
            let link = MasterLink::new(url, by(&keys), config.timeout, mark)?;
            Ok(Partition::new(link, durable, keys, config.timeout, &name, &waiters))
        };
        let partitions = if matches!(config.url, StoreUrl::Cluster(_)) {
            let partitions = usize::from(config.partitions.max(1));
            let tagged = (0..partitions).map(RedisKeys::for_partition);
            let marked = |keys: RedisKeys| {
                (Some(PartitionCountMark { key: keys.partition_count_key(), partitions }), keys)
            };
            tagged
                .map(marked)
                .map(|(mark, keys)| partition(keys, mark))
                .collect::<Result<_, StoreError>>()?
        } else {
            vec![partition(RedisKeys::default(), None)?]
        };
        Ok(Self {
            partitions,
            instance_id: name,
            waiters,
            next_partition: AtomicUsize::new(0),
            shared_secret: OnceCell::new(),
        })
    }
}

/// The longest time that can be added to the present, ms.
const MAX_DELAY_MS: u64 = 1 << 52;

fn unix_now() -> UnixMs {
    jiff::Timestamp::now().into()
}

/// The milliseconds until `at`, by the clock of the process that chose it: what a script adds to
/// its own time, so that clocks need not agree.
fn millis_until(at: UnixMs) -> u64 {
    as_millis_u64(at.since(unix_now())).min(MAX_DELAY_MS)
}

fn as_millis_u64(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time to live as Redis takes it: at least a millisecond, and no more than it can add to the
/// present.
fn clamp_ttl_ms(ttl: Duration) -> u64 {
    as_millis_u64(ttl).clamp(1, MAX_DELAY_MS)
}

#[async_trait]
impl StoreService for RedisStore {
    async fn run_background(&self, shutdown: CancellationToken) {
        self.run_background_loops(shutdown).await;
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ping_all_partitions().await
    }

    async fn check_server_settings(&self) -> Result<Vec<ServerAdvice>, StoreError> {
        self.advice_all_partitions().await
    }

    async fn load_shared_secret(&self) -> Result<SharedSecret, StoreError> {
        self.shared_secret
            .get_or_try_init(|| self.first_partition().get_or_create_secret())
            .await
            .cloned()
    }
}

#[async_trait]
impl TaskQueue for RedisStore {
    async fn enqueue(&self, task: &Task, queue: &TopicQueue) -> Result<(), StoreError> {
        self.enqueue_in_partition(task, queue).await
    }

    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<CancelResult, StoreError> {
        self.partition_of_task(id).cancel_task(id, ttl).await
    }

    async fn enqueue_due_tasks(&self, queues: &[TopicQueue]) -> Result<(), StoreError> {
        self.promote_all_partitions(queues).await
    }
}

#[async_trait]
impl TaskLeasing for RedisStore {
    async fn lease(
        &self,
        process_name: &str,
        queues: &[TopicQueue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.lease_tasks(process_name, queues, max, wait).await
    }

    async fn renew(&self, process_name: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        self.renew_all_partitions(process_name, leases).await
    }

    async fn settle(
        &self,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<SettleResult, StoreError> {
        self.partition_of_task(&lease.task.id).settle_lease(lease, settlement).await
    }

    async fn report_progress(
        &self,
        id: &TaskId,
        holder: &LeaseHolder,
        progress: &TaskProgress,
    ) -> Result<bool, StoreError> {
        self.partition_of_task(id).record_progress(id, holder, progress).await
    }

    async fn reap_expired(
        &self,
        process_name: &str,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        self.reap_expired_all_partitions(process_name, queues, ttl).await
    }

    async fn reconcile_external(
        &self,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        self.reconcile_all_partitions(queues, ttl).await
    }
}

#[async_trait]
impl TaskReader for RedisStore {
    async fn get_task(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        self.partition_of_task(id).read_record(id).await
    }

    async fn statuses(&self, ids: &[TaskId]) -> Result<Vec<TaskLookup>, StoreError> {
        self.statuses_all_partitions(ids).await
    }

    async fn load_task_details(&self, id: &TaskId) -> Result<Option<TaskDetails>, StoreError> {
        self.partition_of_task(id).read_task_history(id).await
    }

    async fn list_tasks(
        &self,
        queues: &[TopicQueue],
        request: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError> {
        self.list_all_partitions(queues, request).await
    }

    async fn load_queue_depths(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueDepth>, StoreError> {
        self.depths_all_partitions(queues).await
    }

    fn end_waiters(&self) -> &TaskEndWaiters {
        &self.waiters
    }
}

#[async_trait]
impl DeadLetterQueue for RedisStore {
    async fn list_dead_letters(
        &self,
        queue: &TopicQueue,
        before_cursor: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.dead_letters_all_partitions(queue, before_cursor, limit).await
    }

    async fn redrive_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: UnixMs,
    ) -> Result<RedriveResult, StoreError> {
        self.redrive_in_any_partition(queue, id, now).await
    }

    async fn discard_dead_letter(&self, queue: &TopicQueue, id: &str) -> Result<bool, StoreError> {
        self.discard_in_any_partition(queue, id).await
    }
}

#[async_trait]
impl DeliveryOutbox for RedisStore {
    async fn claim_due_deliveries(
        &self,
        max: usize,
        hide_for: Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.take_deliveries_all_partitions(max, hide_for).await
    }

    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError> {
        self.partition_of_task(&delivery.task_id).settle_delivery(delivery, outcome).await
    }

    async fn list_deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.partition_of_task(id).read_deliveries(id).await
    }

    async fn count_pending_deliveries(&self) -> Result<u64, StoreError> {
        self.outbox_depth_all_partitions().await
    }
}

#[async_trait]
impl IdempotencyClaims for RedisStore {
    async fn claim_idempotency_key(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<ClaimResult, StoreError> {
        self.partition_of_claim(claim)?.claim_idempotency_key(claim).await
    }

    async fn conclude_claim(
        &self,
        claim: &IdempotencyClaim,
        conclusion: &ClaimConclusion,
    ) -> Result<(), StoreError> {
        self.partition_of_claim(claim)?.conclude_claim(claim, conclusion).await
    }

    async fn release_claim(&self, claim: &IdempotencyClaim) -> Result<(), StoreError> {
        self.partition_of_claim(claim)?.abandon_claim(claim).await
    }
}

#[async_trait]
impl WorkerRegistry for RedisStore {
    async fn record_heartbeat(&self, heartbeat: &WorkerHeartbeat) -> Result<(), StoreError> {
        self.first_partition().write_heartbeat(heartbeat).await
    }

    async fn remove_heartbeat(&self, process_name: &str) -> Result<(), StoreError> {
        self.first_partition().remove_heartbeat(process_name).await
    }

    async fn list_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError> {
        self.first_partition().read_heartbeats().await
    }
}

#[async_trait]
impl RolloutStore for RedisStore {
    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        self.first_partition().load_rollout(route).await
    }

    async fn save_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        commit: &RolloutCommit,
    ) -> Result<bool, StoreError> {
        self.first_partition().save_rollout(route, record, commit).await
    }

    async fn load_rollout_history(
        &self,
        route: &str,
        before_cursor: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RolloutHistoryEntry>, StoreError> {
        self.first_partition().read_rollout_history(route, before_cursor, limit).await
    }

    async fn load_evidence(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<StoredEvidence>, StoreError> {
        self.evidence_all_partitions(route, epochs).await
    }

    async fn sync_replica(
        &self,
        report: &ReplicaReport,
        routes: &[String],
    ) -> Result<ReplicaSync, StoreError> {
        self.first_partition().sync_replica(report, routes).await
    }

    async fn remove_replica(&self, process_name: &str) -> Result<(), StoreError> {
        self.first_partition().remove_replica(process_name).await
    }
}

#[async_trait]
impl DeprecatedCallerLog for RedisStore {
    async fn record_deprecated_calls(
        &self,
        route: &str,
        calls: &[DeprecatedCaller],
    ) -> Result<(), StoreError> {
        self.first_partition().record_callers(route, calls).await
    }

    async fn list_deprecated_callers(
        &self,
        route: &str,
    ) -> Result<Vec<DeprecatedCaller>, StoreError> {
        self.first_partition().read_callers(route).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn open_store(url: StoreUrl, durability: StoreDurability) -> Result<RedisStore, StoreError> {
        RedisStore::new(&StoreConfig {
            url,
            timeout: Duration::from_secs(1),
            durability,
            partitions: 1,
        })
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_way_out_and_no_password() {
        for url in ["redis://:canary@", "redis://:canary@h:1/x", "nothing:canary"] {
            let error = open_store(StoreUrl::Redis(Secret::new(url)), StoreDurability::Default)
                .err()
                .expect("refused");
            let error = error.to_string();
            assert!(error.contains("redis://") && !error.contains("canary"), "{error}");
        }
        let url = StoreUrl::Redis(Secret::new("redis://h:1/2"));
        assert!(open_store(url.clone(), StoreDurability::Default).is_ok());
        assert!(open_store(url, StoreDurability::WaitForReplica).is_ok());
        let cluster = StoreUrl::Cluster(Secret::new("redis+cluster://h:1,i:2"));
        assert!(open_store(cluster, StoreDurability::Default).is_ok());
    }
}
