//! What this process saw of a route's requests in the present epoch, from the counters that the
//! data plane keeps anyway: the hot path does nothing for it.
//!
//! Cumulative within an epoch, so that what is sent twice counts once. Requests that are under way
//! while an epoch begins count in the one that they end in. What was served sync while the store
//! was gone counts nowhere: the async path had no part in it, and would seem to fail more often
//! than its share of the requests.

use serde::{Deserialize, Serialize};

use crate::cohort::RequestPath;
use crate::metrics::{FallbackReason, Metrics, PathTotals, ShadowOutcome, TaskOutcome};
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::store::StoredEvidence;

/// A route's counters, from where an epoch began.
#[derive(Default)]
pub(super) struct ProcessCounts {
    epoch: u64,
    /// What was counted before, and what does not count.
    uncounted: RolloutEvidence,
    /// All that was counted when it was last sent.
    last_reported: RolloutEvidence,
}

/// As one process sends them to the store.
#[derive(Serialize, Deserialize)]
struct ReportedCounts {
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

impl ProcessCounts {
    /// Begins to count in `epoch`, unless that has begun.
    pub(super) fn start_epoch(&mut self, epoch: u64, route: &str, metrics: &Metrics) {
        if self.epoch != epoch {
            let base = read_process_counts(route, metrics);
            *self = Self { epoch, uncounted: base, last_reported: base };
        }
    }

    /// The epoch that is counted in, and what was counted so far, as text. `is_gone` is whether the
    /// store is; to be called every second.
    pub(super) fn report_counts(
        &mut self,
        route: &str,
        metrics: &Metrics,
        is_gone: bool,
    ) -> (u64, String) {
        let now = read_process_counts(route, metrics);
        let news = now.delta_since(&std::mem::replace(&mut self.last_reported, now));
        if is_gone || news.store_unavailable > 0 {
            self.uncounted.sync_counts.add(&news.sync_counts);
        }
        let since = now.delta_since(&self.uncounted);
        let RolloutEvidence {
            sync_counts: sync,
            async_counts: asynchronous,
            acknowledgement_times: acknowledged,
            refused_requests: refused,
            rejected_requests: rejected,
            deferred_requests: deferred,
            store_unavailable: unavailable,
            ..
        } = since;
        let by = [
            sync.failed_by_group,
            sync.client_errors_by_group,
            asynchronous.failed_by_group,
            asynchronous.client_errors_by_group,
        ];
        let sent = ReportedCounts {
            sync: [sync.total, sync.failed, sync.client_errors],
            sync_took: trim_trailing_zeros(&sync.durations),
            acknowledged: trim_trailing_zeros(&acknowledged),
            refused,
            rejected,
            deferred,
            unavailable,
            by: by.map(|by| trim_trailing_zeros(&by)),
            shadow: [since.shadow_copied, since.shadow_compared, since.shadow_mismatched],
        };
        (self.epoch, serde_json::to_string(&sent).unwrap_or_default())
    }
}

/// All that the process has counted since it began.
fn read_process_counts(route: &str, metrics: &Metrics) -> RolloutEvidence {
    let cells = metrics.request_counters.route_counters(route);
    let counts = |path| {
        let PathTotals {
            responses: answered,
            server_errors,
            client_errors,
            duration_counts: took,
            client_errors_by_group: client_errors_by,
            server_errors_by_group: server_errors_by,
        } = cells.path_totals(path);
        EvidenceCounts {
            total: answered,
            failed: server_errors,
            client_errors,
            durations: took,
            failed_by_group: server_errors_by,
            client_errors_by_group: client_errors_by,
        }
    };
    // of the async path, a process knows how long its clients waited, and who was turned away
    let EvidenceCounts {
        durations: acknowledged,
        failed_by_group: failed_by,
        client_errors_by_group: client_errors_by,
        ..
    } = counts(RequestPath::Async);
    let unavailable = [FallbackReason::StoreUnavailable, FallbackReason::EnqueueUnknown];
    let mismatched = metrics.read_shadow_outcomes(route, ShadowOutcome::Mismatch);
    RolloutEvidence {
        sync_counts: counts(RequestPath::Sync),
        async_counts: EvidenceCounts {
            failed_by_group: failed_by,
            client_errors_by_group: client_errors_by,
            ..EvidenceCounts::default()
        },
        acknowledgement_times: acknowledged,
        refused_requests: metrics.read_task_outcomes(route, TaskOutcome::Refused),
        rejected_requests: metrics.read_task_outcomes(route, TaskOutcome::Rejected),
        deferred_requests: metrics.read_task_outcomes(route, TaskOutcome::Deferred),
        store_unavailable: unavailable
            .map(|reason| metrics.read_fallbacks(route, reason))
            .iter()
            .sum(),
        shadow_copied: metrics.read_shadow_outcomes(route, ShadowOutcome::Queued),
        shadow_compared: metrics.read_shadow_outcomes(route, ShadowOutcome::Match) + mismatched,
        shadow_mismatched: mismatched,
        ..RolloutEvidence::default()
    }
}

/// An epoch's evidence: what the store counted, and what the processes did. Counts that cannot be
/// read (of another release) are left out.
pub(super) fn combine_evidence(stored: &StoredEvidence) -> RolloutEvidence {
    let mut sum = RolloutEvidence::default();
    for (process, text) in &stored.replica_counts {
        match serde_json::from_str::<ReportedCounts>(text) {
            Ok(sent) => sum.add(&sent.into()),
            Err(error) => tracing::debug!(process, %error, "counts of a replica cannot be read"),
        }
    }
    let ended = EvidenceCounts {
        total: stored.completed + stored.failed,
        failed: stored.failed,
        client_errors: stored.client_errors,
        durations: stored.latency_buckets,
        failed_by_group: stored.failed_by_group,
        client_errors_by_group: stored.client_errors_by_group,
    };
    sum.async_counts.add(&ended);
    sum.accepted_tasks += stored.accepted;
    sum.cancelled_tasks += stored.cancelled;
    sum
}

/// Counts without the zeros at the end.
pub(super) fn trim_trailing_zeros(counts: &[u64]) -> Vec<u64> {
    let filled = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    counts[..filled].to_vec()
}

/// The reverse of [`trim_trailing_zeros`].
pub(super) fn pad_with_zeros<const N: usize>(numbers: &[u64]) -> [u64; N] {
    std::array::from_fn(|at| numbers.get(at).copied().unwrap_or_default())
}

// === impl Sent ===

impl From<ReportedCounts> for RolloutEvidence {
    fn from(sent: ReportedCounts) -> Self {
        let [total, failed, client_errors] = sent.sync;
        let (refused, rejected) = (sent.refused, sent.rejected);
        let [copied, compared, mismatched] = sent.shadow;
        let [failed_by, client_errors_by, refused_by, rejected_by] =
            sent.by.map(|by| pad_with_zeros(&by));
        let taskless = EvidenceCounts {
            total: refused + rejected,
            failed: refused,
            client_errors: rejected,
            failed_by_group: refused_by,
            client_errors_by_group: rejected_by,
            ..EvidenceCounts::default()
        };
        let took = pad_with_zeros(&sent.sync_took);
        Self {
            sync_counts: EvidenceCounts {
                total,
                failed,
                client_errors,
                durations: took,
                failed_by_group: failed_by,
                client_errors_by_group: client_errors_by,
            },
            async_counts: taskless,
            acknowledgement_times: pad_with_zeros(&sent.acknowledged),
            refused_requests: refused,
            rejected_requests: rejected,
            deferred_requests: sent.deferred,
            store_unavailable: sent.unavailable,
            shadow_copied: copied,
            shadow_compared: compared,
            shadow_mismatched: mismatched,
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
        let mut own = ProcessCounts::default();
        own.start_epoch(1, "invoke", &metrics);
        let mut second = |requests: usize, unavailable: usize, is_gone| {
            (0..requests).for_each(|_| {
                metrics.request_counters.route_counters("invoke").count_response(
                    0,
                    RequestPath::Sync,
                    200,
                );
            });
            (0..unavailable)
                .for_each(|_| metrics.count_fallback("invoke", FallbackReason::StoreUnavailable));
            let sent: ReportedCounts =
                serde_json::from_str(&own.report_counts("invoke", &metrics, is_gone).1)
                    .expect("readable");
            (sent.sync[0], sent.unavailable)
        };
        assert_eq!(second(10, 0, false), (10, 0));
        assert_eq!(second(100, 4, false), (10, 4));
        assert_eq!(
            second(100, 0, true),
            (10, 4),
            "no canaried request came by, and it was gone all the same"
        );
        assert_eq!(second(5, 0, false), (15, 4));
    }

    #[test]
    fn whose_failures_they_are_is_told_of_both_paths() {
        let metrics = Metrics::new(2);
        let cells = metrics.request_counters.route_counters("invoke");
        let mut own = ProcessCounts::default();
        cells.count_error_by_group(0, RequestPath::Sync, 500, Some(9));
        own.start_epoch(1, "invoke", &metrics);
        let both = [
            (RequestPath::Sync, 500, Some(9)),
            (RequestPath::Sync, 500, None),
            (RequestPath::Sync, 401, Some(0)),
            (RequestPath::Async, 503, Some(31)),
        ];
        for (path, code, clients) in both {
            (0..2).for_each(|thread| cells.count_error_by_group(thread, path, code, clients));
        }
        let counts = vec![("a".to_owned(), own.report_counts("invoke", &metrics, false).1)];
        let mut stored = StoredEvidence { replica_counts: counts, ..StoredEvidence::default() };
        stored.failed_by_group[31] = 1;
        let known = combine_evidence(&stored);
        let of = |by: &[u64]| {
            by.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect::<Vec<_>>()
        };
        assert_eq!(of(&known.sync_counts.failed_by_group), [(9, 2)]);
        assert_eq!(of(&known.sync_counts.client_errors_by_group), [(0, 2)]);
        assert_eq!(
            of(&known.async_counts.failed_by_group),
            [(31, 3)],
            "refused, and failed as a task"
        );
        assert_eq!(of(&known.async_counts.client_errors_by_group), []);
    }

    #[test]
    fn what_replicas_answered_themselves_has_ended_and_an_older_one_does_not_say() {
        let counts = |rejected: &str| {
            format!(
                r#"{{"sync":[9,1,2],"sync_took":[9],"acknowledged":[5],"refused":1{rejected},"deferred":4,"unavailable":0}}"#
            )
        };
        let counts = vec![
            ("new".to_owned(), counts(r#","rejected":3,"shadow":[9,7,2]"#)),
            ("old".to_owned(), counts("")),
        ];
        let stored = StoredEvidence {
            accepted: 10,
            completed: 6,
            client_errors: 1,
            replica_counts: counts,
            ..StoredEvidence::default()
        };
        let known = combine_evidence(&stored);
        let EvidenceCounts { total, failed, client_errors, .. } = known.async_counts;
        assert_eq!(
            (total, failed, client_errors),
            (11, 2, 4),
            "six tasks, two refused, three rejected"
        );
        assert_eq!((known.canaried_requests(), known.open_tasks()), (15, 4));
        assert_eq!(
            (known.shadow_copied, known.shadow_compared, known.shadow_mismatched),
            (9, 7, 2),
            "copies are none of them"
        );
    }
}
