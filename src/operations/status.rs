//! The state of the queues, the worker processes and the store's server in one reading.

use super::StoreAccess;
use super::queues::{QueueStatus, load_queue_statuses};
use crate::config::{Config, HandlerConfig};
use crate::store::{ServerAdvice, StoreError, WorkerHeartbeat};

/// What the store knows of the whole fleet. A part that could not be read is empty.
#[derive(Clone, Debug, Default)]
pub struct FleetStatus {
    /// The configured queues with their depths.
    pub queues: Vec<QueueStatus>,
    /// The live worker processes; none when the store did not tell.
    pub heartbeats: Option<Vec<WorkerHeartbeat>>,
    /// Settings of the store's server that should be changed.
    pub advice: Vec<ServerAdvice>,
    /// The error of the first call that failed.
    pub error: Option<StoreError>,
}

impl FleetStatus {
    /// Live workers, over all processes.
    #[must_use]
    pub fn active_workers(&self) -> u32 {
        self.heartbeats.iter().flatten().map(|heartbeat| heartbeat.active_workers).sum()
    }

    /// Workers that the running tasks keep busy, over all processes.
    #[must_use]
    pub fn busy_workers(&self) -> u32 {
        self.heartbeats.iter().flatten().map(|heartbeat| heartbeat.busy_workers).sum()
    }

    /// Waiting tasks, over all queues.
    #[must_use]
    pub fn queued_tasks(&self) -> u64 {
        self.queues.iter().map(|queue| queue.depth.queued).sum()
    }

    /// Whether a topic needs workers and none is live; none when the workers are not known.
    #[must_use]
    pub fn lacks_workers(&self, config: &Config) -> Option<bool> {
        self.heartbeats.as_deref().map(|heartbeats| lacks_workers(config, heartbeats))
    }
}

/// Reads queues, workers and server settings. A call that fails leaves its part empty.
pub async fn load_fleet_status(access: StoreAccess<'_>, config: &Config) -> FleetStatus {
    let mut status = FleetStatus::default();
    match load_queue_statuses(access, config).await {
        Ok(queues) => status.queues = queues,
        Err(error) => status.error = Some(error),
    }
    match load_heartbeats(access).await {
        Ok(heartbeats) => status.heartbeats = Some(heartbeats),
        Err(error) => status.error = status.error.or(Some(error)),
    }
    match access.call(access.store().check_server_settings()).await {
        Ok(advice) => status.advice = advice,
        Err(error) => status.error = status.error.or(Some(error)),
    }
    status
}

/// The live worker processes.
///
/// # Errors
/// The error of the store call that failed.
pub async fn load_heartbeats(access: StoreAccess<'_>) -> Result<Vec<WorkerHeartbeat>, StoreError> {
    access.call(access.store().list_heartbeats()).await
}

/// Whether tasks wait in vain: a topic's tasks are run by our workers, and no worker is live.
#[must_use]
pub fn lacks_workers(config: &Config, heartbeats: &[WorkerHeartbeat]) -> bool {
    config.topics.values().any(|topic| topic.handler != HandlerConfig::External)
        && heartbeats.iter().all(|heartbeat| heartbeat.active_workers == 0)
}
