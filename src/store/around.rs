//! A real store with something before and after each of its calls: faults, for tests of whoever calls it.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{
    Advice, Buried, Caller, Cancelled, Change, Claim, Claimed, Conclusion, DeadLetter, Delivery, DeliveryRecord, Depth,
    Glance, Heartbeat, HistoryEntry, Holder, Lease, Listing, Meeting, Outcome, Page, Presence, Queue, Redriven,
    RolloutRecord, Settled, Settlement, SharedSecret, StoreError, StoredEvidence, TaskStore, Waiters,
};
use crate::task::{Life, Progress, Task, TaskId, TaskRecord, UnixMs};

/// What happens around a call, which is named as the method of [`TaskStore`] is.
#[async_trait]
pub(crate) trait Hook: Send + Sync + 'static {
    /// Before the call; an error is its answer, and nothing is done.
    async fn before(&self, call: &'static str) -> Result<(), StoreError>;

    /// After the call; an error is its answer, whatever was done.
    async fn after(&self, call: &'static str) -> Result<(), StoreError>;
}

/// The store and its hook.
pub(crate) struct Around<H> {
    pub(crate) store: Arc<dyn TaskStore>,
    pub(crate) hook: H,
}

// === impl Around ===

impl<H: Hook> Around<H> {
    async fn around<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.hook.before(call).await?;
        let answer = answer.await;
        self.hook.after(call).await?;
        answer
    }
}

impl<H> Deref for Around<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.hook
    }
}

#[async_trait]
impl<H: Hook> TaskStore for Around<H> {
    async fn run(&self, shutdown: CancellationToken) {
        self.store.run(shutdown).await;
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.around("ping", self.store.ping()).await
    }
    async fn enqueue(&self, task: &Task, queue: &Queue) -> Result<(), StoreError> {
        self.around("enqueue", self.store.enqueue(task, queue)).await
    }
    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        self.around("get", self.store.get(id)).await
    }
    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<Cancelled, StoreError> {
        self.around("cancel", self.store.cancel(id, ttl)).await
    }
    async fn lease(
        &self,
        process: &str,
        queues: &[Queue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.around("lease", self.store.lease(process, queues, max, wait)).await
    }
    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<Settled, StoreError> {
        self.around("settle", self.store.settle(lease, settlement)).await
    }
    async fn renew(&self, process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        self.around("renew", self.store.renew(process, leases)).await
    }
    async fn tend(&self, process: &str, queues: &[Queue], ttl: Duration) -> Result<Vec<Buried>, StoreError> {
        self.around("tend", self.store.tend(process, queues, ttl)).await
    }
    async fn depths(&self, queues: &[Queue]) -> Result<Vec<Depth>, StoreError> {
        self.around("depths", self.store.depths(queues)).await
    }
    async fn dead_letters(&self, queue: &Queue, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.around("dead_letters", self.store.dead_letters(queue, limit)).await
    }
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        self.around("beat", self.store.beat(heartbeat)).await
    }
    async fn leave(&self, process: &str) -> Result<(), StoreError> {
        self.around("leave", self.store.leave(process)).await
    }
    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        self.around("heartbeats", self.store.heartbeats()).await
    }
    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        self.around("load_rollout", self.store.load_rollout(route)).await
    }
    async fn save_rollout(&self, route: &str, record: &RolloutRecord, change: &Change) -> Result<bool, StoreError> {
        self.around("save_rollout", self.store.save_rollout(route, record, change)).await
    }
    async fn meet(&self, presence: &Presence, routes: &[String]) -> Result<Meeting, StoreError> {
        self.around("meet", self.store.meet(presence, routes)).await
    }
    async fn resign(&self, process: &str) -> Result<(), StoreError> {
        self.around("resign", self.store.resign(process)).await
    }
    async fn rollout_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        self.around("rollout_history", self.store.rollout_history(route, before, limit)).await
    }
    async fn evidence(&self, route: &str, epochs: &[u64]) -> Result<Vec<StoredEvidence>, StoreError> {
        self.around("evidence", self.store.evidence(route, epochs)).await
    }
    async fn note_callers(&self, route: &str, calls: &[Caller]) -> Result<(), StoreError> {
        self.around("note_callers", self.store.note_callers(route, calls)).await
    }
    async fn callers(&self, route: &str) -> Result<Vec<Caller>, StoreError> {
        self.around("callers", self.store.callers(route)).await
    }
    async fn promote(&self, queues: &[Queue]) -> Result<(), StoreError> {
        self.around("promote", self.store.promote(queues)).await
    }
    async fn take_deliveries(&self, max: usize, hold: Duration) -> Result<Vec<Delivery>, StoreError> {
        self.around("take_deliveries", self.store.take_deliveries(max, hold)).await
    }
    async fn settle_delivery(&self, delivery: &Delivery, outcome: &Outcome) -> Result<(), StoreError> {
        self.around("settle_delivery", self.store.settle_delivery(delivery, outcome)).await
    }
    async fn deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.around("deliveries", self.store.deliveries(id)).await
    }
    async fn outbox_depth(&self) -> Result<u64, StoreError> {
        self.around("outbox_depth", self.store.outbox_depth()).await
    }
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.around("claim", self.store.claim(claim)).await
    }
    async fn conclude(&self, claim: &Claim, conclusion: &Conclusion) -> Result<(), StoreError> {
        self.around("conclude", self.store.conclude(claim, conclusion)).await
    }
    async fn abandon(&self, claim: &Claim) -> Result<(), StoreError> {
        self.around("abandon", self.store.abandon(claim)).await
    }
    fn waiters(&self) -> &Waiters {
        self.store.waiters()
    }
    async fn report(&self, id: &TaskId, holder: &Holder, progress: &Progress) -> Result<bool, StoreError> {
        self.around("report", self.store.report(id, holder, progress)).await
    }
    async fn attend(&self, queues: &[Queue], ttl: Duration) -> Result<Vec<Buried>, StoreError> {
        self.around("attend", self.store.attend(queues, ttl)).await
    }
    async fn secret(&self) -> Result<SharedSecret, StoreError> {
        self.around("secret", self.store.secret()).await
    }
    async fn glance(&self, ids: &[TaskId]) -> Result<Vec<Glance>, StoreError> {
        self.around("glance", self.store.glance(ids)).await
    }
    async fn dead_letters_before(
        &self,
        queue: &Queue,
        before: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.around("dead_letters_before", self.store.dead_letters_before(queue, before, limit)).await
    }
    async fn redrive(&self, queue: &Queue, id: &str, now: UnixMs) -> Result<Redriven, StoreError> {
        self.around("redrive", self.store.redrive(queue, id, now)).await
    }
    async fn discard(&self, queue: &Queue, id: &str) -> Result<bool, StoreError> {
        self.around("discard", self.store.discard(queue, id)).await
    }
    async fn life(&self, id: &TaskId) -> Result<Option<Life>, StoreError> {
        self.around("life", self.store.life(id)).await
    }
    async fn list(&self, queues: &[Queue], listing: &Listing) -> Result<Page, StoreError> {
        self.around("list", self.store.list(queues, listing)).await
    }
    async fn advice(&self) -> Result<Vec<Advice>, StoreError> {
        self.around("advice", self.store.advice()).await
    }
}
