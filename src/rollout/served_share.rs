//! What share of a route's calls the async path served, and what became of the rest of its cohort.

use super::evidence::RolloutEvidence;
use super::format::format_share;
use crate::metrics::FallbackReason;

/// `8.1 % served async of 10 % assigned: 1.7 % over max_body, 0.2 % saturated`; none without
/// fallbacks.
#[must_use]
pub fn describe_served_share(evidence: &RolloutEvidence) -> Option<String> {
    let fallbacks = evidence.fallbacks;
    fallbacks.nonzero_counts().next()?;
    let (served, assigned) = (evidence.served_async(), evidence.assigned_to_async());
    // every fallback was served by the sync path, where it is counted unless the store was gone
    let all = (served + evidence.sync_counts.total).max(assigned);
    #[allow(clippy::cast_precision_loss)] // counts of requests stay below 2^53
    let share = |count: u64| format_share(count as f64 / all.max(1) as f64);
    let by_reason: Vec<String> = fallbacks
        .nonzero_counts()
        .map(|(reason, count)| format!("{} {}", share(count), describe_reason(reason)))
        .collect();
    let (served, assigned) = (share(served), share(assigned));
    Some(format!("{served} served async of {assigned} assigned: {}", by_reason.join(", ")))
}

/// How many groups of clients had requests on both paths.
#[must_use]
pub fn count_groups_on_both_paths(evidence: &RolloutEvidence) -> usize {
    let groups = evidence.sync_requests_by_group.iter().zip(&evidence.canaried_by_group);
    groups.filter(|(sync, canaried)| **sync > 0 && **canaried > 0).count()
}

fn describe_reason(reason: FallbackReason) -> &'static str {
    match reason {
        FallbackReason::Ineligible => "not capturable",
        FallbackReason::BodyTooLarge => "over max_body",
        FallbackReason::StoreUnavailable => "store unavailable",
        FallbackReason::NoWorker => "without a live worker",
        FallbackReason::Saturated => "saturated",
        FallbackReason::Backpressure => "backlog full",
        FallbackReason::StoreRefused => "refused by the store",
        FallbackReason::EnqueueUnknown => "unknown to the store",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::evidence::EvidenceCounts;
    use crate::rollout::fallbacks::FallbackCounts;

    #[test]
    fn what_fell_back_is_described_by_reason_in_shares_of_all_calls() {
        let mut evidence = RolloutEvidence {
            accepted_tasks: 810,
            sync_counts: EvidenceCounts { total: 9_190, ..EvidenceCounts::default() },
            ..RolloutEvidence::default()
        };
        assert_eq!(describe_served_share(&evidence), None);
        evidence.fallbacks = FallbackCounts::from_counts(|reason| match reason {
            FallbackReason::BodyTooLarge => 170,
            FallbackReason::Saturated => 20,
            _ => 0,
        });
        assert_eq!(
            describe_served_share(&evidence).as_deref(),
            Some("8.1 % served async of 10 % assigned: 1.7 % over max_body, 0.2 % saturated")
        );
        evidence.refused_requests = 5;
        evidence.fallbacks =
            FallbackCounts::from_counts(
                |reason| {
                    if reason == FallbackReason::Backpressure { 5 } else { 0 }
                },
            );
        assert_eq!((evidence.served_async(), evidence.assigned_to_async()), (810, 815));
    }

    #[test]
    fn groups_of_clients_on_both_paths_are_counted() {
        let mut evidence = RolloutEvidence::default();
        (evidence.sync_requests_by_group[3], evidence.sync_requests_by_group[4]) = (9, 1);
        (evidence.canaried_by_group[4], evidence.canaried_by_group[5]) = (2, 2);
        assert_eq!(count_groups_on_both_paths(&evidence), 1);
    }
}
