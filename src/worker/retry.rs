//! What follows a failed attempt: another one later, or a dead letter. Pure.
//!
//! The delay is exponential with full jitter: uniform between nothing and [`retry_backoff`], so
//! that tasks that failed together do not come back together.
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>

use std::time::Duration;

use crate::config::retry_backoff;
use crate::task::TaskFailure;

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Another attempt, after `delay`.
    Retry {
        /// The pause.
        delay: Duration,
    },
    /// None: the task is a dead letter.
    Bury,
}

/// Decides after attempt number `attempt` (from 1) of a task that is allowed `retries` more than
/// one. `base` is the topic's `retry_delay`, `random` any random number.
#[must_use]
pub fn decide_retry(
    failure: &TaskFailure,
    attempt: u32,
    retries: u32,
    base: Duration,
    random: u64,
) -> RetryDecision {
    if attempt > retries || !failure.is_retryable() {
        return RetryDecision::Bury;
    }
    RetryDecision::Retry { delay: apply_full_jitter(retry_backoff(attempt, base), random) }
}

/// The pause after the `attempt`-th failure of something else than a task, on the same terms.
pub(super) fn capped_backoff(
    attempt: u32,
    base: Duration,
    longest: Duration,
    random: u64,
) -> Duration {
    let factor = 2u32.saturating_pow(attempt.saturating_sub(1));
    apply_full_jitter(base.saturating_mul(factor).min(longest), random)
}

/// A uniform share of `ceiling`, both ends included, in milliseconds.
fn apply_full_jitter(ceiling: Duration, random: u64) -> Duration {
    let millis = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % millis.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_BACKOFF;
    use crate::task::FailureKind;
    use proptest::prelude::*;

    fn test_failure(kind: FailureKind) -> TaskFailure {
        TaskFailure::new(kind, "x")
    }

    proptest! {
        #[test]
        fn delays_stay_under_the_ceiling_and_the_cap(
            attempt in 1u32..200, base in 0u64..10_000_000, random: u64
        ) {
            let base = Duration::from_millis(base);
            let decision = decide_retry(&test_failure(FailureKind::HandlerError), attempt, u32::MAX, base, random);
            let RetryDecision::Retry { delay } = decision else { panic!("{decision:?}") };
            prop_assert!(delay <= MAX_BACKOFF && delay <= base.saturating_mul(2u32.saturating_pow(attempt - 1)));
        }

        #[test]
        fn a_task_is_tried_once_and_then_as_often_as_it_has_retries(attempt in 1u32..10, retries in 0u32..10, random: u64) {
            let decision = decide_retry(&test_failure(FailureKind::FailedStatus), attempt, retries, Duration::from_secs(5), random);
            prop_assert_eq!(decision == RetryDecision::Bury, attempt > retries);
        }
    }

    #[test]
    fn the_ceiling_doubles_and_every_delay_up_to_it_can_be_drawn() {
        let base = Duration::from_secs(5);
        let seconds = [1, 2, 3, 11, u32::MAX].map(|attempt| retry_backoff(attempt, base).as_secs());
        assert_eq!(seconds, [5, 10, 20, 3600, 3600]);
        let drawn = [0, 5_000, 5_001].map(|random| apply_full_jitter(base, random).as_millis());
        assert_eq!(drawn, [0, 5_000, 0]);
    }

    #[test]
    fn what_no_attempt_can_mend_is_not_retried() {
        for kind in [FailureKind::UnusableResult, FailureKind::Malformed] {
            assert_eq!(
                decide_retry(&test_failure(kind), 1, 9, Duration::ZERO, 0),
                RetryDecision::Bury,
                "{kind:?}"
            );
        }
    }
}
