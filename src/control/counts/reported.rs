//! The counts that a replica reports for one route and epoch, as JSON, and the evidence of an epoch
//! that the store's counts and those of all replicas add up to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rollout::assignments::AssignmentCounts;
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::fallbacks::FallbackCounts;
use crate::store::StoredEvidence;

/// The counts of one process in one epoch. Trailing zeros of the arrays are left out.
#[derive(Serialize, Deserialize)]
pub(crate) struct ReportedCounts {
    /// Sync path: total, failed, client errors.
    pub(crate) sync: [u64; 3],
    /// Sync path: requests by duration bucket.
    sync_took: Vec<u64>,
    /// Async path: requests by duration bucket of their response, which may be 202.
    acknowledged: Vec<u64>,
    refused: u64,
    /// Absent in reports of builds that do not count it.
    #[serde(default)]
    rejected: u64,
    deferred: u64,
    pub(crate) unavailable: u64,
    /// By group of clients: sync failures, sync client errors, refused, rejected.
    #[serde(default)]
    by: [Vec<u64>; 4],
    /// Shadow copies: queued, compared, mismatched.
    #[serde(default)]
    shadow: [u64; 3],
    /// By group of clients: sync requests, canaried requests.
    #[serde(default)]
    requests_by: [Vec<u64>; 2],
    /// Assigned at random: async, sync; mismatched.
    #[serde(default)]
    assigned: [u64; 3],
    /// Fallbacks by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    fallbacks: BTreeMap<String, u64>,
}

// === impl ReportedCounts ===

impl ReportedCounts {
    /// The counts as text, for the store.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<RolloutEvidence> for ReportedCounts {
    /// Only what a process counts itself: the store counts the ends of tasks.
    fn from(counted: RolloutEvidence) -> Self {
        let (sync, async_counts) = (counted.sync_counts, counted.async_counts);
        let by = [
            sync.failed_by_group,
            sync.client_errors_by_group,
            async_counts.failed_by_group,
            async_counts.client_errors_by_group,
        ];
        Self {
            sync: [sync.total, sync.failed, sync.client_errors],
            sync_took: trim_trailing_zeros(&sync.durations),
            acknowledged: trim_trailing_zeros(&counted.acknowledgement_times),
            refused: counted.refused_requests,
            rejected: counted.rejected_requests,
            deferred: counted.deferred_requests,
            unavailable: counted.store_unavailable,
            by: by.map(|counts| trim_trailing_zeros(&counts)),
            shadow: [counted.shadow_copied, counted.shadow_compared, counted.shadow_mismatched],
            requests_by: [counted.sync_requests_by_group, counted.canaried_by_group]
                .map(|counts| trim_trailing_zeros(&counts)),
            assigned: assignments_to_array(counted.assignments),
            fallbacks: counted.fallbacks.to_words(),
        }
    }
}

impl From<ReportedCounts> for RolloutEvidence {
    fn from(reported: ReportedCounts) -> Self {
        let [total, failed, client_errors] = reported.sync;
        let (refused, rejected) = (reported.refused, reported.rejected);
        let [shadow_copied, shadow_compared, shadow_mismatched] = reported.shadow;
        let [failed_by_group, client_errors_by_group, refused_by_group, rejected_by_group] =
            reported.by.map(|counts| pad_with_zeros(&counts));
        let [sync_requests_by_group, canaried_by_group] =
            reported.requests_by.map(|counts| pad_with_zeros(&counts));
        let sync_counts = EvidenceCounts {
            total,
            failed,
            client_errors,
            durations: pad_with_zeros(&reported.sync_took),
            failed_by_group,
            client_errors_by_group,
        };
        // requests of the async path that ended without a task
        let async_counts = EvidenceCounts {
            total: refused + rejected,
            failed: refused,
            client_errors: rejected,
            failed_by_group: refused_by_group,
            client_errors_by_group: rejected_by_group,
            ..EvidenceCounts::default()
        };
        Self {
            sync_counts,
            async_counts,
            acknowledgement_times: pad_with_zeros(&reported.acknowledged),
            refused_requests: refused,
            rejected_requests: rejected,
            deferred_requests: reported.deferred,
            store_unavailable: reported.unavailable,
            shadow_copied,
            shadow_compared,
            shadow_mismatched,
            sync_requests_by_group,
            canaried_by_group,
            assignments: assignments_from_array(reported.assigned),
            fallbacks: FallbackCounts::from_words(&reported.fallbacks),
            ..Self::default()
        }
    }
}

/// The evidence of an epoch: the ends that the store counted, and what the replicas reported.
/// Reports that cannot be read (of another build) are left out.
pub(crate) fn combine_evidence(stored: &StoredEvidence) -> RolloutEvidence {
    let mut sum = RolloutEvidence::default();
    for (process, text) in &stored.replica_counts {
        match serde_json::from_str::<ReportedCounts>(text) {
            Ok(reported) => sum.add(&reported.into()),
            Err(error) => tracing::debug!(process, %error, "counts of a replica cannot be read"),
        }
    }
    let ended_tasks = EvidenceCounts {
        total: stored.completed + stored.failed,
        failed: stored.failed,
        client_errors: stored.client_errors,
        durations: stored.latency_buckets,
        failed_by_group: stored.failed_by_group,
        client_errors_by_group: stored.client_errors_by_group,
    };
    sum.async_counts.add(&ended_tasks);
    sum.accepted_tasks += stored.accepted;
    sum.cancelled_tasks += stored.cancelled;
    sum
}

/// Assignments as stored and reported: at random async, at random sync, mismatched.
pub(crate) fn assignments_to_array(assignments: AssignmentCounts) -> [u64; 3] {
    let AssignmentCounts { async_random, sync_random, mismatched } = assignments;
    [async_random, sync_random, mismatched]
}

/// The reverse of [`assignments_to_array`].
pub(crate) fn assignments_from_array(stored: [u64; 3]) -> AssignmentCounts {
    let [async_random, sync_random, mismatched] = stored;
    AssignmentCounts { async_random, sync_random, mismatched }
}

/// Counts without the zeros at their end.
pub(crate) fn trim_trailing_zeros(counts: &[u64]) -> Vec<u64> {
    let length = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    counts[..length].to_vec()
}

/// The reverse of [`trim_trailing_zeros`].
pub(crate) fn pad_with_zeros<const N: usize>(numbers: &[u64]) -> [u64; N] {
    std::array::from_fn(|index| numbers.get(index).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_requests_count_as_ended_and_a_report_of_an_earlier_build_has_none() {
        let report = |newer_fields: &str| {
            let fields = r#""sync":[9,1,2],"sync_took":[9],"acknowledged":[5],"refused":1"#;
            format!(r#"{{{fields}{newer_fields},"deferred":4,"unavailable":0}}"#)
        };
        let counts = vec![
            ("new".to_owned(), report(r#","rejected":3,"shadow":[9,7,2]"#)),
            ("old".to_owned(), report("")),
        ];
        let stored = StoredEvidence {
            accepted: 10,
            completed: 6,
            client_errors: 1,
            replica_counts: counts,
            ..StoredEvidence::default()
        };
        let evidence = combine_evidence(&stored);
        let EvidenceCounts { total, failed, client_errors, .. } = evidence.async_counts;
        assert_eq!(
            (total, failed, client_errors),
            (11, 2, 4),
            "six tasks, two refused, three rejected"
        );
        assert_eq!((evidence.canaried_requests(), evidence.open_tasks()), (15, 4));
        assert_eq!(
            (evidence.shadow_copied, evidence.shadow_compared, evidence.shadow_mismatched),
            (9, 7, 2),
            "shadow copies are not among the requests"
        );
    }
}
