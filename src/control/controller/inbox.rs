//! What wakes the controller's loop: configurations and commands from outside, and the results of
//! the store calls and Prometheus queries that run beside the loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::control::handle::PendingCommand;
use crate::rollout::evidence::RolloutEvidence;
use crate::rollout::gate::PrometheusSample;
use crate::store::{ReplicaSync, StoreError};

/// The receiving ends, and the sending ends that background work of the controller reports to.
pub(super) struct ControllerInbox {
    /// Each configuration with the channel that is answered once requests see it.
    pub(super) config_updates: mpsc::Receiver<(Arc<Config>, oneshot::Sender<()>)>,
    pub(super) commands: mpsc::Receiver<PendingCommand>,
    pub(super) sync_outcomes: mpsc::Receiver<SyncOutcome>,
    pub(super) sync_done: mpsc::Sender<SyncOutcome>,
    pub(super) sample_results: mpsc::Receiver<GateSamples>,
    pub(super) sampling_done: mpsc::Sender<GateSamples>,
}

/// The result of one replica sync.
pub(super) struct SyncOutcome {
    /// The routes whose records were requested, in the order of the records.
    pub(super) requested_routes: Vec<String>,
    pub(super) sync_result: Result<ReplicaSync, StoreError>,
    /// For a leader, by route: the epochs that were requested, and the evidence of each.
    pub(super) evidence_by_route: EvidenceByRoute,
}

/// By route: epochs, and the evidence of each of them.
pub(super) type EvidenceByRoute = BTreeMap<String, (Vec<u64>, Vec<RolloutEvidence>)>;

/// The samples that Prometheus returned for the gates of one route.
pub(super) struct GateSamples {
    pub(super) route: String,
    pub(super) samples_by_gate: BTreeMap<String, PrometheusSample>,
}

// === impl ControllerInbox ===

impl ControllerInbox {
    pub(super) fn new(
        config_updates: mpsc::Receiver<(Arc<Config>, oneshot::Sender<()>)>,
        commands: mpsc::Receiver<PendingCommand>,
    ) -> Self {
        let (sync_done, sync_outcomes) = mpsc::channel(1);
        let (sampling_done, sample_results) = mpsc::channel(16);
        Self { config_updates, commands, sync_outcomes, sync_done, sample_results, sampling_done }
    }
}
