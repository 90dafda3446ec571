//! Rollouts: their state and history, who is there and who leads, what was counted, who still calls.
//!
//! All of it is in the first partition but the tallies, which are where their tasks are and are summed when they are
//! read. The lead is a key that expires; the term is raised whenever somebody takes it and stays.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use redis::Value;
use redis::streams::StreamRangeReply;

use super::checks::ahead;
use super::partition::Partition;
use super::read::is_entry;
use super::script::{CALLERS, EVIDENCE, MEET, NOTE_CALLERS, RESIGN, SAVE_ROLLOUT};
use super::{RedisStore, millis, now};
use crate::store::list::no_cursor;
use crate::store::rollout::{self, Caller, Change, HistoryEntry, Meeting, Presence, StoredEvidence, lead_time};
use crate::store::{RolloutRecord, StoreError};
use crate::task::UnixMs;

/// A rollout's version and state.
type Stored = (Option<u64>, Option<String>);

/// A term, a leader, replicas, rollouts, and the server's time in ms.
type Met = (Option<u64>, Option<String>, Vec<(String, String)>, Vec<Stored>, u64);

impl Partition {
    pub(super) async fn read_rollout(&self, route: &str) -> Result<Option<RolloutRecord>, StoreError> {
        let mut get = redis::cmd("HMGET");
        get.arg(self.keys.rollout(route)).arg("version").arg("state");
        Ok(record(self.link.call(&get).await?))
    }

    pub(super) async fn write_rollout(
        &self,
        route: &str,
        record: &RolloutRecord,
        change: &Change,
    ) -> Result<bool, StoreError> {
        SAVE_ROLLOUT
            .keys(&[self.keys.rollout(route), self.keys.history(route), self.keys.lead(), self.keys.term()])
            .arg(record.version)
            .arg(&record.state)
            .arg(change.term.map(|term| term.to_string()).unwrap_or_default())
            .arg(rollout::HISTORY)
            .arg(&change.events)
            .run(&self.link)
            .await
    }

    pub(super) async fn meet_others(&self, presence: &Presence, routes: &[String]) -> Result<Meeting, StoreError> {
        let Presence { process, about, candidate, counts } = presence;
        let mut all = vec![self.keys.replica(process), self.keys.replicas(), self.keys.lead(), self.keys.term()];
        all.extend(routes.iter().map(|route| self.keys.rollout(route)));
        all.extend(counts.iter().map(|(route, epoch, _)| self.keys.counts(route, *epoch)));
        let call = MEET
            .keys(&all)
            .arg(&[process, about])
            .arg(*candidate)
            .arg(millis(lead_time()))
            .arg(rollout::EVIDENCE_KEPT.as_secs())
            .arg(self.keys.replica_prefix())
            .arg(routes.len())
            .arg(counts.iter().map(|(_, _, counted)| counted).collect::<Vec<_>>());
        let sent = now();
        let (term, leader, mut replicas, records, told): Met = call.run(&self.link).await?;
        let ahead = ahead(UnixMs(told), sent, now());
        replicas.sort();
        Ok(Meeting { term, leader, replicas, records: records.into_iter().map(record).collect(), ahead })
    }

    pub(super) async fn leave_meeting(&self, process: &str) -> Result<(), StoreError> {
        let call = RESIGN.keys(&[self.keys.replica(process), self.keys.replicas(), self.keys.lead()]);
        call.arg(process).run::<Value>(&self.link).await.map(|_| ())
    }

    pub(super) async fn read_history(
        &self,
        route: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        let from = match before {
            None => "+".to_owned(),
            Some(before) if is_entry(before) => format!("({before}"),
            Some(_) => return Err(no_cursor("before")),
        };
        let mut range = redis::cmd("XREVRANGE");
        range.arg(self.keys.history(route)).arg(from).arg("-").arg("COUNT").arg(limit);
        let reply: StreamRangeReply = self.link.call(&range).await?;
        let entry = |entry: redis::streams::StreamId| {
            let event = entry.get("event").unwrap_or_default();
            HistoryEntry { cursor: entry.id, event }
        };
        Ok(reply.ids.into_iter().map(entry).collect())
    }

    /// Adds what this partition knows of epochs.
    async fn read_evidence(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<(HashMap<String, u64>, HashMap<String, String>)>, StoreError> {
        let all: Vec<String> =
            epochs.iter().flat_map(|epoch| [self.keys.tally(route, *epoch), self.keys.counts(route, *epoch)]).collect();
        EVIDENCE.keys(&all).arg(rollout::EVIDENCE_KEPT.as_secs()).run(&self.link).await
    }

    pub(super) async fn add_callers(&self, route: &str, calls: &[Caller]) -> Result<(), StoreError> {
        if calls.is_empty() {
            return Ok(());
        }
        let mut call = NOTE_CALLERS
            .keys(&[self.keys.callers(route), self.keys.called(route)])
            .arg(millis(rollout::CALLER_KEPT))
            .arg(rollout::CALLERS)
            .arg(rollout::OTHERS);
        for Caller { who, count, last } in calls {
            call = call.arg(who).arg(*count).arg(last.0);
        }
        call.run::<Value>(&self.link).await.map(|_| ())
    }

    pub(super) async fn read_callers(&self, route: &str) -> Result<Vec<Caller>, StoreError> {
        let (last, counts): (Vec<(String, u64)>, HashMap<String, u64>) = CALLERS
            .keys(&[self.keys.callers(route), self.keys.called(route)])
            .arg(millis(rollout::CALLER_KEPT))
            .run(&self.link)
            .await?;
        let caller = |(who, last): (String, u64)| {
            let count = counts.get(&who).copied().unwrap_or_default();
            Caller { who, count, last: UnixMs(last) }
        };
        Ok(last.into_iter().map(caller).collect())
    }
}

impl RedisStore {
    /// The sums over all partitions.
    pub(super) async fn evidence_everywhere(
        &self,
        route: &str,
        epochs: &[u64],
    ) -> Result<Vec<StoredEvidence>, StoreError> {
        let mut sums = vec![StoredEvidence::default(); epochs.len()];
        if epochs.is_empty() {
            return Ok(sums);
        }
        for known in
            try_join_all(self.partitions.iter().map(|partition| partition.read_evidence(route, epochs))).await?
        {
            for (sum, (tallies, counts)) in sums.iter_mut().zip(known) {
                for (tally, count) in tallies {
                    sum.add(&tally, count);
                }
                sum.counts.extend(counts);
            }
        }
        for sum in &mut sums {
            sum.counts.sort();
        }
        Ok(sums)
    }
}

fn record((version, state): Stored) -> Option<RolloutRecord> {
    version.zip(state).map(|(version, state)| RolloutRecord { version, state })
}
