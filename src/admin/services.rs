//! What the handlers of the admin plane share.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::control::{ReloadStatus, RolloutHandle};
use crate::metrics::Metrics;
use crate::operations::StoreAccess;
use crate::snapshot::SnapshotHandle;
use crate::store::Circuit;
use crate::task::UnixMs;

/// Which command the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessRole {
    /// `serve`: the proxy, with or without embedded workers.
    Serve,
    /// `worker`: workers alone.
    Worker,
}

/// The parts of readiness that only the process itself knows.
pub struct ProcessHealth {
    /// Which command the process runs.
    pub role: ProcessRole,
    /// True once the stored weights are loaded, or the store is known to be unreachable.
    pub weights_loaded: watch::Receiver<bool>,
    /// Cancelled when the shutdown begins.
    pub draining: CancellationToken,
}

/// The services that the admin plane is built from; cheap to clone.
#[derive(Clone)]
pub struct AdminServices {
    /// The current snapshot.
    pub snapshots: Arc<SnapshotHandle>,
    /// The store behind its circuit breaker.
    pub circuit: Arc<Circuit>,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// What the readiness of the process depends on.
    pub health: Arc<ProcessHealth>,
    /// The outcome of the last configuration reload.
    pub reload_status: Arc<ReloadStatus>,
    /// The rollouts: their state, and commands to them.
    pub rollouts: RolloutHandle,
    /// The configuration file; none for a configuration that was built in code.
    pub config_file: Option<Arc<str>>,
    /// When the process started.
    pub started_at: UnixMs,
}

impl AdminServices {
    /// The configuration in force.
    pub(super) fn config(&self) -> Arc<Config> {
        self.snapshots.load().config.clone()
    }

    /// The store, through the circuit breaker.
    pub(super) fn store_access(&self) -> StoreAccess<'_> {
        StoreAccess::Guarded(&self.circuit)
    }
}
