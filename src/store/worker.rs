//! The worker processes that are alive, as other processes see them.

use async_trait::async_trait;

use super::error::StoreError;
use crate::task::UnixMs;

/// The name and load of a worker process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerHeartbeat {
    /// `<host>.<pid>.<boot>`: unique to the process.
    pub process: String,
    /// Live worker slots.
    pub active_slots: u32,
    /// Slots that run a task.
    pub busy_slots: u32,
    /// When the process started.
    pub started_at: UnixMs,
}

/// Records which worker processes are alive.
#[async_trait]
pub trait WorkerRegistry: Send + Sync + 'static {
    /// Records that a worker process is alive; the record lasts
    /// [`heartbeat_ttl`](super::heartbeat_ttl) unless repeated.
    async fn record_heartbeat(&self, heartbeat: &WorkerHeartbeat) -> Result<(), StoreError>;

    /// Deletes the heartbeat of a worker process that has ended.
    async fn remove_heartbeat(&self, process_name: &str) -> Result<(), StoreError>;

    /// The live worker processes.
    async fn list_heartbeats(&self) -> Result<Vec<WorkerHeartbeat>, StoreError>;
}
