//! Decides what follows a failed attempt: another attempt after a delay, or a dead letter.
//!
//! The delay is drawn with full jitter from zero to [`retry_backoff`], so that tasks that failed
//! together do not run again together. A time that the handler asks to wait comes before it; both
//! together are at most [`MAX_RETRY_DELAY`].

use std::time::Duration;

use crate::backoff::{BackoffPolicy, full_jitter};
use crate::task::TaskFailure;

/// The longest delay before another attempt.
pub const MAX_RETRY_DELAY: Duration = Duration::from_hours(1);

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

/// The longest delay after attempt number `attempt` (from 1): `retry_delay`, doubled with each
/// attempt, at most [`MAX_RETRY_DELAY`].
#[must_use]
pub fn retry_backoff(attempt: u32, retry_delay: Duration) -> Duration {
    BackoffPolicy::new(retry_delay, MAX_RETRY_DELAY).delay_for(attempt)
}

/// Decides after failed attempt number `attempt` (from 1) of a task with `retries` attempts after
/// the first. `retry_delay` is that of the topic, `random` a uniformly distributed number.
#[must_use]
pub fn decide_retry(
    failure: &TaskFailure,
    attempt: u32,
    retries: u32,
    retry_delay: Duration,
    random: u64,
) -> RetryDecision {
    if attempt > retries || !failure.is_retryable() {
        return RetryDecision::Bury;
    }
    let asked = failure.retry_after.unwrap_or_default();
    let drawn = full_jitter(retry_backoff(attempt, retry_delay), random);
    RetryDecision::Retry { delay: asked.saturating_add(drawn).min(MAX_RETRY_DELAY) }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            prop_assert!(delay <= MAX_RETRY_DELAY && delay <= doubled);
        }

        #[test]
        fn the_time_that_a_handler_asks_for_is_a_floor_up_to_the_cap(
            attempt in 1u32..200, asked in 0u64..10_000_000, random: u64
        ) {
            let asked = Duration::from_millis(asked);
            let failure =
                TaskFailure { retry_after: Some(asked), ..test_failure(FailureKind::FailedStatus) };
            let decision =
                decide_retry(&failure, attempt, u32::MAX, Duration::from_secs(5), random);
            let RetryDecision::Retry { delay } = decision else { panic!("{decision:?}") };
            prop_assert!(delay >= asked.min(MAX_RETRY_DELAY) && delay <= MAX_RETRY_DELAY);
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
    fn the_longest_delay_doubles_up_to_the_maximum() {
        let seconds = |attempt| retry_backoff(attempt, Duration::from_secs(5)).as_secs();
        assert_eq!([1, 2, 3, u32::MAX].map(seconds), [5, 10, 20, 3600]);
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
