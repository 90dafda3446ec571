//! Rollouts: their state and history, the replicas and their leader, and the evidence of epochs.
//!
//! All of it is in the first partition except the tallies, which are in the partitions of their
//! tasks and are summed when they are read. The leader's key expires; the term is raised with each
//! new leadership and stays.

use std::collections::HashMap;

use redis::Value;
use redis::streams::{StreamId, StreamRangeReply};

use crate::store::evidence::EVIDENCE_RETENTION;
use crate::store::redis::core::PartitionCore;
use crate::store::redis::script::runner::{
    READ_EVIDENCE, RESIGN_REPLICA, SAVE_ROLLOUT, SYNC_REPLICA_AND_ELECT_LEADER,
};
use crate::store::redis::time::{as_millis_u64, min_clock_ahead_ms, unix_now};
use crate::store::redis::wire::keys;
use crate::store::rollout::{self, ReplicaReport, ReplicaSync, RolloutCommit, RolloutHistoryEntry};
use crate::store::timing::replica_ttl;
use crate::store::{RolloutRecord, StoreError};
use crate::task::UnixMs;

/// The tally of one epoch by field, and the counts of each replica as JSON.
type EpochEvidenceRow = (HashMap<String, u64>, HashMap<String, String>);

/// The version and the state of a rollout.
type RolloutHashFields = (Option<u64>, Option<String>);

/// The term, the leader, the replicas with their reports, the rollouts, and the server's time, ms
/// since 1970.
type ReplicaSyncReply =
    (Option<u64>, Option<String>, Vec<(String, String)>, Vec<RolloutHashFields>, u64);

impl PartitionCore {
    /// The stored state of a route's rollout.
    pub(crate) async fn load_rollout(
        &self,
        route: &str,
    ) -> Result<Option<RolloutRecord>, StoreError> {
        let mut get = redis::cmd("HMGET");
        get.arg(self.keys.rollout_state_key(route)).arg("version").arg("state");
        Ok(to_rollout_record(self.link.send_command(&get).await?))
    }

    /// Saves a rollout's state with its history events; returns false where the stored version or
    /// the leadership is another one.
    pub(crate) async fn save_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        change: &RolloutCommit,
    ) -> Result<bool, StoreError> {
        SAVE_ROLLOUT
            .call_with_keys(&[
                ("rollout", self.keys.rollout_state_key(route)),
                ("history", self.keys.rollout_history_key(route)),
                ("leader", self.keys.leader_key()),
                ("leader_term", self.keys.leader_term_key()),
            ])
            .arg("version", record.version)
            .arg("state", &record.state_json)
            .arg(
                "required_term",
                change.required_term.map(|term| term.to_string()).unwrap_or_default(),
            )
            .arg("max_history_entries", rollout::MAX_HISTORY_ENTRIES)
            .arg_each("event", &change.history_events)
            .run(&self.link)
            .await
    }

    /// Writes the report of a replica, takes or keeps the lead where it wants it, and reads the
    /// other replicas and the rollouts.
    pub(crate) async fn sync_replica(
        &self,
        report: &ReplicaReport,
        routes: &[String],
    ) -> Result<ReplicaSync, StoreError> {
        let ReplicaReport { process, description_json, wants_lead, epoch_counts } = report;
        let mut keys = vec![
            ("replica", self.keys.replica_report_key(process)),
            ("replicas_index", self.keys.replicas_index_key()),
            ("leader", self.keys.leader_key()),
            ("leader_term", self.keys.leader_term_key()),
        ];
        keys.extend(routes.iter().map(|route| ("rollout", self.keys.rollout_state_key(route))));
        keys.extend(epoch_counts.iter().map(|(route, epoch, _)| {
            ("replica_counts", self.keys.replica_counts_key(route, *epoch))
        }));
        let call = SYNC_REPLICA_AND_ELECT_LEADER
            .call_with_keys(&keys)
            .arg("process", process)
            .arg("report_json", description_json)
            .arg("wants_lead", *wants_lead)
            .arg("ttl_ms", as_millis_u64(replica_ttl()))
            .arg("counts_ttl_s", EVIDENCE_RETENTION.as_secs())
            .arg("replica_prefix", self.keys.replica_report_prefix())
            .arg("route_count", routes.len())
            .arg_each("counts_json", epoch_counts.iter().map(|(_, _, counts)| counts));
        let sent = unix_now();
        let (term, leader, mut replicas, records, server_ms): ReplicaSyncReply =
            call.run(&self.link).await?;
        let clock_ahead_ms = min_clock_ahead_ms(UnixMs(server_ms), sent, unix_now());
        replicas.sort();
        Ok(ReplicaSync {
            term,
            leader,
            replicas,
            rollout_records: records.into_iter().map(to_rollout_record).collect(),
            clock_ahead_ms,
        })
    }

    /// Removes a replica, and its leadership.
    pub(crate) async fn remove_replica(&self, process: &str) -> Result<(), StoreError> {
        let call = RESIGN_REPLICA.call_with_keys(&[
            ("replica", self.keys.replica_report_key(process)),
            ("replicas_index", self.keys.replicas_index_key()),
            ("leader", self.keys.leader_key()),
        ]);
        call.arg("process", process).run::<Value>(&self.link).await.map(|_| ())
    }

    /// At most `limit` events of a route's rollout, the newest first; with the cursor `before`,
    /// only older ones.
    pub(crate) async fn read_rollout_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RolloutHistoryEntry>, StoreError> {
        let start = keys::reverse_range_start(before)?;
        let mut range = redis::cmd("XREVRANGE");
        range.arg(self.keys.rollout_history_key(route)).arg(start).arg("-").arg("COUNT").arg(limit);
        let reply: StreamRangeReply = self.link.send_command(&range).await?;
        let entry = |entry: StreamId| {
            let event_json = entry.get("event").unwrap_or_default();
            RolloutHistoryEntry { cursor: entry.id, event_json }
        };
        Ok(reply.ids.into_iter().map(entry).collect())
    }

    /// The evidence of epochs in this partition, in the order of `epochs`.
    pub(crate) async fn read_evidence(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<EpochEvidenceRow>, StoreError> {
        let keys: Vec<(&str, String)> = epochs
            .iter()
            .flat_map(|epoch| {
                [
                    ("tally", self.keys.tally_key(route, *epoch)),
                    ("replica_counts", self.keys.replica_counts_key(route, *epoch)),
                ]
            })
            .collect();
        READ_EVIDENCE
            .call_with_keys(&keys)
            .arg("retention_s", EVIDENCE_RETENTION.as_secs())
            .run(&self.link)
            .await
    }
}

fn to_rollout_record((version, state): RolloutHashFields) -> Option<RolloutRecord> {
    version.zip(state).map(|(version, state)| RolloutRecord { version, state_json: state })
}
