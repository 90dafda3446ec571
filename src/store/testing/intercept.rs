//! A store whose calls are intercepted: an interceptor runs before and after each call of a real
//! store, and can make the call fail.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::store::{
    BuriedTask, CancelResult, ClaimConclusion, ClaimResult, DeadLetter, DeadLetterQueue, Delivery,
    DeliveryOutbox, DeliveryOutcome, DeliveryRecord, DeprecatedCaller, DeprecatedCallerLog,
    IdempotencyClaim, IdempotencyClaims, Lease, LeaseDemand, LeaseHolder, QueueConsumers,
    QueueDepth, ReplicaReport, ReplicaSync, ReprocessResult, RolloutCommit, RolloutHistoryEntry,
    RolloutRecord, RolloutStore, ServerAdvice, SettleResult, Settlement, SharedSecret, StoreError,
    StoreService, StoredEvidence, TaskEndWaiters, TaskLeasing, TaskListPage, TaskListRequest,
    TaskLookup, TaskQueue, TaskReader, TaskStore, TopicQueue, WorkerHeartbeat, WorkerRegistry,
};
use crate::task::{Task, TaskDetails, TaskId, TaskProgress, TaskRecord, UnixMs};

/// Runs around each store call. `call` is the name of the called method.
#[async_trait]
pub(crate) trait StoreInterceptor: Send + Sync + 'static {
    /// Runs before the call. An error is returned to the caller, and the store is not called.
    async fn before_call(&self, call: &'static str) -> Result<(), StoreError>;

    /// Runs after the call. An error is returned to the caller in place of the store's answer.
    async fn after_call(&self, call: &'static str) -> Result<(), StoreError>;
}

/// A store with an interceptor around its calls.
pub(crate) struct InterceptedStore<I> {
    pub(crate) store: Arc<dyn TaskStore>,
    pub(crate) interceptor: I,
}

// === impl InterceptedStore ===

impl<I: StoreInterceptor> InterceptedStore<I> {
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

/// Tests read and set the fields of their interceptor through the store.
impl<I> Deref for InterceptedStore<I> {
    type Target = I;

    fn deref(&self) -> &I {
        &self.interceptor
    }
}

/// Implements the store traits: each call listed in braces is intercepted under its method's name,
/// and the methods in brackets are implemented as written.
macro_rules! intercept_calls {
    ($($store_trait:ident $([ $($plain:tt)* ])? {
        $($call:ident($($argument:ident: $argument_type:ty),*) -> $answer:ty;)*
    })*) => {
        $(
            #[async_trait]
            impl<I: StoreInterceptor> $store_trait for InterceptedStore<I> {
                $($($plain)*)?
                $(
                    async fn $call(&self, $($argument: $argument_type),*)
                    -> Result<$answer, StoreError> {
                        let answer = self.store.$call($($argument),*);
                        self.intercept_call(stringify!($call), answer).await
                    }
                )*
            }
        )*

        /// The names of all intercepted calls.
        #[cfg(feature = "failpoints")]
        pub(super) const INTERCEPTED_CALLS: &[&str] = &[$($(stringify!($call)),*),*];
    };
}

intercept_calls! {
    StoreService [
        async fn run_background(&self, shutdown: CancellationToken) {
            self.store.run_background(shutdown).await;
        }
    ] {
        ping() -> ();
        check_server_settings() -> Vec<ServerAdvice>;
        load_shared_secret() -> SharedSecret;
    }
    TaskQueue {
        enqueue(task: &Task, queue: &TopicQueue) -> ();
        cancel(id: &TaskId, ttl: Duration) -> CancelResult;
        enqueue_due_tasks(queues: &[TopicQueue]) -> ();
    }
    TaskLeasing {
        lease_demand(demand: &LeaseDemand<'_>) -> Vec<Lease>;
        renew(process_name: &str, leases: &[Lease]) -> Vec<TaskId>;
        settle(lease: &Lease, settlement: &Settlement) -> SettleResult;
        report_progress(id: &TaskId, holder: &LeaseHolder, progress: &TaskProgress) -> bool;
        reap_expired(process_name: &str, queues: &[TopicQueue], ttl: Duration) -> Vec<BuriedTask>;
        reconcile_external(queues: &[TopicQueue], ttl: Duration) -> Vec<BuriedTask>;
    }
    TaskReader [
        fn end_waiters(&self) -> &TaskEndWaiters {
            self.store.end_waiters()
        }
    ] {
        get_task(id: &TaskId) -> Option<TaskRecord>;
        statuses(ids: &[TaskId]) -> Vec<TaskLookup>;
        load_task_details(id: &TaskId) -> Option<TaskDetails>;
        list_tasks(queues: &[TopicQueue], request: &TaskListRequest) -> TaskListPage;
        load_queue_depths(queues: &[TopicQueue]) -> Vec<QueueDepth>;
    }
    DeadLetterQueue {
        list_dead_letters(queue: &TopicQueue, before_cursor: Option<&str>, limit: usize)
            -> Vec<DeadLetter>;
        get_dead_letter(queue: &TopicQueue, id: &str) -> Option<DeadLetter>;
        reprocess_dead_letter(queue: &TopicQueue, id: &str, now: UnixMs) -> ReprocessResult;
        discard_dead_letter(queue: &TopicQueue, id: &str) -> bool;
    }
    DeliveryOutbox {
        claim_due_deliveries(max: usize, hide_for: Duration) -> Vec<Delivery>;
        settle_delivery(delivery: &Delivery, outcome: &DeliveryOutcome) -> ();
        list_deliveries(id: &TaskId) -> Vec<DeliveryRecord>;
        count_pending_deliveries() -> u64;
    }
    IdempotencyClaims {
        claim_idempotency_key(claim: &IdempotencyClaim) -> ClaimResult;
        conclude_claim(claim: &IdempotencyClaim, conclusion: &ClaimConclusion) -> ();
        release_claim(claim: &IdempotencyClaim) -> ();
    }
    WorkerRegistry {
        record_heartbeat(heartbeat: &WorkerHeartbeat) -> ();
        remove_heartbeat(process_name: &str) -> ();
        list_heartbeats() -> Vec<WorkerHeartbeat>;
        load_queue_consumers(queues: &[TopicQueue]) -> Vec<QueueConsumers>;
    }
    RolloutStore {
        load_rollout(route: &str) -> Option<RolloutRecord>;
        save_rollout(route: &str, record: &RolloutRecord, commit: &RolloutCommit) -> bool;
        load_rollout_history(route: &str, before_cursor: Option<&str>, limit: usize)
            -> Vec<RolloutHistoryEntry>;
        load_evidence(route: &str, epochs: &[u64]) -> Vec<StoredEvidence>;
        sync_replica(report: &ReplicaReport, routes: &[String]) -> ReplicaSync;
        remove_replica(process_name: &str) -> ();
    }
    DeprecatedCallerLog {
        record_deprecated_calls(route: &str, calls: &[DeprecatedCaller]) -> ();
        list_deprecated_callers(route: &str) -> Vec<DeprecatedCaller>;
    }
}
