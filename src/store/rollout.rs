//! What a store keeps of rollouts beside their state: tallies of what became of canaried tasks, who is there and who
//! leads, the history, and who still calls a deprecated route.
//!
//! A tally is counted in the change that it counts: `enqueue` counts a task as accepted, and whatever ends it counts its
//! end, once, under the route and epoch that it was accepted in. So no crash loses or repeats one. A task without an
//! epoch is not counted: that of a redriven dead letter is gone, since its failure was counted when it failed.

use std::time::Duration;

use super::RolloutRecord;
use crate::cohort::GROUPS;
use crate::task::{Answer, Failure, Took, UnixMs, bucket};

/// How long presence and lead last unless renewed.
pub const LEAD: Duration = Duration::from_secs(10);

/// How long what was counted in an epoch is kept, from its first count on: longer while the rollout runs, which reports to
/// it and reads it.
pub const EVIDENCE_KEPT: Duration = Duration::from_hours(40 * 24);

/// Entries of a route's history that are kept, the newest.
pub const HISTORY: usize = 10_000;

/// Names of a route's callers that are kept apart; further ones are [`OTHERS`].
pub const CALLERS: usize = 1_000;

/// The name of callers over [`CALLERS`].
pub const OTHERS: &str = "(others)";

/// How long a caller is kept after its last call.
pub const CALLER_KEPT: Duration = Duration::from_hours(30 * 24);

/// [`LEAD`], in the same proportion to [`lease_time`](super::lease_time).
#[must_use]
pub fn lead_time() -> Duration {
    super::lease_time() / 3
}

/// What a replica says of itself when it meets the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Its name: one per process.
    pub process: String,
    /// What it says, JSON; the store does not read it.
    pub about: String,
    /// Whether it would lead.
    pub candidate: bool,
    /// Per route and epoch what it has counted so far, JSON; the store does not read it.
    pub counts: Vec<(String, u64, String)>,
}

/// What a replica learns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meeting {
    /// When it leads: its term, which is higher than every one before it.
    pub term: Option<u64>,
    /// Who leads.
    pub leader: Option<String>,
    /// The replicas that are there and what they said, this one among them; by name.
    pub replicas: Vec<(String, String)>,
    /// The rollout state of the routes that were asked for, in their order.
    pub records: Vec<Option<RolloutRecord>>,
    /// How far the store's clock is ahead of this process's at least, ms; negative where it is behind, and zero where the
    /// way there and back explains all of it.
    pub ahead: i64,
}

/// How a rollout's state is saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Only while the lead is still held in this term; whoever leads, if none.
    pub term: Option<u64>,
    /// What is added to the route's history with it, JSON each; the store does not read it.
    pub events: Vec<String>,
}

/// An entry of a route's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The store's place of it: the page before it is asked for with this.
    pub cursor: String,
    /// What was given to [`Change::events`].
    pub event: String,
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
    /// The completed and the failed by how long they took, from when they could begin to their end, per bucket.
    pub took: Took,
    /// The failed by group of clients, where it is known.
    pub failed_by: [u64; GROUPS],
    /// Those that ended with a 4xx.
    pub client_errors_by: [u64; GROUPS],
    /// What each process has counted, by name; of those that are gone too.
    pub counts: Vec<(String, String)>,
}

/// A caller of a deprecated route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name.
    pub who: String,
    /// Calls: how many more when noted, how many in all when read.
    pub count: u64,
    /// When it last called.
    pub last: UnixMs,
}

/// How many days ago a call still says that somebody needs the route.
pub const LATELY: u64 = 7;

/// How many called in the last days ([`LATELY`]), and the names of the few that called most.
#[must_use]
pub fn lately(callers: &[Caller], now: UnixMs) -> (usize, String) {
    const NAMED: usize = 3;
    let since = Duration::from_hours(LATELY * 24);
    let mut lately: Vec<&Caller> = callers.iter().filter(|caller| now.since(caller.last) < since).collect();
    lately.sort_by_key(|caller| std::cmp::Reverse(caller.count));
    let named: Vec<&str> = lately.iter().take(NAMED).map(|caller| caller.who.as_str()).collect();
    (lately.len(), named.join(", "))
}

// === tallies ===

/// What tallies are called in a store: `accepted` and `cancelled`, and by outcome and latency bucket `completed.3`,
/// `client_error.0`, `failed.20`, and the group of its client behind what did not go well: `failed.20.7`. An end is one count,
/// and the sums are made when they are read.
pub(super) const ACCEPTED: &str = "accepted";

/// How a canaried task ended, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Completed,
    ClientError,
    Failed,
    Cancelled,
}

impl Ended {
    /// That of a completed task.
    pub(super) fn of(answer: &Answer) -> Self {
        let is_client_error = answer.status.is_some_and(|status| status.is_client_error());
        if is_client_error { Self::ClientError } else { Self::Completed }
    }

    /// That of a task that failed for good. One whose client is given a 4xx (408, 425, 429: what is tried again) counts
    /// as on the sync path: a rate limit that both paths meet says nothing of the canary.
    pub(super) fn of_failure(failure: &Failure) -> Self {
        let given = failure.answer.as_ref().filter(|answer| answer.verbatim);
        let is_client_error = given.and_then(|answer| answer.status).is_some_and(|status| status.is_client_error());
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
    pub(super) fn tally(self, took: Duration, clients: Option<u8>) -> String {
        let (outcome, bucket) = (self.as_str(), bucket(took));
        match (self, clients) {
            (Self::Cancelled, _) => outcome.to_owned(),
            (Self::Failed | Self::ClientError, Some(clients)) => format!("{outcome}.{bucket}.{clients}"),
            _ => format!("{outcome}.{bucket}"),
        }
    }
}

impl StoredEvidence {
    /// Adds a tally; one of another release is left out.
    pub(super) fn add(&mut self, tally: &str, count: u64) {
        let mut parts = tally.split('.');
        let outcome = parts.next().unwrap_or_default();
        let mut number = || parts.next().map(str::parse::<usize>);
        let (bucket, group) = match (number(), number()) {
            (None, _) if outcome == ACCEPTED => return self.accepted += count,
            (None, _) if outcome == Ended::Cancelled.as_str() => return self.cancelled += count,
            (Some(Ok(bucket)), None) => (bucket, None),
            (Some(Ok(bucket)), Some(Ok(group))) => (bucket, Some(group)),
            _ => return,
        };
        let Some(took) = self.took.get_mut(bucket) else { return };
        let by = match outcome {
            "completed" => {
                self.completed += count;
                None
            }
            "client_error" => {
                self.completed += count;
                self.client_errors += count;
                Some(&mut self.client_errors_by)
            }
            "failed" => {
                self.failed += count;
                Some(&mut self.failed_by)
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
    use crate::task::{BUCKETS, FailureKind};

    #[test]
    fn a_failure_whose_client_is_given_a_4xx_is_a_client_error() {
        for (status, verbatim, counted) in [
            (429, true, Ended::ClientError),
            (408, true, Ended::ClientError),
            (503, true, Ended::Failed),
            (429, false, Ended::Failed), // its client is given a 502
        ] {
            let status = StatusCode::from_u16(status).ok();
            let answer = Some(Answer { status, verbatim, ..Answer::json("{}") });
            let failure = Failure { answer, ..Failure::new(FailureKind::Status, "answered") };
            assert_eq!(Ended::of_failure(&failure), counted, "{status:?}");
        }
        assert_eq!(Ended::of_failure(&Failure::new(FailureKind::Crash, "died")), Ended::Failed);
    }

    #[test]
    fn those_who_called_lately_are_named_most_calls_first() {
        let now = UnixMs(10 * 24 * 3_600_000);
        let caller = |who: &str, count, days_ago: u64| Caller {
            who: who.into(),
            count,
            last: UnixMs(now.0 - days_ago * 24 * 3_600_000),
        };
        let callers = [caller("a", 1, 0), caller("b", 9, 6), caller("c", 99, 8), caller("d", 5, 1), caller("e", 3, 1)];
        assert_eq!(lately(&callers, now), (4, "b, d, e".to_owned()));
        assert_eq!(lately(&[], now), (0, String::new()));
    }

    #[test]
    fn a_tally_is_named_as_it_is_read_back() {
        let mut evidence = StoredEvidence::default();
        let slow = Duration::from_hours(2);
        for (outcome, took) in [
            (Ended::Completed, Duration::ZERO),
            (Ended::Completed, Duration::from_millis(10)),
            (Ended::ClientError, Duration::from_millis(11)),
            (Ended::Failed, slow),
            (Ended::Cancelled, slow),
        ] {
            evidence.add(&outcome.tally(took, Some(31)), 1);
        }
        evidence.add(ACCEPTED, 7);
        for unknown in ["completed.21", "completed.x", "completed", "failed.1.x", "lost.3", ""] {
            evidence.add(unknown, 9);
        }
        let mut took = [0; BUCKETS];
        (took[0], took[1], took[2], took[BUCKETS - 1]) = (1, 1, 1, 1);
        let (completed, client_errors, failed, cancelled) = (3, 1, 1, 1);
        let mut last = [0; GROUPS];
        last[31] = 1;
        let by = StoredEvidence { failed_by: last, client_errors_by: last, ..Default::default() };
        let expected = StoredEvidence { accepted: 7, completed, client_errors, failed, cancelled, took, ..by };
        assert_eq!(evidence, expected);
    }
}
