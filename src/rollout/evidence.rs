//! What is known of a route's two paths: counts, never rates. They are cumulative within one epoch (from a change of
//! weight to the next) and summed over all replicas, so that a look that is missed costs nothing.
//!
//! Tasks are counted by the store, in the change that ends them, under the epoch that they were accepted in: a worker that
//! dies takes no count with it. What a proxy sees, it counts itself.

use crate::cohort::GROUPS;
use crate::task::{DURATION_BUCKETS, Took};

/// Requests by the [group](crate::cohort::group) of their client, where that is known.
pub type By = [u64; GROUPS];

/// What came of the requests of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests with an outcome; of tasks those that completed or failed, not the cancelled.
    pub total: u64,
    /// Failed: 5xx on the sync path; on the async one a task that failed for good, or that was refused.
    pub failed: u64,
    /// Answered with a 4xx; not among `failed`.
    pub client_errors: u64,
    /// How long they took, from the request to its outcome.
    pub took: Took,
    /// The failed by group of clients.
    pub failed_by: By,
    /// Those that were answered with a 4xx.
    pub client_errors_by: By,
}

/// What is known of one epoch of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Requests that the sync path served: those that were never canaried.
    pub sync: Counts,
    /// Canaried requests with an outcome.
    pub asynchronous: Counts,
    /// Canaried requests that became a task.
    pub accepted: u64,
    /// Tasks of them that were cancelled: no outcome is to come.
    pub cancelled: u64,
    /// Canaried requests that the store refused, or that got a 5xx of ours instead of a task; each is also an async failure.
    pub refused: u64,
    /// Canaried requests that got a 4xx of ours instead of a task; each is also an async client error.
    pub rejected: u64,
    /// Canaried requests whose client was told to poll, though it had not asked for that.
    pub deferred: u64,
    /// Canaried requests by how long their client waited for its answer, which may be 202.
    pub acknowledged: Took,
    /// Requests that would have been canaried and were served sync because the store was gone.
    pub unavailable: u64,
    /// Copies of sync requests that became a task (`shadow`), which is none of those above.
    pub copied: u64,
    /// Copies whose answer was compared with that of the sync path.
    pub compared: u64,
    /// Of them those that were answered otherwise.
    pub mismatched: u64,
}

// === impl Counts ===

impl Counts {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.failed += other.failed;
        self.client_errors += other.client_errors;
        add_each(&mut self.took, &other.took);
        add_each(&mut self.failed_by, &other.failed_by);
        add_each(&mut self.client_errors_by, &other.client_errors_by);
    }

    /// What came since `earlier`; nothing where counts were lost (a store that was flushed).
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            failed: self.failed.saturating_sub(earlier.failed),
            client_errors: self.client_errors.saturating_sub(earlier.client_errors),
            took: each_since(&self.took, &earlier.took),
            failed_by: each_since(&self.failed_by, &earlier.failed_by),
            client_errors_by: each_since(&self.client_errors_by, &earlier.client_errors_by),
        }
    }
}

// === impl Evidence ===

impl Evidence {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.sync.add(&other.sync);
        self.asynchronous.add(&other.asynchronous);
        self.accepted += other.accepted;
        self.cancelled += other.cancelled;
        self.refused += other.refused;
        self.rejected += other.rejected;
        self.deferred += other.deferred;
        add_each(&mut self.acknowledged, &other.acknowledged);
        self.unavailable += other.unavailable;
        self.copied += other.copied;
        self.compared += other.compared;
        self.mismatched += other.mismatched;
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            sync: self.sync.since(&earlier.sync),
            asynchronous: self.asynchronous.since(&earlier.asynchronous),
            accepted: self.accepted.saturating_sub(earlier.accepted),
            cancelled: self.cancelled.saturating_sub(earlier.cancelled),
            refused: self.refused.saturating_sub(earlier.refused),
            rejected: self.rejected.saturating_sub(earlier.rejected),
            deferred: self.deferred.saturating_sub(earlier.deferred),
            acknowledged: each_since(&self.acknowledged, &earlier.acknowledged),
            unavailable: self.unavailable.saturating_sub(earlier.unavailable),
            copied: self.copied.saturating_sub(earlier.copied),
            compared: self.compared.saturating_sub(earlier.compared),
            mismatched: self.mismatched.saturating_sub(earlier.mismatched),
        }
    }

    /// Canaried requests, whatever came of them: those that became a task, and those that did not.
    #[must_use]
    pub fn canaried(&self) -> u64 {
        self.accepted + self.taskless()
    }

    /// Canaried requests that have an outcome without a task.
    fn taskless(&self) -> u64 {
        self.refused + self.rejected
    }

    /// Tasks whose outcome is still to come.
    #[must_use]
    pub fn open(&self) -> u64 {
        let ended = self.asynchronous.total.saturating_sub(self.taskless());
        self.accepted.saturating_sub(ended + self.cancelled)
    }
}

impl<'a> std::iter::Sum<&'a Self> for Evidence {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, evidence| {
            sum.add(evidence);
            sum
        })
    }
}

/// How many of `took` were over `seconds`, which is one of the bounds.
#[must_use]
pub fn slower_than(took: &Took, seconds: f64) -> u64 {
    let first = DURATION_BUCKETS.partition_point(|bound| *bound <= seconds);
    took[first..].iter().sum()
}

/// Of how many clients such requests are: as many as the groups that have any make likely (linear counting; Whang,
/// Vander-Zanden, Taylor 1990). None where every group has some: they are too many to be told apart.
#[must_use]
pub fn clients(by: &By) -> Option<u64> {
    let empty = by.iter().filter(|requests| **requests == 0).count();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // at most 111
    (empty > 0).then(|| (GROUPS as f64 * (GROUPS as f64 / empty as f64).ln()).round() as u64)
}

fn add_each<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
    for (sum, more) in to.iter_mut().zip(from) {
        *sum += more;
    }
}

fn each_since<const N: usize>(now: &[u64; N], earlier: &[u64; N]) -> [u64; N] {
    std::array::from_fn(|at| now[at].saturating_sub(earlier[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_clients_are_counted_and_too_many_are_not() {
        let of = |groups: usize| clients(&std::array::from_fn(|at| u64::from(at < groups) * 900));
        assert_eq!([0, 1, 2, 4, 16, 31, 32].map(of), [Some(0), Some(1), Some(2), Some(4), Some(22), Some(111), None]);
    }
}
