//! Decides what follows a failed attempt: another attempt later, or a dead letter. Pure.
//!
//! The delay is drawn with full jitter from zero to [`retry_backoff`], so that tasks that failed
//! together do not run again together.

use std::time::Duration;

use crate::backoff::full_jitter;
use crate::config::retry_backoff;
use crate::task::TaskFailure;

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Another attempt.
    Retry {
        /// The delay before that attempt.
        delay: Duration,
    },
    /// No other attempt: the task becomes a dead letter.
    Bury,
}

/// Decides after failed attempt number `attempt` (from 1) of a task with `retries` attempts after
/// the first. `base` is the topic's `retry_delay`, `random` a uniformly distributed number.
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
    RetryDecision::Retry { delay: full_jitter(retry_backoff(attempt, base), random) }
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
            let failure = test_failure(FailureKind::HandlerError);
            let decision = decide_retry(&failure, attempt, u32::MAX, base, random);
            let RetryDecision::Retry { delay } = decision else { panic!("{decision:?}") };
            let doubled = base.saturating_mul(2u32.saturating_pow(attempt - 1));
            prop_assert!(delay <= MAX_BACKOFF && delay <= doubled);
        }

        #[test]
        fn a_task_has_one_attempt_and_then_its_retries(
            attempt in 1u32..10, retries in 0u32..10, random: u64
        ) {
            let failure = test_failure(FailureKind::FailedStatus);
            let base = Duration::from_secs(5);
            let decision = decide_retry(&failure, attempt, retries, base, random);
            prop_assert_eq!(decision == RetryDecision::Bury, attempt > retries);
        }
    }

    #[test]
    fn failures_that_no_attempt_can_mend_are_not_retried() {
        for kind in [FailureKind::UnusableResult, FailureKind::Malformed] {
            assert_eq!(
                decide_retry(&test_failure(kind), 1, 9, Duration::ZERO, 0),
                RetryDecision::Bury,
                "{kind:?}"
            );
        }
    }
}
