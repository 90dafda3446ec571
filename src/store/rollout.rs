//! What a store keeps of rollouts beside their state: tallies of what became of canaried tasks, who
//! is there and who leads, the history, and who still calls a deprecated route.
//!
//! A tally is counted in the change that it counts: `enqueue` counts a task as accepted, and
//! whatever ends it counts its end, once, under the route and epoch that it was accepted in. So no
//! crash loses or repeats one. A task without an epoch is not counted: that of a redriven dead
//! letter is gone, since its failure was counted when it failed.

use std::time::Duration;

use super::RolloutRecord;
use crate::cohort::CLIENT_GROUPS;
use crate::task::{DurationCounts, TaskAnswer, TaskFailure, UnixMs, duration_bucket};

/// How long presence and lead last unless renewed.
pub const REPLICA_TTL: Duration = Duration::from_secs(10);

/// How long what was counted in an epoch is kept, from its first count on: longer while the rollout
/// runs, which reports to it and reads it.
pub const EVIDENCE_RETENTION: Duration = Duration::from_hours(40 * 24);

/// Entries of a route's history that are kept, the newest.
pub const MAX_HISTORY_ENTRIES: usize = 10_000;

/// Names of a route's callers that are kept apart; further ones are [`OTHER_CALLERS`].
pub const MAX_CALLERS: usize = 1_000;

/// The name of callers over [`MAX_CALLERS`].
pub const OTHER_CALLERS: &str = "(others)";

/// How long a caller is kept after its last call.
pub const CALLER_RETENTION: Duration = Duration::from_hours(30 * 24);

/// [`REPLICA_TTL`], in the same proportion to [`lease_duration`](super::lease_duration).
#[must_use]
pub fn replica_ttl() -> Duration {
    super::lease_duration() / 3
}

/// What a replica says of itself when it meets the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Its name: one per process.
    pub process: String,
    /// What it says, JSON; the store does not read it.
    pub description_json: String,
    /// Whether it would lead.
    pub wants_lead: bool,
    /// Per route and epoch what it has counted so far, JSON; the store does not read it.
    pub epoch_counts: Vec<(String, u64, String)>,
}

/// What a replica learns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSync {
    /// When it leads: its term, which is higher than every one before it.
    pub term: Option<u64>,
    /// Who leads.
    pub leader: Option<String>,
    /// The replicas that are there and what they said, this one among them; by name.
    pub replicas: Vec<(String, String)>,
    /// The rollout state of the routes that were asked for, in their order.
    pub rollout_records: Vec<Option<RolloutRecord>>,
    /// How far the store's clock is ahead of this process's at least, ms; negative where it is
    /// behind, and zero where the way there and back explains all of it.
    pub clock_ahead_ms: i64,
}

/// How a rollout's state is saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutCommit {
    /// Only while the lead is still held in this term; whoever leads, if none.
    pub required_term: Option<u64>,
    /// What is added to the route's history with it, JSON each; the store does not read it.
    pub history_events: Vec<String>,
}

/// An entry of a route's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutHistoryEntry {
    /// The store's place of it: the page before it is asked for with this.
    pub cursor: String,
    /// What was given to [`RolloutCommit::history_events`].
    pub event_json: String,
}

/// What is stored of an epoch of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredEvidence {
    /// Canaried requests that became a task.
    pub accepted: u64,
    /// Tasks of them that completed, and all that ended with a 4xx.
    pub completed: u64,
    /// Ended with a 4xx: completed, or given up with what the upstream answered at last.
    pub client_errors: u64,
    /// Failed for good otherwise.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// The completed and the failed by how long they took, from when they could begin to their
    /// end, per bucket.
    pub latency_buckets: DurationCounts,
    /// The failed by group of clients, where it is known.
    pub failed_by_group: [u64; CLIENT_GROUPS],
    /// Those that ended with a 4xx.
    pub client_errors_by_group: [u64; CLIENT_GROUPS],
    /// What each process has counted, by name; of those that are gone too.
    pub replica_counts: Vec<(String, String)>,
}

/// A caller of a deprecated route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeprecatedCaller {
    /// Its name.
    pub name: String,
    /// Calls: how many more when noted, how many in all when read.
    pub call_count: u64,
    /// When it last called.
    pub last_called_at: UnixMs,
}

/// How many days ago a call still says that somebody needs the route.
pub const RECENT_CALL_DAYS: u64 = 7;

/// How many called in the last days ([`RECENT_CALL_DAYS`]), and the names of the few that called
/// most.
#[must_use]
pub fn summarize_recent_callers(callers: &[DeprecatedCaller], now: UnixMs) -> (usize, String) {
    const MAX_NAMED_CALLERS: usize = 3;
    let since = Duration::from_hours(RECENT_CALL_DAYS * 24);
    let mut lately: Vec<&DeprecatedCaller> =
        callers.iter().filter(|caller| now.since(caller.last_called_at) < since).collect();
    lately.sort_by_key(|caller| std::cmp::Reverse(caller.call_count));
    let named: Vec<&str> =
        lately.iter().take(MAX_NAMED_CALLERS).map(|caller| caller.name.as_str()).collect();
    (lately.len(), named.join(", "))
}

// === tallies ===

/// What tallies are called in a store: `accepted` and `cancelled`, and by outcome and latency
/// bucket `completed.3`, `client_error.0`, `failed.20`, and the group of its client behind what did
/// not go well: `failed.20.7`. An end is one count, and the sums are made when they are read.
pub(super) const ACCEPTED_TALLY: &str = "accepted";

/// How a canaried task ended, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TallyOutcome {
    Completed,
    ClientError,
    Failed,
    Cancelled,
}

impl TallyOutcome {
    /// That of a completed task.
    pub(super) fn from_answer(answer: &TaskAnswer) -> Self {
        let is_client_error = answer.status.is_some_and(|status| status.is_client_error());
        if is_client_error { Self::ClientError } else { Self::Completed }
    }

    /// That of a task that failed for good. One whose client is given a 4xx (408, 425, 429: what is
    /// tried again) counts as on the sync path: a rate limit that both paths meet says nothing
    /// of the canary.
    pub(super) fn from_failure(failure: &TaskFailure) -> Self {
        let given = failure.answer.as_ref().filter(|answer| answer.verbatim);
        let is_client_error =
            given.and_then(|answer| answer.status).is_some_and(|status| status.is_client_error());
        if is_client_error { Self::ClientError } else { Self::Failed }
    }

    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientError => "client_error",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The name of the tally of a task that took so long.
    pub(super) fn tally_name(self, took: Duration, clients: Option<u8>) -> String {
        let (outcome, bucket) = (self.as_str(), duration_bucket(took));
        match (self, clients) {
            (Self::Cancelled, _) => outcome.to_owned(),
            (Self::Failed | Self::ClientError, Some(clients)) => {
                format!("{outcome}.{bucket}.{clients}")
            }
            _ => format!("{outcome}.{bucket}"),
        }
    }
}

impl StoredEvidence {
    /// Adds a tally; one of another release is left out.
    pub(super) fn add_tally(&mut self, tally: &str, count: u64) {
        let mut parts = tally.split('.');
        let outcome = parts.next().unwrap_or_default();
        let mut number = || parts.next().map(str::parse::<usize>);
        let (bucket, group) = match (number(), number()) {
            (None, _) if outcome == ACCEPTED_TALLY => return self.accepted += count,
            (None, _) if outcome == TallyOutcome::Cancelled.as_str() => {
                return self.cancelled += count;
            }
            (Some(Ok(bucket)), None) => (bucket, None),
            (Some(Ok(bucket)), Some(Ok(group))) => (bucket, Some(group)),
            _ => return,
        };
        let Some(took) = self.latency_buckets.get_mut(bucket) else { return };
        let by = match outcome {
            "completed" => {
                self.completed += count;
                None
            }
            "client_error" => {
                self.completed += count;
                self.client_errors += count;
                Some(&mut self.client_errors_by_group)
            }
            "failed" => {
                self.failed += count;
                Some(&mut self.failed_by_group)
            }
            _ => return,
        };
        *took += count;
        if let Some(sum) = by.zip(group).and_then(|(by, group)| by.get_mut(group)) {
            *sum += count;
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
    fn those_who_called_lately_are_named_most_calls_first() {
        let now = UnixMs(10 * 24 * 3_600_000);
        let caller = |who: &str, count, days_ago: u64| DeprecatedCaller {
            name: who.into(),
            call_count: count,
            last_called_at: UnixMs(now.0 - days_ago * 24 * 3_600_000),
        };
        let callers = [
            caller("a", 1, 0),
            caller("b", 9, 6),
            caller("c", 99, 8),
            caller("d", 5, 1),
            caller("e", 3, 1),
        ];
        assert_eq!(summarize_recent_callers(&callers, now), (4, "b, d, e".to_owned()));
        assert_eq!(summarize_recent_callers(&[], now), (0, String::new()));
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
