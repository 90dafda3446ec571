//! Numbers of the state machine that the explanations show as well.

use std::time::Duration;

use crate::config::RolloutConfig;

/// How long an epoch of a healthy rollout lasts, at least.
pub(super) const HEALTHY_EPOCH_LENGTH: Duration = Duration::from_mins(15);
/// How many epochs of a healthy rollout are judged together: an hour, and the current epoch.
pub(super) const HEALTHY_EPOCHS_JUDGED: u64 = 5;
/// A closed cohort is extended by at least this part of itself: one eighth. A share of what there
/// is, so that a long undecided step makes dozens of epochs and not thousands.
pub(super) const COHORT_GROWTH_DIVISOR: u64 = 8;
/// The age up to which a frozen sync latency rolls back by itself: traffic drifts with the time of
/// day and from day to day, and then a person decides.
pub(super) const MAX_LATENCY_BASELINE_AGE: Duration = Duration::from_hours(24);
/// Evaluations in a row with all sources up after which a rollout that paused for a missing source
/// resumes.
pub(super) const UP_STREAK_TO_RESUME: u32 = 3;
/// How long a source of evidence may be down where no `prometheus:` section gives its own grace.
const DEFAULT_SOURCE_GRACE: Duration = Duration::from_mins(10);

/// How long a source of evidence may be down before a step pauses.
pub(super) fn source_grace(config: &RolloutConfig) -> Duration {
    config
        .prometheus
        .as_ref()
        .map_or(DEFAULT_SOURCE_GRACE, |prometheus| prometheus.unavailable_grace)
}
