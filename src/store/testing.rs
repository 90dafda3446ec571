//! A real store behind a bad connection: it can be down, and its answers can get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{
    Buried, Cancelled, Claim, Claimed, Conclusion, DeadLetter, Delivery, DeliveryRecord, Depth, Heartbeat, Lease,
    Outcome, Queue, RolloutRecord, Settled, Settlement, StoreError, TaskStore, Waiters,
};
use crate::task::{Task, TaskId, TaskRecord};

/// The store and what is wrong with the way to it.
pub(crate) struct Faulty {
    pub(crate) store: Arc<dyn TaskStore>,
    /// Nothing gets through.
    pub(crate) down: AtomicBool,
    /// So many settlements are applied and never answered.
    pub(crate) lose_answers: AtomicUsize,
    /// Renewals that were answered.
    pub(crate) renewals: AtomicUsize,
    /// What was called, in order, from the last outage on.
    pub(crate) calls: std::sync::Mutex<Vec<&'static str>>,
}

// === impl Faulty ===

impl Faulty {
    pub(crate) fn new(store: Arc<dyn TaskStore>) -> Self {
        let (down, lose_answers, renewals) = (AtomicBool::default(), AtomicUsize::default(), AtomicUsize::default());
        Self { store, down, lose_answers, renewals, calls: std::sync::Mutex::default() }
    }

    /// As [`Self::reached`], for what goes on beside the rest: its order is no matter.
    fn beside(&self) -> Result<&dyn TaskStore, StoreError> {
        let down = self.down.load(Ordering::Relaxed);
        if down { Err(StoreError::Unreachable("connection refused".into())) } else { Ok(self.store.as_ref()) }
    }

    fn reached(&self, call: &'static str) -> Result<&dyn TaskStore, StoreError> {
        let mut calls = self.calls.lock().expect("not poisoned");
        if self.down.load(Ordering::Relaxed) {
            calls.clear();
            return Err(StoreError::Unreachable("connection refused".into()));
        }
        calls.push(call);
        Ok(self.store.as_ref())
    }
}

#[async_trait]
impl TaskStore for Faulty {
    async fn run(&self, shutdown: CancellationToken) {
        self.store.run(shutdown).await;
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.reached("ping")?.ping().await
    }
    async fn enqueue(&self, task: &Task, queue: &Queue) -> Result<(), StoreError> {
        self.reached("enqueue")?.enqueue(task, queue).await
    }
    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        self.reached("get")?.get(id).await
    }
    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<Cancelled, StoreError> {
        self.reached("cancel")?.cancel(id, ttl).await
    }
    async fn lease(
        &self,
        process: &str,
        queues: &[Queue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.reached("lease")?.lease(process, queues, max, wait).await
    }
    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<Settled, StoreError> {
        let settled = self.reached("settle")?.settle(lease, settlement).await;
        let lose = |left: usize| left.checked_sub(1);
        if self.lose_answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lose).is_ok() {
            return Err(StoreError::Unknown("connection reset".into()));
        }
        settled
    }
    async fn renew(&self, process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        let lost = self.reached("renew")?.renew(process, leases).await;
        self.renewals.fetch_add(1, Ordering::Relaxed);
        lost
    }
    async fn tend(&self, process: &str, queues: &[Queue], ttl: Duration) -> Result<Vec<Buried>, StoreError> {
        self.reached("tend")?.tend(process, queues, ttl).await
    }
    async fn depths(&self, queues: &[Queue]) -> Result<Vec<Depth>, StoreError> {
        self.reached("depths")?.depths(queues).await
    }
    async fn dead_letters(&self, queue: &Queue, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.reached("dead_letters")?.dead_letters(queue, limit).await
    }
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        self.reached("beat")?.beat(heartbeat).await
    }
    async fn leave(&self, process: &str) -> Result<(), StoreError> {
        self.reached("leave")?.leave(process).await
    }
    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        self.reached("heartbeats")?.heartbeats().await
    }
    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        self.reached("load_rollout")?.load_rollout(route).await
    }
    async fn save_rollout(&self, route: &str, record: &RolloutRecord) -> Result<bool, StoreError> {
        self.reached("save_rollout")?.save_rollout(route, record).await
    }
    async fn promote(&self, queues: &[Queue]) -> Result<(), StoreError> {
        self.reached("promote")?.promote(queues).await
    }
    async fn take_deliveries(&self, max: usize, hold: Duration) -> Result<Vec<Delivery>, StoreError> {
        self.beside()?.take_deliveries(max, hold).await
    }
    async fn settle_delivery(&self, delivery: &Delivery, outcome: &Outcome) -> Result<(), StoreError> {
        self.beside()?.settle_delivery(delivery, outcome).await
    }
    async fn deliveries(&self, id: &TaskId) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.beside()?.deliveries(id).await
    }
    async fn outbox_depth(&self) -> Result<u64, StoreError> {
        self.beside()?.outbox_depth().await
    }
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.beside()?.claim(claim).await
    }
    async fn conclude(&self, claim: &Claim, conclusion: &Conclusion) -> Result<(), StoreError> {
        self.beside()?.conclude(claim, conclusion).await
    }
    async fn abandon(&self, claim: &Claim) -> Result<(), StoreError> {
        self.beside()?.abandon(claim).await
    }
    fn waiters(&self) -> &Waiters {
        self.store.waiters()
    }
}
