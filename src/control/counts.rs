//! What this process saw of a route's requests in the present epoch, from the counters that the data plane keeps anyway: the hot
//! path does nothing for it.
//!
//! Cumulative within an epoch, so that what is sent twice counts once. Requests that are under way while an epoch begins
//! count in the one that they end in.

use serde::{Deserialize, Serialize};

use crate::metrics::{Fallback, Metrics, Path, PathTotals, ShadowOutcome, TaskOutcome};
use crate::rollout::evidence::{BUCKETS, Counts, Evidence, Took};
use crate::store::StoredEvidence;

/// A route's counters, from where an epoch began.
#[derive(Default)]
pub(super) struct Own {
    epoch: u64,
    base: Evidence,
}

/// As one process sends them to the store.
#[derive(Serialize, Deserialize)]
struct Sent {
    /// Sync: total, failed, client errors.
    sync: [u64; 3],
    sync_took: Vec<u64>,
    acknowledged: Vec<u64>,
    refused: u64,
    /// Of a replica that does not count them: none.
    #[serde(default)]
    rejected: u64,
    deferred: u64,
    unavailable: u64,
    /// Copies: queued, compared, answered otherwise.
    #[serde(default)]
    shadow: [u64; 3],
}

// === impl Own ===

impl Own {
    /// Begins to count in `epoch`, unless that has begun.
    pub(super) fn begin(&mut self, epoch: u64, route: &str, metrics: &Metrics) {
        if self.epoch != epoch {
            *self = Self { epoch, base: counted(route, metrics) };
        }
    }

    /// The epoch that is counted in, and what was counted so far, as text.
    pub(super) fn send(&self, route: &str, metrics: &Metrics) -> (u64, String) {
        let news = counted(route, metrics).since(&self.base);
        let Evidence { sync, acknowledged, refused, rejected, deferred, unavailable, .. } = news;
        let sent = Sent {
            sync: [sync.total, sync.failed, sync.client_errors],
            sync_took: write_took(&sync.took),
            acknowledged: write_took(&acknowledged),
            refused,
            rejected,
            deferred,
            unavailable,
            shadow: [news.copied, news.compared, news.mismatched],
        };
        (self.epoch, serde_json::to_string(&sent).unwrap_or_default())
    }
}

/// All that the process has counted since it began.
fn counted(route: &str, metrics: &Metrics) -> Evidence {
    let cells = metrics.requests.route(route);
    let PathTotals { answered, server_errors, client_errors, took } = cells.totals(Path::Sync);
    let unavailable = [Fallback::StoreUnavailable, Fallback::Unknown];
    let mismatched = metrics.shadows(route, ShadowOutcome::Mismatch);
    Evidence {
        sync: Counts { total: answered, failed: server_errors, client_errors, took },
        acknowledged: cells.totals(Path::Async).took,
        refused: metrics.outcomes(route, TaskOutcome::Refused),
        rejected: metrics.outcomes(route, TaskOutcome::Rejected),
        deferred: metrics.outcomes(route, TaskOutcome::Deferred),
        unavailable: unavailable.map(|reason| metrics.fallbacks(route, reason)).iter().sum(),
        copied: metrics.shadows(route, ShadowOutcome::Queued),
        compared: metrics.shadows(route, ShadowOutcome::Match) + mismatched,
        mismatched,
        ..Evidence::default()
    }
}

/// An epoch's evidence: what the store counted, and what the processes did. Counts that cannot be read (of another
/// release) are left out.
pub(super) fn evidence(stored: &StoredEvidence) -> Evidence {
    let mut sum = Evidence::default();
    for (process, text) in &stored.counts {
        match serde_json::from_str::<Sent>(text) {
            Ok(sent) => sum.add(&sent.into()),
            Err(error) => tracing::debug!(process, %error, "counts of a replica cannot be read"),
        }
    }
    let ended = Counts {
        total: stored.completed + stored.failed,
        failed: stored.failed,
        client_errors: stored.client_errors,
        took: stored.took,
    };
    sum.asynchronous.add(&ended);
    sum.accepted += stored.accepted;
    sum.cancelled += stored.cancelled;
    sum
}

/// Buckets as numbers, without the zeros at the end.
pub(super) fn write_took(took: &Took) -> Vec<u64> {
    let filled = took.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    took[..filled].to_vec()
}

/// The reverse of [`write_took`].
pub(super) fn read_took(numbers: &[u64]) -> Took {
    let mut took = [0; BUCKETS];
    for (bucket, count) in took.iter_mut().zip(numbers) {
        *bucket = *count;
    }
    took
}

// === impl Sent ===

impl From<Sent> for Evidence {
    fn from(sent: Sent) -> Self {
        let [total, failed, client_errors] = sent.sync;
        let (refused, rejected) = (sent.refused, sent.rejected);
        let [copied, compared, mismatched] = sent.shadow;
        let taskless =
            Counts { total: refused + rejected, failed: refused, client_errors: rejected, ..Counts::default() };
        Self {
            sync: Counts { total, failed, client_errors, took: read_took(&sent.sync_took) },
            asynchronous: taskless,
            acknowledged: read_took(&sent.acknowledged),
            refused,
            rejected,
            deferred: sent.deferred,
            unavailable: sent.unavailable,
            copied,
            compared,
            mismatched,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replicas_answered_themselves_has_ended_and_an_older_one_does_not_say() {
        let counts = |rejected: &str| {
            format!(
                r#"{{"sync":[9,1,2],"sync_took":[9],"acknowledged":[5],"refused":1{rejected},"deferred":4,"unavailable":0}}"#
            )
        };
        let counts =
            vec![("new".to_owned(), counts(r#","rejected":3,"shadow":[9,7,2]"#)), ("old".to_owned(), counts(""))];
        let stored =
            StoredEvidence { accepted: 10, completed: 6, client_errors: 1, counts, ..StoredEvidence::default() };
        let known = evidence(&stored);
        let Counts { total, failed, client_errors, .. } = known.asynchronous;
        assert_eq!((total, failed, client_errors), (11, 2, 4), "six tasks, two refused, three rejected");
        assert_eq!((known.canaried(), known.open()), (15, 4));
        assert_eq!((known.copied, known.compared, known.mismatched), (9, 7, 2), "copies are none of them");
    }
}
