//! What this process counted of a route's requests in the present epoch, from the counters that the
//! data plane keeps anyway: counting for rollouts costs a request nothing.
//!
//! Counts are cumulative within an epoch, so a report that is sent twice counts once. A request
//! that is under way while an epoch begins counts in the epoch that it ends in. Requests that the
//! sync path served while the store was unreachable count nowhere: the async path had no part in
//! them, and would seem to fail more often than its share of the requests.

use super::reported::ReportedCounts;
use crate::cohort_hash::RequestPath;
use crate::metrics::{FallbackReason, Metrics, PathTotals, ShadowOutcome, TaskOutcome};
use crate::rollout::assignments::AssignmentCounts;
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::fallbacks::FallbackCounts;

/// A route's counters, relative to the beginning of an epoch.
#[derive(Default)]
pub(crate) struct ProcessCounts {
    epoch: u64,
    /// What was counted before the epoch, and what is not to be counted.
    uncounted: RolloutEvidence,
    /// All counts at the last report.
    last_reported: RolloutEvidence,
}

// === impl ProcessCounts ===

impl ProcessCounts {
    /// Begins to count in `epoch`, unless that epoch has begun already.
    pub(crate) fn start_epoch(&mut self, epoch: u64, route: &str, metrics: &Metrics) {
        if self.epoch != epoch {
            let base = read_process_counts(route, metrics);
            *self = Self { epoch, uncounted: base, last_reported: base };
        }
    }

    /// The present epoch and its counts so far, as text for the store. To be called every second,
    /// with whether the store is unreachable now.
    pub(crate) fn report_counts(
        &mut self,
        route: &str,
        metrics: &Metrics,
        is_store_gone: bool,
    ) -> (u64, String) {
        let now = read_process_counts(route, metrics);
        let added = now.delta_since(&std::mem::replace(&mut self.last_reported, now));
        if is_store_gone || added.store_unavailable > 0 {
            let sync = RolloutEvidence {
                sync_counts: added.sync_counts,
                sync_requests_by_group: added.sync_requests_by_group,
                ..RolloutEvidence::default()
            };
            self.uncounted.add(&sync);
        }
        let since_epoch = now.delta_since(&self.uncounted);
        (self.epoch, ReportedCounts::from(since_epoch).to_json())
    }
}

/// All that the process has counted since it started.
fn read_process_counts(route: &str, metrics: &Metrics) -> RolloutEvidence {
    let counters = metrics.request_counters.route_counters(route);
    let path_counts = |path| {
        let PathTotals {
            responses,
            server_errors,
            client_errors,
            duration_counts,
            client_errors_by_group,
            server_errors_by_group,
            requests_by_group,
            random_assignments,
            mismatched_assignments,
        } = counters.path_totals(path);
        let counts = EvidenceCounts {
            total: responses,
            failed: server_errors,
            client_errors,
            durations: duration_counts,
            failed_by_group: server_errors_by_group,
            client_errors_by_group,
        };
        (counts, requests_by_group, (random_assignments, mismatched_assignments))
    };
    let (sync_counts, sync_requests_by_group, (sync_random, sync_mismatched)) =
        path_counts(RequestPath::Sync);
    let (async_counts, canaried_by_group, (async_random, async_mismatched)) =
        path_counts(RequestPath::Async);
    // of the async path, a process knows how long its clients waited, and which requests it
    // refused or rejected; the store counts how the tasks ended
    let EvidenceCounts {
        durations: acknowledgement_times,
        failed_by_group,
        client_errors_by_group,
        ..
    } = async_counts;
    let fallbacks = FallbackCounts::from_counts(|reason| metrics.read_fallbacks(route, reason));
    let unavailable = [FallbackReason::StoreUnavailable, FallbackReason::EnqueueUnknown];
    let mismatched = metrics.read_shadow_outcomes(route, ShadowOutcome::Mismatch);
    RolloutEvidence {
        sync_counts,
        async_counts: EvidenceCounts {
            failed_by_group,
            client_errors_by_group,
            ..EvidenceCounts::default()
        },
        acknowledgement_times,
        refused_requests: metrics.read_task_outcomes(route, TaskOutcome::Refused),
        rejected_requests: metrics.read_task_outcomes(route, TaskOutcome::Rejected),
        deferred_requests: metrics.read_task_outcomes(route, TaskOutcome::Deferred),
        store_unavailable: unavailable.map(|reason| fallbacks.count_for(reason)).iter().sum(),
        fallbacks,
        assignments: AssignmentCounts {
            async_random,
            sync_random,
            mismatched: sync_mismatched + async_mismatched,
        },
        shadow_copied: metrics.read_shadow_outcomes(route, ShadowOutcome::Queued),
        shadow_compared: metrics.read_shadow_outcomes(route, ShadowOutcome::Match) + mismatched,
        shadow_mismatched: mismatched,
        sync_requests_by_group,
        canaried_by_group,
        ..RolloutEvidence::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::counts::combine_evidence;
    use crate::store::StoredEvidence;

    #[test]
    fn requests_served_sync_while_the_store_is_unreachable_are_not_counted() {
        let metrics = Metrics::new(1);
        let counters = metrics.request_counters.route_counters("invoke");
        let mut counts = ProcessCounts::default();
        counts.start_epoch(1, "invoke", &metrics);
        let mut run_second = |requests: usize, unavailable: usize, is_store_gone| {
            (0..requests).for_each(|_| counters.count_response(0, RequestPath::Sync, 200));
            (0..unavailable)
                .for_each(|_| metrics.count_fallback("invoke", FallbackReason::StoreUnavailable));
            let (_, text) = counts.report_counts("invoke", &metrics, is_store_gone);
            let reported: ReportedCounts = serde_json::from_str(&text).expect("readable");
            (reported.sync[0], reported.unavailable)
        };
        assert_eq!(run_second(10, 0, false), (10, 0));
        assert_eq!(run_second(100, 4, false), (10, 4));
        assert_eq!(
            run_second(100, 0, true),
            (10, 4),
            "no canaried request found the store unreachable, but it was"
        );
        assert_eq!(run_second(5, 0, false), (15, 4));
    }

    #[test]
    fn fallbacks_are_reported_by_reason_from_the_start_of_the_epoch() {
        let metrics = Metrics::new(1);
        let mut counts = ProcessCounts::default();
        metrics.count_fallback("invoke", FallbackReason::Saturated);
        counts.start_epoch(1, "invoke", &metrics);
        for reason in FallbackReason::ALL {
            metrics.count_fallback("invoke", reason);
        }
        metrics.count_fallback("invoke", FallbackReason::Saturated);
        let (_, text) = counts.report_counts("invoke", &metrics, false);
        let replica_counts = vec![("a".to_owned(), text.clone()), ("b".to_owned(), text)];
        let stored = StoredEvidence { replica_counts, ..StoredEvidence::default() };
        let fallbacks = combine_evidence(&stored).fallbacks;
        for reason in FallbackReason::ALL {
            let expected = if reason == FallbackReason::Saturated { 4 } else { 2 };
            assert_eq!(fallbacks.count_for(reason), expected, "{reason:?}");
        }
    }

    #[test]
    fn assignments_are_reported_from_the_start_of_the_epoch() {
        let metrics = Metrics::new(2);
        let counters = metrics.request_counters.route_counters("invoke");
        let mut counts = ProcessCounts::default();
        let count_all = || {
            counters.count_random_assignment(0, RequestPath::Sync);
            counters.count_random_assignment(1, RequestPath::Sync);
            counters.count_random_assignment(1, RequestPath::Async);
            counters.count_mismatched_assignment(0, RequestPath::Sync);
            counters.count_mismatched_assignment(1, RequestPath::Async);
        };
        count_all();
        counts.start_epoch(1, "invoke", &metrics);
        count_all();
        let (_, text) = counts.report_counts("invoke", &metrics, false);
        let replica_counts = vec![("a".to_owned(), text)];
        let stored = StoredEvidence { replica_counts, ..StoredEvidence::default() };
        let expected = AssignmentCounts { async_random: 1, sync_random: 2, mismatched: 2 };
        assert_eq!(combine_evidence(&stored).assignments, expected);
    }

    #[test]
    fn errors_are_reported_by_group_of_clients_for_both_paths() {
        let metrics = Metrics::new(2);
        let counters = metrics.request_counters.route_counters("invoke");
        let mut process_counts = ProcessCounts::default();
        counters.count_error_by_group(0, RequestPath::Sync, 500, Some(9));
        process_counts.start_epoch(1, "invoke", &metrics);
        let errors = [
            (RequestPath::Sync, 500, Some(9)),
            (RequestPath::Sync, 500, None),
            (RequestPath::Sync, 401, Some(0)),
            (RequestPath::Async, 503, Some(31)),
        ];
        for (path, code, clients) in errors {
            (0..2).for_each(|thread| counters.count_error_by_group(thread, path, code, clients));
        }
        let (_, text) = process_counts.report_counts("invoke", &metrics, false);
        let replica_counts = vec![("a".to_owned(), text)];
        let mut stored = StoredEvidence { replica_counts, ..StoredEvidence::default() };
        stored.failed_by_group[31] = 1;
        let evidence = combine_evidence(&stored);
        let nonzero = |by: &[u64]| {
            by.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect::<Vec<_>>()
        };
        assert_eq!(nonzero(&evidence.sync_counts.failed_by_group), [(9, 2)]);
        assert_eq!(nonzero(&evidence.sync_counts.client_errors_by_group), [(0, 2)]);
        assert_eq!(
            nonzero(&evidence.async_counts.failed_by_group),
            [(31, 3)],
            "two refused requests and one failed task"
        );
        assert_eq!(nonzero(&evidence.async_counts.client_errors_by_group), []);
    }
}
