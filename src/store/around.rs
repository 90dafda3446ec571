//! A real store with something before and after each of its calls: faults, for tests of whoever
//! calls it.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{
    BuriedTask, CancelResult, ClaimConclusion, ClaimResult, DeadLetter, Delivery, DeliveryOutcome,
    DeliveryRecord, DeprecatedCaller, IdempotencyClaim, Lease, LeaseHolder, QueueDepth,
    RedriveResult, ReplicaReport, ReplicaSync, RolloutCommit, RolloutHistoryEntry, RolloutRecord,
    ServerAdvice, SettleResult, Settlement, SharedSecret, StoreError, StoredEvidence,
    TaskEndWaiters, TaskListPage, TaskListRequest, TaskLookup, TaskStore, TopicQueue,
    WorkerHeartbeat,
};
use crate::task::{Task, TaskDetails, TaskId, TaskProgress, TaskRecord, UnixMs};

/// What happens around a call, which is named as the method of [`TaskStore`] is.
#[async_trait]
pub(crate) trait StoreInterceptor: Send + Sync + 'static {
    /// Before the call; an error is its answer, and nothing is done.
    async fn before_call(&self, call: &'static str) -> Result<(), StoreError>;

    /// After the call; an error is its answer, whatever was done.
    async fn after_call(&self, call: &'static str) -> Result<(), StoreError>;
}

/// The store and its hook.
pub(crate) struct InterceptedStore<H> {
    pub(crate) store: Arc<dyn TaskStore>,
    pub(crate) interceptor: H,
}

// === impl Around ===

impl<H: StoreInterceptor> InterceptedStore<H> {
    async fn intercept_call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.interceptor.before_call(call).await?;
        let answer = answer.await;
        self.interceptor.after_call(call).await?;
        answer
    }
}

impl<H> Deref for InterceptedStore<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.interceptor
    }
}

#[async_trait]
impl<H: StoreInterceptor> TaskStore for InterceptedStore<H> {
    async fn run_background(&self, shutdown: CancellationToken) {
        self.store.run_background(shutdown).await;
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.intercept_call("ping", self.store.ping()).await
    }
    async fn enqueue(&self, task: &Task, queue: &TopicQueue) -> Result<(), StoreError> {
        self.intercept_call("enqueue", self.store.enqueue(task, queue)).await
    }
    async fn get_task(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        self.intercept_call("get_task", self.store.get_task(id)).await
    }
    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<CancelResult, StoreError> {
        self.intercept_call("cancel", self.store.cancel(id, ttl)).await
    }
    async fn lease(
        &self,
        process: &str,
        queues: &[TopicQueue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.intercept_call("lease", self.store.lease(process, queues, max, wait)).await
    }
    async fn settle(
        &self,
        lease: &Lease,
        settlement: &Settlement,
    ) -> Result<SettleResult, StoreError> {
        self.intercept_call("settle", self.store.settle(lease, settlement)).await
    }
    async fn renew(&self, process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        self.intercept_call("renew", self.store.renew(process, leases)).await
    }
    async fn reap_expired(
        &self,
        process: &str,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        self.intercept_call("reap_expired", self.store.reap_expired(process, queues, ttl)).await
    }
    async fn load_queue_depths(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueDepth>, StoreError> {
        self.intercept_call("load_queue_depths", self.store.load_queue_depths(queues)).await
    }
    async fn list_dead_letters(
        &self,
        queue: &TopicQueue,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.intercept_call("list_dead_letters", self.store.list_dead_letters(queue, limit)).await
    }
    async fn record_heartbeat(&self, heartbeat: &WorkerHeartbeat) -> Result<(), StoreError> {
        self.intercept_call("record_heartbeat", self.store.record_heartbeat(heartbeat)).await
    }
    async fn remove_heartbeat(&self, process: &str) -> Result<(), StoreError> {
        self.intercept_call("remove_heartbeat", self.store.remove_heartbeat(process)).await
    }
    async fn list_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError> {
        self.intercept_call("list_heartbeats", self.store.list_heartbeats()).await
    }
    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        self.intercept_call("load_rollout", self.store.load_rollout(route)).await
    }
    async fn save_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        change: &RolloutCommit,
    ) -> Result<bool, StoreError> {
        self.intercept_call("save_rollout", self.store.save_rollout(route, record, change)).await
    }
    async fn sync_replica(
        &self,
        presence: &ReplicaReport,
        routes: &[String],
    ) -> Result<ReplicaSync, StoreError> {
        self.intercept_call("sync_replica", self.store.sync_replica(presence, routes)).await
    }
    async fn remove_replica(&self, process: &str) -> Result<(), StoreError> {
        self.intercept_call("remove_replica", self.store.remove_replica(process)).await
    }
    async fn load_rollout_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RolloutHistoryEntry>, StoreError> {
        self.intercept_call(
            "load_rollout_history",
            self.store.load_rollout_history(route, before, limit),
        )
        .await
    }
    async fn load_evidence(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<StoredEvidence>, StoreError> {
        self.intercept_call("load_evidence", self.store.load_evidence(route, epochs)).await
    }
    async fn record_deprecated_calls(
        &self,
        route: &str,
        calls: &[DeprecatedCaller],
    ) -> Result<(), StoreError> {
        self.intercept_call(
            "record_deprecated_calls",
            self.store.record_deprecated_calls(route, calls),
        )
        .await
    }
    async fn list_deprecated_callers(
        &self,
        route: &str,
    ) -> Result<Vec<DeprecatedCaller>, StoreError> {
        self.intercept_call("list_deprecated_callers", self.store.list_deprecated_callers(route))
            .await
    }
    async fn enqueue_due_tasks(&self, queues: &[TopicQueue]) -> Result<(), StoreError> {
        self.intercept_call("enqueue_due_tasks", self.store.enqueue_due_tasks(queues)).await
    }
    async fn claim_due_deliveries(
        &self,
        max: usize,
        hold: Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.intercept_call("claim_due_deliveries", self.store.claim_due_deliveries(max, hold))
            .await
    }
    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        outcome: &DeliveryOutcome,
    ) -> Result<(), StoreError> {
        self.intercept_call("settle_delivery", self.store.settle_delivery(delivery, outcome)).await
    }
    async fn list_deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.intercept_call("list_deliveries", self.store.list_deliveries(id)).await
    }
    async fn count_pending_deliveries(&self) -> Result<u64, StoreError> {
        self.intercept_call("count_pending_deliveries", self.store.count_pending_deliveries()).await
    }
    async fn claim_idempotency_key(
        &self,
        claim: &IdempotencyClaim,
    ) -> Result<ClaimResult, StoreError> {
        self.intercept_call("claim_idempotency_key", self.store.claim_idempotency_key(claim)).await
    }
    async fn conclude_claim(
        &self,
        claim: &IdempotencyClaim,
        conclusion: &ClaimConclusion,
    ) -> Result<(), StoreError> {
        self.intercept_call("conclude_claim", self.store.conclude_claim(claim, conclusion)).await
    }
    async fn release_claim(&self, claim: &IdempotencyClaim) -> Result<(), StoreError> {
        self.intercept_call("release_claim", self.store.release_claim(claim)).await
    }
    fn end_waiters(&self) -> &TaskEndWaiters {
        self.store.end_waiters()
    }
    async fn report_progress(
        &self,
        id: &TaskId,
        holder: &LeaseHolder,
        progress: &TaskProgress,
    ) -> Result<bool, StoreError> {
        self.intercept_call("report_progress", self.store.report_progress(id, holder, progress))
            .await
    }
    async fn reconcile_external(
        &self,
        queues: &[TopicQueue],
        ttl: Duration,
    ) -> Result<Vec<BuriedTask>, StoreError> {
        self.intercept_call("reconcile_external", self.store.reconcile_external(queues, ttl)).await
    }
    async fn load_shared_secret(&self) -> Result<SharedSecret, StoreError> {
        self.intercept_call("load_shared_secret", self.store.load_shared_secret()).await
    }
    async fn statuses(&self, ids: &[TaskId]) -> Result<Vec<TaskLookup>, StoreError> {
        self.intercept_call("statuses", self.store.statuses(ids)).await
    }
    async fn list_dead_letters_before(
        &self,
        queue: &TopicQueue,
        before: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.intercept_call(
            "list_dead_letters_before",
            self.store.list_dead_letters_before(queue, before, limit),
        )
        .await
    }
    async fn redrive_dead_letter(
        &self,
        queue: &TopicQueue,
        id: &str,
        now: UnixMs,
    ) -> Result<RedriveResult, StoreError> {
        self.intercept_call("redrive_dead_letter", self.store.redrive_dead_letter(queue, id, now))
            .await
    }
    async fn discard_dead_letter(&self, queue: &TopicQueue, id: &str) -> Result<bool, StoreError> {
        self.intercept_call("discard_dead_letter", self.store.discard_dead_letter(queue, id)).await
    }
    async fn load_task_details(&self, id: &TaskId) -> Result<Option<TaskDetails>, StoreError> {
        self.intercept_call("load_task_details", self.store.load_task_details(id)).await
    }
    async fn list_tasks(
        &self,
        queues: &[TopicQueue],
        listing: &TaskListRequest,
    ) -> Result<TaskListPage, StoreError> {
        self.intercept_call("list_tasks", self.store.list_tasks(queues, listing)).await
    }
    async fn check_server_settings(&self) -> Result<Vec<ServerAdvice>, StoreError> {
        self.intercept_call("check_server_settings", self.store.check_server_settings()).await
    }
}
