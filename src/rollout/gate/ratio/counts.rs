//! What a ratio gate counts of the evidence.

use std::time::Duration;

use crate::config::{GateKind, LatencyMeasure};
use crate::rollout::evidence::{
    ClientGroupCounts, EvidenceCounts, RolloutEvidence, count_slower_than, estimate_clients,
};
use crate::rollout::gate::client_basis::ClientBasis;
use crate::rollout::statistics::count_as_float;
use crate::task::DurationCounts;

/// What a ratio gate counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RatioCounts {
    /// Bad async requests.
    pub(super) async_bad: u64,
    /// Async requests with an outcome.
    pub(super) async_ended: u64,
    /// Async requests that have an outcome or may still get one.
    pub(super) async_expected: u64,
    /// Bad async requests that do not count, since one or two clients have them alone
    /// ([`ClientBasis`]).
    pub(super) async_uncounted: u64,
    /// The sync path: bad requests, of how many.
    pub(super) sync_bad_of_total: (u64, u64),
}

/// Clients whose failures one evaluation has counted, by path, so that a client that fails again
/// and again counts as one failure.
#[derive(Default)]
pub(super) struct CountedClients {
    pub(super) async_clients: ClientGroupCounts,
    pub(super) sync_clients: ClientGroupCounts,
}

// === impl RatioCounts ===

impl RatioCounts {
    pub(super) fn from_evidence(kind: &GateKind, evidence: &RolloutEvidence) -> Self {
        let RolloutEvidence { async_counts, accepted_tasks: accepted, .. } = evidence;
        let (bad, ended) = count_bad_on_path(kind, async_counts);
        // More outcomes than requests that came in are late ones of earlier requests.
        let due = evidence.canaried_requests().saturating_sub(evidence.cancelled_tasks);
        let (async_bad, ended, expected) = match kind {
            GateKind::DeferredRatio(_) => (evidence.deferred_requests, *accepted, *accepted),
            GateKind::ShadowMismatch(_) => {
                (evidence.shadow_mismatched, evidence.shadow_compared, evidence.shadow_copied)
            }
            GateKind::SlowRatio { threshold, measure: LatencyMeasure::Acknowledgement, .. } => {
                let (slow, total) = count_slow(&evidence.acknowledgement_times, *threshold);
                (slow, total, total)
            }
            GateKind::ErrorRatio(_) => (bad, ended, due.saturating_sub(async_counts.client_errors)),
            _ => (bad, ended, due),
        };
        Self {
            async_bad,
            async_ended: ended.max(async_bad),
            async_expected: expected.max(ended).max(async_bad),
            async_uncounted: bad_by_client_group(kind, async_counts).map_or(0, |by_group| {
                ClientBasis::from_evidence(evidence).uncounted_failures(by_group).min(async_bad)
            }),
            sync_bad_of_total: count_bad_on_path(kind, &evidence.sync_counts),
        }
    }
}

/// The bad async requests of `new` that count, where `total` contains `new`: of a client group that
/// has more of them in `total` than the third-worst group, as large a part as of all its bad ones.
pub(super) fn count_new_bad(
    kind: &GateKind,
    new: &RolloutEvidence,
    total: &RolloutEvidence,
) -> f64 {
    let bad = RatioCounts::from_evidence(kind, new).async_bad;
    let by_group = bad_by_client_group(kind, &new.async_counts)
        .zip(bad_by_client_group(kind, &total.async_counts));
    let Some((new_by_group, total_by_group)) = by_group else { return count_as_float(bad) };
    let uncounted = ClientBasis::from_evidence(total).uncounted_part(new_by_group, total_by_group);
    (count_as_float(bad) - uncounted).max(0.0)
}

/// The bad outcomes of a path, and of how many.
pub(super) fn count_bad_on_path(kind: &GateKind, counts: &EvidenceCounts) -> (u64, u64) {
    match kind {
        GateKind::ErrorRatio(_) => {
            (counts.failed, counts.total.saturating_sub(counts.client_errors))
        }
        GateKind::ClientErrorRatio(_) => (counts.client_errors, counts.total),
        GateKind::SlowRatio { threshold, .. } => count_slow(&counts.durations, *threshold),
        _ => (0, 0),
    }
}

/// Of `bad` requests: all whose client has no group, and one of every other client that is not
/// among `counted` yet, to which they are added. None where the clients are too many for an
/// estimate.
pub(super) fn count_once_per_client(
    counted: &mut ClientGroupCounts,
    bad: u64,
    by_group: &ClientGroupCounts,
) -> Option<u64> {
    let clients_before = estimate_clients(counted)?;
    for (sum, more) in counted.iter_mut().zip(by_group) {
        *sum += more;
    }
    let (grouped, new_clients) =
        (by_group.iter().sum(), estimate_clients(counted)? - clients_before);
    Some(bad.saturating_sub(grouped) + new_clients.min(grouped))
}

/// The bad requests by group of clients, for gates where a client's next request is likely to be
/// bad as well.
pub(super) fn bad_by_client_group<'a>(
    kind: &GateKind,
    counts: &'a EvidenceCounts,
) -> Option<&'a ClientGroupCounts> {
    match kind {
        GateKind::ErrorRatio(_) => Some(&counts.failed_by_group),
        GateKind::ClientErrorRatio(_) => Some(&counts.client_errors_by_group),
        _ => None,
    }
}

fn count_slow(durations: &DurationCounts, threshold: Duration) -> (u64, u64) {
    (count_slower_than(durations, threshold.as_secs_f64()), durations.iter().sum())
}
