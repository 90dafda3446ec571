//! Whether requests were assigned to the paths as the weight says.
//!
//! A request with a sticky key has one right path at each weight, so that one request on the other
//! path shows a fault. A request without a key is assigned at random: its share is tested by the
//! sequential test of the gates (`statistics/sequential.rs`), once against "at most the weight"
//! and once against "at least the weight". Pinned clients, and calls whose path a trusted caller
//! chose, are in neither. What becomes of a request after its assignment has no part in this.

use super::assignments::AssignmentCounts;
use super::blocked::BlockedReason;
use super::statistics;
use crate::cohort_hash::Weight;

/// The probability that a right split is ever rejected as too high; too low has the same.
const FALSE_REJECTION_CHANCE: f64 = 0.0005;

/// Why a step does not climb whose requests are not split as its weight says. `step` is counted
/// since the step began, `new` since the last evaluation.
#[must_use]
pub fn find_sample_ratio_mismatch(
    step: &AssignmentCounts,
    new: &AssignmentCounts,
    weight: Weight,
) -> Option<BlockedReason> {
    let is_mismatched = new.mismatched > 0;
    (is_mismatched || rejects_random_split(step, weight)).then_some(BlockedReason::SampleRatio {
        mismatched: if is_mismatched { new.mismatched } else { 0 },
        async_random: step.async_random,
        random_requests: step.random_requests(),
    })
}

/// Whether chance does not explain the share that was assigned to the async path at random, at this
/// weight.
fn rejects_random_split(counts: &AssignmentCounts, weight: Weight) -> bool {
    if weight == Weight::ZERO || weight == Weight::FULL {
        return false;
    }
    let (share, hits, of) =
        (weight.percent() / 100.0, counts.async_random, counts.random_requests());
    let too_high = statistics::log_e_against_at_most(share, hits, of);
    let too_low = statistics::log_e_against_at_least(share, hits, of);
    too_high.max(too_low) >= statistics::rejection_threshold(FALSE_REJECTION_CHANCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cohort_hash::{cohort_bucket, hash_sticky_key};

    fn tenth() -> Weight {
        Weight::from_basis_points(1_000)
    }

    fn counts(async_random: u64, sync_random: u64) -> AssignmentCounts {
        AssignmentCounts { async_random, sync_random, mismatched: 0 }
    }

    #[test]
    fn a_share_that_chance_does_not_explain_is_rejected_on_both_sides() {
        for (async_random, sync_random, rejected) in [
            (0, 0, false),
            (0, 60, false),
            (100, 900, false),
            (130, 870, false),
            (200, 800, true),
            (0, 1_000, true),
            (834, 9_166, true),
            (1_000, 9_000, false),
        ] {
            let found = rejects_random_split(&counts(async_random, sync_random), tenth());
            assert_eq!(found, rejected, "{async_random} of {}", async_random + sync_random);
        }
        assert!(!rejects_random_split(&counts(0, 9_999), Weight::ZERO));
        assert!(!rejects_random_split(&counts(0, 9_999), Weight::FULL));
    }

    #[test]
    fn one_request_on_the_wrong_path_holds_the_step_and_an_earlier_one_does_not() {
        let one = AssignmentCounts { mismatched: 1, ..AssignmentCounts::default() };
        let found = |new| find_sample_ratio_mismatch(&one, &new, tenth());
        let reason =
            BlockedReason::SampleRatio { mismatched: 1, async_random: 0, random_requests: 0 };
        assert_eq!((found(one), found(AssignmentCounts::default())), (Some(reason), None));
    }

    /// 200 steps of a right split, each evaluated 500 times: 0.1 % of them may be rejected.
    #[test]
    fn a_right_split_is_not_rejected_over_all_evaluations() {
        for points in [100u16, 1_000, 5_000, 9_000] {
            let weight = Weight::from_basis_points(points);
            let rejected = (0..200u64).filter(|seed| {
                let mut sum = AssignmentCounts::default();
                (0..500u64).any(|look| {
                    for request in 0..20u64 {
                        let key = (look * 20 + request).to_le_bytes();
                        let bucket = cohort_bucket(hash_sticky_key(&seed.to_string(), &key));
                        let is_async = weight.covers(bucket);
                        sum.async_random += u64::from(is_async);
                        sum.sync_random += u64::from(!is_async);
                    }
                    rejects_random_split(&sum, weight)
                })
            });
            assert!(rejected.count() <= 1, "{weight}");
        }
    }
}
