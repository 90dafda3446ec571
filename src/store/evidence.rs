//! The evidence of a rollout epoch: tallies of how its canaried tasks ended, and the counts of each
//! replica.
//!
//! A tally is incremented in the atomic change that it counts: `enqueue` counts a task as accepted,
//! and the change that ends the task counts its end, once, under the route and epoch in which it
//! was accepted. So no crash loses or repeats a count. A task without an epoch is not counted: a
//! reprocessed dead letter has none, since its failure was counted when it failed.

use std::time::Duration;

use crate::cohort_hash::CLIENT_GROUPS;
use crate::task::{DurationCounts, TaskAnswer, TaskFailure, duration_bucket};

/// How long the evidence of an epoch is kept after it was last extended: a running rollout extends
/// the retention by reporting to the epoch.
pub const EVIDENCE_RETENTION: Duration = Duration::from_hours(40 * 24);

/// The evidence of one epoch of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredEvidence {
    /// Canaried requests that became a task.
    pub accepted: u64,
    /// Tasks that completed, and all tasks that ended with a 4xx.
    pub completed: u64,
    /// Tasks that ended with a 4xx: completed, or failed for good with the upstream's last answer.
    pub client_errors: u64,
    /// Tasks that failed for good otherwise.
    pub failed: u64,
    /// Cancelled tasks.
    pub cancelled: u64,
    /// The completed and the failed tasks per duration bucket. The duration is from when the task
    /// could begin to its end.
    pub latency_buckets: DurationCounts,
    /// The failed tasks per client group, where the group is known.
    pub failed_by_group: [u64; CLIENT_GROUPS],
    /// The tasks that ended with a 4xx per client group, where the group is known.
    pub client_errors_by_group: [u64; CLIENT_GROUPS],
    /// (process, its counts as JSON), also of processes that have ended.
    pub replica_counts: Vec<(String, String)>,
}

/// The name of the tally of accepted tasks.
///
/// Tallies are named `accepted`, `cancelled`, and by outcome and duration bucket `completed.3`,
/// `client_error.0`, `failed.20`; the names of failures and client errors also have the client
/// group: `failed.20.7`. Each end increments one tally, and the sums are made when they are read.
pub(super) const ACCEPTED_TALLY: &str = "accepted";

/// How a canaried task ended, as a tally counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TallyOutcome {
    Completed,
    ClientError,
    Failed,
    Cancelled,
}

// === impl TallyOutcome ===

impl TallyOutcome {
    /// The outcome of a completed task.
    pub(super) fn from_answer(answer: &TaskAnswer) -> Self {
        let is_client_error = answer.status.is_some_and(|status| status.is_client_error());
        if is_client_error { Self::ClientError } else { Self::Completed }
    }

    /// The outcome of a task that failed for good. A failure whose client gets a 4xx counts as
    /// a client error, as on the sync path: these are 408, 425 and 429, which are retried first. A
    /// rate limit of the upstream affects both paths and is no failure of the async path.
    pub(super) fn from_failure(failure: &TaskFailure) -> Self {
        let given = failure.answer.as_ref().filter(|answer| answer.verbatim);
        let is_client_error =
            given.and_then(|answer| answer.status).is_some_and(|status| status.is_client_error());
        if is_client_error { Self::ClientError } else { Self::Failed }
    }

    /// The outcome whose tally names begin with `word`.
    fn from_word(word: &str) -> Option<Self> {
        [Self::Completed, Self::ClientError, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
    }

    /// The first part of the tally's name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientError => "client_error",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The name of the tally that counts a task with this outcome.
    pub(super) fn tally_name(self, duration: Duration, client_group: Option<u8>) -> String {
        let (outcome, bucket) = (self.as_str(), duration_bucket(duration));
        match (self, client_group) {
            (Self::Cancelled, _) => outcome.to_owned(),
            (Self::Failed | Self::ClientError, Some(group)) => {
                format!("{outcome}.{bucket}.{group}")
            }
            _ => format!("{outcome}.{bucket}"),
        }
    }
}

// === impl StoredEvidence ===

impl StoredEvidence {
    /// Adds the count of a tally. A name that another release writes and this one does not know is
    /// left out.
    pub(super) fn add_tally(&mut self, tally_name: &str, count: u64) {
        let mut parts = tally_name.split('.');
        let outcome = parts.next().unwrap_or_default();
        let mut next_number = || parts.next().map(str::parse::<usize>);
        let (bucket, group) = match (next_number(), next_number()) {
            (None, _) if outcome == ACCEPTED_TALLY => return self.accepted += count,
            (None, _) if outcome == TallyOutcome::Cancelled.as_str() => {
                return self.cancelled += count;
            }
            (Some(Ok(bucket)), None) => (bucket, None),
            (Some(Ok(bucket)), Some(Ok(group))) => (bucket, Some(group)),
            _ => return,
        };
        let Some(bucket_count) = self.latency_buckets.get_mut(bucket) else { return };
        let counts_by_group = match TallyOutcome::from_word(outcome) {
            Some(TallyOutcome::Completed) => {
                self.completed += count;
                None
            }
            Some(TallyOutcome::ClientError) => {
                self.completed += count;
                self.client_errors += count;
                Some(&mut self.client_errors_by_group)
            }
            Some(TallyOutcome::Failed) => {
                self.failed += count;
                Some(&mut self.failed_by_group)
            }
            Some(TallyOutcome::Cancelled) | None => return,
        };
        *bucket_count += count;
        if let Some(group_count) =
            counts_by_group.zip(group).and_then(|(counts, group)| counts.get_mut(group))
        {
            *group_count += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::task::{DURATION_BUCKET_COUNT, FailureKind};

    #[test]
    fn a_failure_whose_client_is_given_a_4xx_is_a_client_error() {
        for (status, verbatim, counted) in [
            (429, true, TallyOutcome::ClientError),
            (408, true, TallyOutcome::ClientError),
            (503, true, TallyOutcome::Failed),
            (429, false, TallyOutcome::Failed), // its client is given a 502
        ] {
            let status = StatusCode::from_u16(status).ok();
            let answer = Some(TaskAnswer { status, verbatim, ..TaskAnswer::from_json("{}") });
            let failure =
                TaskFailure { answer, ..TaskFailure::new(FailureKind::FailedStatus, "answered") };
            assert_eq!(TallyOutcome::from_failure(&failure), counted, "{status:?}");
        }
        assert_eq!(
            TallyOutcome::from_failure(&TaskFailure::new(FailureKind::WorkerCrash, "died")),
            TallyOutcome::Failed
        );
    }

    #[test]
    fn a_tally_is_named_as_it_is_read_back() {
        let mut evidence = StoredEvidence::default();
        let slow = Duration::from_hours(2);
        for (outcome, took) in [
            (TallyOutcome::Completed, Duration::ZERO),
            (TallyOutcome::Completed, Duration::from_millis(10)),
            (TallyOutcome::ClientError, Duration::from_millis(11)),
            (TallyOutcome::Failed, slow),
            (TallyOutcome::Cancelled, slow),
        ] {
            evidence.add_tally(&outcome.tally_name(took, Some(31)), 1);
        }
        evidence.add_tally(ACCEPTED_TALLY, 7);
        for unknown in ["completed.21", "completed.x", "completed", "failed.1.x", "lost.3", ""] {
            evidence.add_tally(unknown, 9);
        }
        let mut took = [0; DURATION_BUCKET_COUNT];
        (took[0], took[1], took[2], took[DURATION_BUCKET_COUNT - 1]) = (1, 1, 1, 1);
        let (completed, client_errors, failed, cancelled) = (3, 1, 1, 1);
        let mut last = [0; CLIENT_GROUPS];
        last[31] = 1;
        let by = StoredEvidence {
            failed_by_group: last,
            client_errors_by_group: last,
            ..Default::default()
        };
        let expected = StoredEvidence {
            accepted: 7,
            completed,
            client_errors,
            failed,
            cancelled,
            latency_buckets: took,
            ..by
        };
        assert_eq!(evidence, expected);
    }
}
