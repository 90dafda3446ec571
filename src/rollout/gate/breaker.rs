//! The breaker: failures so frequent that the rollout is rolled back without waiting for a gate.

use super::client_basis::ClientBasis;
use crate::config::BreakerConfig;
use crate::rollout::evidence::{EvidenceCounts, RolloutEvidence};
use crate::rollout::statistics::share_of;

/// Whether the share of failures in `window` is at the breaker's limit.
///
/// The share is of all requests that came in, those without an outcome included: requests that
/// fail at once end before requests that succeed. Failures that only one or two clients have are in
/// neither number ([`ClientBasis`]).
#[must_use]
pub fn trips_breaker(breaker: &BreakerConfig, window: &RolloutEvidence) -> bool {
    let EvidenceCounts { total, failed, client_errors, failed_by_group, .. } = window.async_counts;
    let uncounted = ClientBasis::from_evidence(window).uncounted_failures(&failed_by_group);
    let (failed, requests) = (
        failed.saturating_sub(uncounted),
        total.max(window.canaried_requests()).saturating_sub(client_errors + uncounted),
    );
    requests >= breaker.min_requests.max(1) && share_of(failed, requests) >= breaker.max_error_ratio
}
