//! Evidence in the stored form: arrays of counts without their trailing zeros.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control::counts::{
    assignments_from_array, assignments_to_array, pad_with_zeros, trim_trailing_zeros,
};
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::fallbacks::FallbackCounts;

/// Counts of one path: total, failed and client errors followed by the duration buckets; failed by
/// group of clients; client errors by group of clients.
pub(super) type StoredCounts = [Vec<u64>; 3];

/// The evidence of an epoch as of the last evaluation.
#[derive(Serialize, Deserialize)]
pub(super) struct SeenEvidenceRecord {
    sync: StoredCounts,
    asynchronous: StoredCounts,
    acknowledged: Vec<u64>,
    /// Accepted, cancelled, refused, deferred, unavailable.
    rest: [u64; 5],
    #[serde(default)]
    rejected: u64,
    /// Copied, compared, mismatched.
    #[serde(default)]
    shadow: [u64; 3],
    /// By group of clients: sync requests, canaried requests.
    #[serde(default, skip_serializing_if = "has_no_groups")]
    requests_by: [Vec<u64>; 2],
    /// Assigned at random: async, sync; mismatched.
    #[serde(default, skip_serializing_if = "is_all_zero")]
    assigned: [u64; 3],
    /// By reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    fallbacks: BTreeMap<String, u64>,
}

fn has_no_groups(requests_by: &[Vec<u64>; 2]) -> bool {
    requests_by.iter().all(Vec::is_empty)
}

fn is_all_zero(assigned: &[u64; 3]) -> bool {
    *assigned == [0; 3]
}

pub(super) fn counts_to_stored(counts: &EvidenceCounts) -> StoredCounts {
    let mut numbers = vec![counts.total, counts.failed, counts.client_errors];
    numbers.extend(trim_trailing_zeros(&counts.durations));
    [
        numbers,
        trim_trailing_zeros(&counts.failed_by_group),
        trim_trailing_zeros(&counts.client_errors_by_group),
    ]
}

pub(super) fn counts_from_stored(stored: &StoredCounts) -> EvidenceCounts {
    let [numbers, failed_by_group, client_errors_by_group] = stored;
    let at = |index: usize| numbers.get(index).copied().unwrap_or_default();
    EvidenceCounts {
        total: at(0),
        failed: at(1),
        client_errors: at(2),
        durations: pad_with_zeros(numbers.get(3..).unwrap_or_default()),
        failed_by_group: pad_with_zeros(failed_by_group),
        client_errors_by_group: pad_with_zeros(client_errors_by_group),
    }
}

// === impl SeenEvidenceRecord ===

impl From<&RolloutEvidence> for SeenEvidenceRecord {
    fn from(evidence: &RolloutEvidence) -> Self {
        // a field that is added to the evidence must be added here
        let RolloutEvidence {
            sync_counts,
            async_counts,
            accepted_tasks,
            cancelled_tasks,
            refused_requests,
            rejected_requests,
            deferred_requests,
            acknowledgement_times,
            store_unavailable,
            fallbacks,
            assignments,
            shadow_copied,
            shadow_compared,
            shadow_mismatched,
            sync_requests_by_group,
            canaried_by_group,
        } = *evidence;
        Self {
            sync: counts_to_stored(&sync_counts),
            asynchronous: counts_to_stored(&async_counts),
            acknowledged: trim_trailing_zeros(&acknowledgement_times),
            rest: [
                accepted_tasks,
                cancelled_tasks,
                refused_requests,
                deferred_requests,
                store_unavailable,
            ],
            rejected: rejected_requests,
            shadow: [shadow_copied, shadow_compared, shadow_mismatched],
            requests_by: [sync_requests_by_group, canaried_by_group]
                .map(|counts| trim_trailing_zeros(&counts)),
            assigned: assignments_to_array(assignments),
            fallbacks: fallbacks.to_words(),
        }
    }
}

impl From<SeenEvidenceRecord> for RolloutEvidence {
    fn from(stored: SeenEvidenceRecord) -> Self {
        let [accepted, cancelled, refused, deferred, unavailable] = stored.rest;
        let [copied, compared, mismatched] = stored.shadow;
        let [sync_requests_by_group, canaried_by_group] =
            stored.requests_by.map(|counts| pad_with_zeros(&counts));
        Self {
            sync_counts: counts_from_stored(&stored.sync),
            async_counts: counts_from_stored(&stored.asynchronous),
            accepted_tasks: accepted,
            cancelled_tasks: cancelled,
            refused_requests: refused,
            rejected_requests: stored.rejected,
            deferred_requests: deferred,
            acknowledgement_times: pad_with_zeros(&stored.acknowledged),
            store_unavailable: unavailable,
            assignments: assignments_from_array(stored.assigned),
            fallbacks: FallbackCounts::from_words(&stored.fallbacks),
            shadow_copied: copied,
            shadow_compared: compared,
            shadow_mismatched: mismatched,
            sync_requests_by_group,
            canaried_by_group,
        }
    }
}
