//! What this process saw of a route's requests in the present epoch, from the counters that the data plane keeps anyway: the hot
//! path does nothing for it.
//!
//! Cumulative within an epoch, so that what is sent twice counts once. Requests that are under way while an epoch begins
//! count in the one that they end in. What was served sync while the store was gone counts nowhere: the async path had no
//! part in it, and would seem to fail more often than its share of the requests.

use serde::{Deserialize, Serialize};

use crate::metrics::{Fallback, Metrics, Path, PathTotals, ShadowOutcome, TaskOutcome};
use crate::rollout::evidence::{Counts, Evidence};
use crate::store::StoredEvidence;

/// A route's counters, from where an epoch began.
#[derive(Default)]
pub(super) struct Own {
    epoch: u64,
    /// What was counted before, and what does not count.
    base: Evidence,
    /// All that was counted when it was last sent.
    last: Evidence,
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
    /// By group of clients: sync failures and client errors, refused and rejected.
    #[serde(default)]
    by: [Vec<u64>; 4],
    /// Copies: queued, compared, answered otherwise.
    #[serde(default)]
    shadow: [u64; 3],
}

// === impl Own ===

impl Own {
    /// Begins to count in `epoch`, unless that has begun.
    pub(super) fn begin(&mut self, epoch: u64, route: &str, metrics: &Metrics) {
        if self.epoch != epoch {
            let base = counted(route, metrics);
            *self = Self { epoch, base, last: base };
        }
    }

    /// The epoch that is counted in, and what was counted so far, as text. `is_gone` is whether the store is; to be called
    /// every second.
    pub(super) fn send(&mut self, route: &str, metrics: &Metrics, is_gone: bool) -> (u64, String) {
        let now = counted(route, metrics);
        let news = now.since(&std::mem::replace(&mut self.last, now));
        if is_gone || news.unavailable > 0 {
            self.base.sync.add(&news.sync);
        }
        let since = now.since(&self.base);
        let Evidence { sync, asynchronous, acknowledged, refused, rejected, deferred, unavailable, .. } = since;
        let by = [sync.failed_by, sync.client_errors_by, asynchronous.failed_by, asynchronous.client_errors_by];
        let sent = Sent {
            sync: [sync.total, sync.failed, sync.client_errors],
            sync_took: write_each(&sync.took),
            acknowledged: write_each(&acknowledged),
            refused,
            rejected,
            deferred,
            unavailable,
            by: by.map(|by| write_each(&by)),
            shadow: [since.copied, since.compared, since.mismatched],
        };
        (self.epoch, serde_json::to_string(&sent).unwrap_or_default())
    }
}

/// All that the process has counted since it began.
fn counted(route: &str, metrics: &Metrics) -> Evidence {
    let cells = metrics.requests.route(route);
    let counts = |path| {
        let PathTotals { answered, server_errors, client_errors, took, client_errors_by, server_errors_by } =
            cells.totals(path);
        Counts {
            total: answered,
            failed: server_errors,
            client_errors,
            took,
            failed_by: server_errors_by,
            client_errors_by,
        }
    };
    // of the async path, a process knows how long its clients waited, and who was turned away
    let Counts { took: acknowledged, failed_by, client_errors_by, .. } = counts(Path::Async);
    let unavailable = [Fallback::StoreUnavailable, Fallback::Unknown];
    let mismatched = metrics.shadows(route, ShadowOutcome::Mismatch);
    Evidence {
        sync: counts(Path::Sync),
        asynchronous: Counts { failed_by, client_errors_by, ..Counts::default() },
        acknowledged,
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
        failed_by: stored.failed_by,
        client_errors_by: stored.client_errors_by,
    };
    sum.asynchronous.add(&ended);
    sum.accepted += stored.accepted;
    sum.cancelled += stored.cancelled;
    sum
}

/// Counts without the zeros at the end.
pub(super) fn write_each(counts: &[u64]) -> Vec<u64> {
    let filled = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    counts[..filled].to_vec()
}

/// The reverse of [`write_each`].
pub(super) fn read_each<const N: usize>(numbers: &[u64]) -> [u64; N] {
    std::array::from_fn(|at| numbers.get(at).copied().unwrap_or_default())
}

// === impl Sent ===

impl From<Sent> for Evidence {
    fn from(sent: Sent) -> Self {
        let [total, failed, client_errors] = sent.sync;
        let (refused, rejected) = (sent.refused, sent.rejected);
        let [copied, compared, mismatched] = sent.shadow;
        let [failed_by, client_errors_by, refused_by, rejected_by] = sent.by.map(|by| read_each(&by));
        let taskless = Counts {
            total: refused + rejected,
            failed: refused,
            client_errors: rejected,
            failed_by: refused_by,
            client_errors_by: rejected_by,
            ..Counts::default()
        };
        let took = read_each(&sent.sync_took);
        Self {
            sync: Counts { total, failed, client_errors, took, failed_by, client_errors_by },
            asynchronous: taskless,
            acknowledged: read_each(&sent.acknowledged),
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
    fn what_was_served_sync_while_the_store_was_gone_counts_nowhere() {
        let metrics = Metrics::new(1);
        let mut own = Own::default();
        own.begin(1, "invoke", &metrics);
        let mut second = |requests: usize, unavailable: usize, is_gone| {
            (0..requests).for_each(|_| metrics.requests.route("invoke").answered(0, Path::Sync, 200));
            (0..unavailable).for_each(|_| metrics.fell_back("invoke", Fallback::StoreUnavailable));
            let sent: Sent = serde_json::from_str(&own.send("invoke", &metrics, is_gone).1).expect("readable");
            (sent.sync[0], sent.unavailable)
        };
        assert_eq!(second(10, 0, false), (10, 0));
        assert_eq!(second(100, 4, false), (10, 4));
        assert_eq!(second(100, 0, true), (10, 4), "no canaried request came by, and it was gone all the same");
        assert_eq!(second(5, 0, false), (15, 4));
    }

    #[test]
    fn whose_failures_they_are_is_told_of_both_paths() {
        let metrics = Metrics::new(2);
        let cells = metrics.requests.route("invoke");
        let mut own = Own::default();
        cells.blame(0, Path::Sync, 500, Some(9));
        own.begin(1, "invoke", &metrics);
        let both = [
            (Path::Sync, 500, Some(9)),
            (Path::Sync, 500, None),
            (Path::Sync, 401, Some(0)),
            (Path::Async, 503, Some(31)),
        ];
        for (path, code, clients) in both {
            (0..2).for_each(|thread| cells.blame(thread, path, code, clients));
        }
        let counts = vec![("a".to_owned(), own.send("invoke", &metrics, false).1)];
        let mut stored = StoredEvidence { counts, ..StoredEvidence::default() };
        stored.failed_by[31] = 1;
        let known = evidence(&stored);
        let of = |by: &[u64]| by.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        assert_eq!(of(&known.sync.failed_by), [(9, 2)]);
        assert_eq!(of(&known.sync.client_errors_by), [(0, 2)]);
        assert_eq!(of(&known.asynchronous.failed_by), [(31, 3)], "refused, and failed as a task");
        assert_eq!(of(&known.asynchronous.client_errors_by), []);
    }

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
