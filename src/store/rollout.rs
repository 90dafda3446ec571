//! The state of rollouts, their history, and the replicas that share them.
//!
//! A save is compare-and-set on the version, and can require that the saving replica still leads.
//! The store keeps states, events, descriptions and counts as JSON text and never reads them.

use async_trait::async_trait;

use super::error::StoreError;
use super::evidence::StoredEvidence;

/// Entries kept of a route's history, the newest.
pub const MAX_HISTORY_ENTRIES: usize = 10_000;

/// A route's rollout state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutRecord {
    /// Increases by one with each save.
    pub version: u64,
    /// The state as JSON.
    pub state_json: String,
}

/// The conditions and side effects of saving a rollout's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutCommit {
    /// Save only while this term leads; none saves whichever replica leads.
    pub required_term: Option<u64>,
    /// Events to append to the route's history, as JSON.
    pub history_events: Vec<String>,
}

/// An entry of a route's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutHistoryEntry {
    /// The store's position of the entry: pass it to get the page of older entries.
    pub cursor: String,
    /// One of [`RolloutCommit::history_events`].
    pub event_json: String,
}

/// What a proxy process reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    /// The name of the process, unique to it.
    pub process: String,
    /// The replica's description of itself, as JSON.
    pub description_json: String,
    /// Whether the replica is a candidate for the lead.
    pub wants_lead: bool,
    /// (route, epoch, what this process has counted in that epoch so far as JSON).
    pub epoch_counts: Vec<(String, u64, String)>,
}

/// What a replica learns from the store in return for its report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSync {
    /// The replica's term if it leads; higher than every term before it.
    pub term: Option<u64>,
    /// The name of the replica that leads.
    pub leader: Option<String>,
    /// (name, description) of each live replica, including this one, by name.
    pub replicas: Vec<(String, String)>,
    /// The rollout state of each requested route, in the order of the request.
    pub rollout_records: Vec<Option<RolloutRecord>>,
    /// How far the store's clock is ahead of this process's clock at least, in ms; negative where
    /// it is behind, and zero where the round-trip time can explain the whole difference.
    pub clock_ahead_ms: i64,
}

/// Stores rollout states, their history and evidence, and elects the replica that leads.
#[async_trait]
pub trait RolloutStore: Send + Sync + 'static {
    /// The rollout state of a route.
    async fn load_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError>;

    /// Saves a route's state and appends the commit's events, if the stored version is
    /// `record.version - 1` (a missing record has version 0) and `commit.required_term` leads.
    /// False, with nothing changed, when another process saved first or another term leads.
    async fn save_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        commit: &RolloutCommit,
    ) -> Result<bool, StoreError>;

    /// Up to `limit` entries of a route's history, newest first: all of them, or those before the
    /// entry whose [`RolloutHistoryEntry::cursor`] is `before_cursor`.
    async fn load_rollout_history(
        &self,
        route: &str,
        before_cursor: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RolloutHistoryEntry>, StoreError>;

    /// The evidence of each of a route's `epochs`, in their order.
    async fn load_evidence(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<StoredEvidence>, StoreError>;

    /// Records a replica's report for [`replica_ttl`](super::replica_ttl), gives or renews the lead
    /// where the replica is a candidate and no other one leads, and returns the states of `routes`.
    /// Each replica makes this one call every second.
    async fn sync_replica(
        &self,
        report: &ReplicaReport,
        routes: &[String],
    ) -> Result<ReplicaSync, StoreError>;

    /// Removes a replica that shuts down, and its lead. Its counts stay.
    async fn remove_replica(&self, process_name: &str) -> Result<(), StoreError>;
}
