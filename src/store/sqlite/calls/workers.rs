//! Heartbeats. In memory only: all workers of a SQLite store run in this process.

use async_trait::async_trait;

use crate::store::error::StoreError;
use crate::store::sqlite::SqliteStore;
use crate::store::timing::heartbeat_ttl;
use crate::store::worker::{WorkerHeartbeat, WorkerRegistry};

#[async_trait]
impl WorkerRegistry for SqliteStore {
    async fn record_heartbeat(&self, heartbeat: &WorkerHeartbeat) -> Result<(), StoreError> {
        let expires = self.clock.steady_time() + heartbeat_ttl();
        self.heartbeats.insert(&heartbeat.process, heartbeat.clone(), expires);
        Ok(())
    }

    async fn remove_heartbeat(&self, process_name: &str) -> Result<(), StoreError> {
        self.heartbeats.remove(process_name);
        Ok(())
    }

    async fn list_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError> {
        let live = self.heartbeats.live_entries(self.clock.steady_time());
        Ok(live.into_iter().map(|(_, heartbeat)| heartbeat).collect())
    }
}
