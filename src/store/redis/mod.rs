//! Tasks on Redis Streams, on the same keys as the Python `OmniDaemon`, whose publishers and agents
//! work on them too.
//!
//! Each transition is one Lua script, so it is atomic and one round trip (`scripts/`). The pending
//! list of a stream decides who holds an entry. A record per task (`omni:task:<id>`) holds the
//! fencing token (attempt and lease number), which tells a late or repeated settlement from a
//! current one; when the task completes or fails, the record gives way to the result
//! (`omni:result:<id>`) with all that is known of the task. A task that waits for a retry stays
//! pending to the placeholder consumer `~delayed`, with its time in an index that is rebuilt if it
//! is lost. An entry is not trimmed while any group still needs it. Redis's own clock times leases,
//! delays and retries: scripts get durations, never times.

mod all_partitions;
mod background;
mod cluster;
mod conn;
mod core;
mod lease_loop;
mod lock;
mod maintenance;
mod partition;
mod python;
mod queue;
mod read;
mod records;
mod script;
mod time;
mod wire;

use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::cluster::RedisStore;
use super::{
    BuriedTask, CancelResult, ClaimConclusion, ClaimResult, DeadLetter, DeadLetterQueue, Delivery,
    DeliveryOutbox, DeliveryOutcome, DeliveryRecord, DeprecatedCaller, DeprecatedCallerLog,
    IdempotencyClaim, IdempotencyClaims, Lease, LeaseDemand, LeaseHolder, QueueConsumers,
    QueueDepth, ReplicaReport, ReplicaSync, ReprocessResult, RolloutCommit, RolloutHistoryEntry,
    RolloutRecord, RolloutStore, ServerAdvice, SettleResult, Settlement, SharedSecret, StoreError,
    StoreService, StoredEvidence, TaskEndWaiters, TaskLeasing, TaskListPage, TaskListRequest,
    TaskLookup, TaskQueue, TaskReader, TopicQueue, WorkerHeartbeat, WorkerRegistry,
};
use crate::task::{Task, TaskDetails, TaskId, TaskProgress, TaskRecord, UnixMs};

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
            .get_or_try_init(|| self.first_partition().core.get_or_create_secret())
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
        self.partition_of_task(id).core.cancel_task(id, ttl).await
    }

    async fn enqueue_due_tasks(&self, queues: &[TopicQueue]) -> Result<(), StoreError> {
        self.promote_all_partitions(queues).await
    }
}

#[async_trait]
impl TaskLeasing for RedisStore {
    async fn lease_demand(&self, demand: &LeaseDemand<'_>) -> Result<Vec<Lease>, StoreError> {
        self.lease_tasks(demand).await
    }

    async fn renew(&self, process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        self.renew_all_partitions(process, leases).await
    }

    async fn settle(
        &self,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<SettleResult, StoreError> {
        self.partition_of_task(&lease.task.id).settler.settle_lease(lease, settlement).await
    }

    async fn report_progress(
        &self,
        id: &TaskId,
        holder: &LeaseHolder,
        progress: &TaskProgress,
    ) -> Result<bool, StoreError> {
        self.partition_of_task(id).core.record_progress(id, holder, progress).await
    }

    async fn reap_expired(
        &self,
        process: &str,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        self.reap_expired_all_partitions(process, queues, ttl).await
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
        self.partition_of_task(id).core.read_record(id).await
    }

    async fn statuses(&self, ids: &[TaskId]) -> Result<Vec<TaskLookup>, StoreError> {
        self.statuses_all_partitions(ids).await
    }

    async fn load_task_details(&self, id: &TaskId) -> Result<Option<TaskDetails>, StoreError> {
        self.partition_of_task(id).core.read_task_history(id).await
    }

    async fn list_tasks(
        &self,
        queues: &[TopicQueue],
        listing: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError> {
        self.list_all_partitions(queues, listing).await
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

    async fn get_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
    ) -> Result<Option<DeadLetter>, StoreError> {
        self.dead_letter_in_any_partition(queue, id).await
    }

    async fn reprocess_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: UnixMs,
    ) -> Result<ReprocessResult, StoreError> {
        self.reprocess_in_any_partition(queue, id, now).await
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
        hold: Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.take_deliveries_all_partitions(max, hold).await
    }

    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError> {
        self.partition_of_task(&delivery.task_id).core.settle_delivery(delivery, outcome).await
    }

    async fn list_deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.partition_of_task(id).core.read_deliveries(id).await
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
        self.partition_of_claim(claim)?.core.claim_idempotency_key(claim).await
    }

    async fn conclude_claim(
        &self,
        claim: &IdempotencyClaim,
        conclusion: &ClaimConclusion,
    ) -> Result<(), StoreError> {
        self.partition_of_claim(claim)?.core.conclude_claim(claim, conclusion).await
    }

    async fn release_claim(&self, claim: &IdempotencyClaim) -> Result<(), StoreError> {
        self.partition_of_claim(claim)?.core.abandon_claim(claim).await
    }
}

#[async_trait]
impl WorkerRegistry for RedisStore {
    async fn record_heartbeat(&self, heartbeat: &WorkerHeartbeat) -> Result<(), StoreError> {
        self.first_partition().core.write_heartbeat(heartbeat).await
    }

    async fn remove_heartbeat(&self, process: &str) -> Result<(), StoreError> {
        self.first_partition().core.remove_heartbeat(process).await
    }

    async fn list_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError> {
        self.first_partition().core.read_heartbeats().await
    }

    async fn load_queue_consumers(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueConsumers>, StoreError> {
        self.consumers_all_partitions(queues).await
    }
}

#[async_trait]
impl RolloutStore for RedisStore {
    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        self.first_partition().core.load_rollout(route).await
    }

    async fn save_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        change: &RolloutCommit,
    ) -> Result<bool, StoreError> {
        self.first_partition().core.save_rollout(route, record, change).await
    }

    async fn load_rollout_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RolloutHistoryEntry>, StoreError> {
        self.first_partition().core.read_rollout_history(route, before, limit).await
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
        presence: &ReplicaReport,
        routes: &[String],
    ) -> Result<ReplicaSync, StoreError> {
        self.first_partition().core.sync_replica(presence, routes).await
    }

    async fn remove_replica(&self, process: &str) -> Result<(), StoreError> {
        self.first_partition().core.remove_replica(process).await
    }
}

#[async_trait]
impl DeprecatedCallerLog for RedisStore {
    async fn record_deprecated_calls(
        &self,
        route: &str,
        calls: &[DeprecatedCaller],
    ) -> Result<(), StoreError> {
        self.first_partition().core.record_callers(route, calls).await
    }

    async fn list_deprecated_callers(
        &self,
        route: &str,
    ) -> Result<Vec<DeprecatedCaller>, StoreError> {
        self.first_partition().core.read_callers(route).await
    }
}
