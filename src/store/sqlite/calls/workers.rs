//! Heartbeats. In memory only: all workers of a SQLite store run in this process.

use async_trait::async_trait;

use crate::store::error::StoreError;
use crate::store::queue::TopicQueue;
use crate::store::sqlite::SqliteStore;
use crate::store::timing::heartbeat_ttl;
use crate::store::worker::{QueueConsumers, WorkerHeartbeat, WorkerRegistry};

#[async_trait]
impl WorkerRegistry for SqliteStore {
    async fn record_heartbeat(&self, heartbeat: &WorkerHeartbeat) -> Result<(), StoreError> {
        let now = self.clock.steady_time();
        let recorded = (heartbeat.clone(), now);
        self.heartbeats.insert(&heartbeat.process, recorded, now + heartbeat_ttl());
        Ok(())
    }

    async fn remove_heartbeat(&self, process_name: &str) -> Result<(), StoreError> {
        self.heartbeats.remove(process_name);
        Ok(())
    }

    async fn list_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError> {
        let now = self.clock.steady_time();
        let with_age = |(_, (heartbeat, recorded_at)): (_, (WorkerHeartbeat, _))| WorkerHeartbeat {
            age: now.saturating_sub(recorded_at),
            ..heartbeat
        };
        Ok(self.heartbeats.live_entries(now).into_iter().map(with_age).collect())
    }

    /// No other program can have the file open.
    async fn load_queue_consumers(
        &self,
        queues: &[TopicQueue],
    ) -> Result<Vec<QueueConsumers>, StoreError> {
        Ok(vec![QueueConsumers::default(); queues.len()])
    }
}
