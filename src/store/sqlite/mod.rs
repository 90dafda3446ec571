mod clock;
pub use self::clock::Clock;
use super::*;
pub struct SqliteStore;
impl SqliteStore {
    pub fn open(_: &std::path::Path) -> Result<Self, StoreError> {
        unimplemented!()
    }
    pub fn with_clock(_: &std::path::Path, _: Clock) -> Result<Self, StoreError> {
        unimplemented!()
    }
}
#[async_trait]
#[allow(unused_variables)]
impl TaskStore for SqliteStore {
    async fn run(&self, shutdown: CancellationToken) {
        unimplemented!()
    }
    async fn ping(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn enqueue(&self, task: &Task, queue: &Queue) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, StoreError> {
        unimplemented!()
    }
    async fn cancel(&self, id: &TaskId, ttl: Duration) -> Result<Cancelled, StoreError> {
        unimplemented!()
    }
    async fn lease(
        &self,
        process: &str,
        queues: &[Queue],
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        unimplemented!()
    }
    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<Settled, StoreError> {
        unimplemented!()
    }
    async fn renew(&self, process: &str, leases: &[Lease]) -> Result<Vec<TaskId>, StoreError> {
        unimplemented!()
    }
    async fn tend(&self, process: &str, queues: &[Queue], ttl: Duration) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn depths(&self, queues: &[Queue]) -> Result<Vec<Depth>, StoreError> {
        unimplemented!()
    }
    async fn dead_letters(&self, queue: &Queue, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        unimplemented!()
    }
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        unimplemented!()
    }
    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        unimplemented!()
    }
    async fn save_rollout(&self, route: &str, record: &RolloutRecord) -> Result<bool, StoreError> {
        unimplemented!()
    }
    fn waiters(&self) -> &Waiters {
        unimplemented!()
    }
}
