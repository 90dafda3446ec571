//! Rollouts: their state and history, who is there and who leads, what was counted, who still
//! calls.
//!
//! All of it is in the first partition but the tallies, which are where their tasks are and are
//! summed when they are read. The lead is a key that expires; the term is raised whenever somebody
//! takes it and stays.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use redis::Value;
use redis::streams::StreamRangeReply;

use super::checks::min_clock_ahead_ms;
use super::partition::Partition;
use super::read::is_entry_id;
use super::script::{
    READ_CALLERS, READ_EVIDENCE, RECORD_CALLERS, RESIGN_REPLICA, SAVE_ROLLOUT, SYNC_REPLICA,
};
use super::{RedisStore, as_millis_u64, unix_now};
use crate::store::error::invalid_cursor;
use crate::store::{
    CALLER_RETENTION, DeprecatedCaller, EVIDENCE_RETENTION, MAX_CALLERS, MAX_HISTORY_ENTRIES,
    OTHER_CALLERS, ReplicaReport, ReplicaSync, RolloutCommit, RolloutHistoryEntry, RolloutRecord,
    StoreError, StoredEvidence, replica_ttl,
};
use crate::task::UnixMs;

/// A rollout's version and state.
type RolloutHashFields = (Option<u64>, Option<String>);

/// A term, a leader, replicas, rollouts, and the server's time in ms.
type ReplicaSyncReply =
    (Option<u64>, Option<String>, Vec<(String, String)>, Vec<RolloutHashFields>, u64);

impl Partition {
    pub(super) async fn load_rollout(
        &self,
        route: &str,
    ) -> Result<Option<RolloutRecord>, StoreError> {
        let mut get = redis::cmd("HMGET");
        get.arg(self.keys.rollout_state_key(route)).arg("version").arg("state");
        Ok(to_rollout_record(self.link.send_command(&get).await?))
    }

    pub(super) async fn save_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        change: &RolloutCommit,
    ) -> Result<bool, StoreError> {
        SAVE_ROLLOUT
            .call_with_keys(&[
                self.keys.rollout_state_key(route),
                self.keys.rollout_history_key(route),
                self.keys.leader_key(),
                self.keys.leader_term_key(),
            ])
            .arg(record.version)
            .arg(&record.state_json)
            .arg(change.required_term.map(|term| term.to_string()).unwrap_or_default())
            .arg(MAX_HISTORY_ENTRIES)
            .arg(&change.history_events)
            .run(&self.link)
            .await
    }

    pub(super) async fn sync_replica(
        &self,
        presence: &ReplicaReport,
        routes: &[String],
    ) -> Result<ReplicaSync, StoreError> {
        let ReplicaReport {
            process,
            description_json: about,
            wants_lead: candidate,
            epoch_counts: counts,
        } = presence;
        let mut all = vec![
            self.keys.replica_report_key(process),
            self.keys.replicas_index_key(),
            self.keys.leader_key(),
            self.keys.leader_term_key(),
        ];
        all.extend(routes.iter().map(|route| self.keys.rollout_state_key(route)));
        all.extend(
            counts.iter().map(|(route, epoch, _)| self.keys.replica_counts_key(route, *epoch)),
        );
        let call = SYNC_REPLICA
            .call_with_keys(&all)
            .arg(&[process, about])
            .arg(*candidate)
            .arg(as_millis_u64(replica_ttl()))
            .arg(EVIDENCE_RETENTION.as_secs())
            .arg(self.keys.replica_report_prefix())
            .arg(routes.len())
            .arg(counts.iter().map(|(_, _, counted)| counted).collect::<Vec<_>>());
        let sent = unix_now();
        let (term, leader, mut replicas, records, told): ReplicaSyncReply =
            call.run(&self.link).await?;
        let ahead = min_clock_ahead_ms(UnixMs(told), sent, unix_now());
        replicas.sort();
        Ok(ReplicaSync {
            term,
            leader,
            replicas,
            rollout_records: records.into_iter().map(to_rollout_record).collect(),
            clock_ahead_ms: ahead,
        })
    }

    pub(super) async fn remove_replica(&self, process: &str) -> Result<(), StoreError> {
        let call = RESIGN_REPLICA.call_with_keys(&[
            self.keys.replica_report_key(process),
            self.keys.replicas_index_key(),
            self.keys.leader_key(),
        ]);
        call.arg(process).run::<Value>(&self.link).await.map(|_| ())
    }

    pub(super) async fn read_rollout_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RolloutHistoryEntry>, StoreError> {
        let from = match before {
            None => "+".to_owned(),
            Some(before) if is_entry_id(before) => format!("({before}"),
            Some(_) => return Err(invalid_cursor("before")),
        };
        let mut range = redis::cmd("XREVRANGE");
        range.arg(self.keys.rollout_history_key(route)).arg(from).arg("-").arg("COUNT").arg(limit);
        let reply: StreamRangeReply = self.link.send_command(&range).await?;
        let entry = |entry: redis::streams::StreamId| {
            let event = entry.get("event").unwrap_or_default();
            RolloutHistoryEntry { cursor: entry.id, event_json: event }
        };
        Ok(reply.ids.into_iter().map(entry).collect())
    }

    /// Adds what this partition knows of epochs.
    async fn read_evidence(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<(HashMap<String, u64>, HashMap<String, String>)>, StoreError> {
        let all: Vec<String> = epochs
            .iter()
            .flat_map(|epoch| {
                [self.keys.tally_key(route, *epoch), self.keys.replica_counts_key(route, *epoch)]
            })
            .collect();
        READ_EVIDENCE.call_with_keys(&all).arg(EVIDENCE_RETENTION.as_secs()).run(&self.link).await
    }

    pub(super) async fn record_callers(
        &self,
        route: &str,
        calls: &[DeprecatedCaller],
    ) -> Result<(), StoreError> {
        if calls.is_empty() {
            return Ok(());
        }
        let mut call = RECORD_CALLERS
            .call_with_keys(&[
                self.keys.caller_counts_key(route),
                self.keys.caller_last_call_key(route),
            ])
            .arg(as_millis_u64(CALLER_RETENTION))
            .arg(MAX_CALLERS)
            .arg(OTHER_CALLERS);
        for DeprecatedCaller { name: who, call_count: count, last_called_at: last } in calls {
            call = call.arg(who).arg(*count).arg(last.0);
        }
        call.run::<Value>(&self.link).await.map(|_| ())
    }

    pub(super) async fn read_callers(
        &self,
        route: &str,
    ) -> Result<Vec<DeprecatedCaller>, StoreError> {
        let (last, counts): (Vec<(String, u64)>, HashMap<String, u64>) = READ_CALLERS
            .call_with_keys(&[
                self.keys.caller_counts_key(route),
                self.keys.caller_last_call_key(route),
            ])
            .arg(as_millis_u64(CALLER_RETENTION))
            .run(&self.link)
            .await?;
        let caller = |(who, last): (String, u64)| {
            let count = counts.get(&who).copied().unwrap_or_default();
            DeprecatedCaller { name: who, call_count: count, last_called_at: UnixMs(last) }
        };
        Ok(last.into_iter().map(caller).collect())
    }
}

impl RedisStore {
    /// The sums over all partitions.
    pub(super) async fn evidence_all_partitions(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<StoredEvidence>, StoreError> {
        let mut sums = vec![StoredEvidence::default(); epochs.len()];
        if epochs.is_empty() {
            return Ok(sums);
        }
        for known in try_join_all(
            self.partitions.iter().map(|partition| partition.read_evidence(route, epochs)),
        )
        .await?
        {
            for (sum, (tallies, counts)) in sums.iter_mut().zip(known) {
                for (tally, count) in tallies {
                    sum.add_tally(&tally, count);
                }
                sum.replica_counts.extend(counts);
            }
        }
        for sum in &mut sums {
            sum.replica_counts.sort();
        }
        Ok(sums)
    }
}

fn to_rollout_record((version, state): RolloutHashFields) -> Option<RolloutRecord> {
    version.zip(state).map(|(version, state)| RolloutRecord { version, state_json: state })
}
