//! What is known of a route's two paths: counts, never rates. They are cumulative within one epoch
//! (from a change of weight to the next) and summed over all replicas, so that a look that is
//! missed costs nothing.
//!
//! Tasks are counted by the store, in the change that ends them, under the epoch that they were
//! accepted in: a worker that dies takes no count with it. What a proxy sees, it counts itself.

use crate::cohort::CLIENT_GROUPS;
use crate::task::{DURATION_BUCKET_BOUNDS, DurationCounts};

/// Requests by the [group](crate::cohort::client_group) of their client, where that is known.
pub type ClientGroupCounts = [u64; CLIENT_GROUPS];

/// What came of the requests of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvidenceCounts {
    /// Requests with an outcome; of tasks those that completed or failed, not the cancelled.
    pub total: u64,
    /// Failed: 5xx on the sync path; on the async one a task that failed for good, or that was
    /// refused.
    pub failed: u64,
    /// Answered with a 4xx; not among `failed`.
    pub client_errors: u64,
    /// How long they took, from the request to its outcome.
    pub durations: DurationCounts,
    /// The failed by group of clients.
    pub failed_by_group: ClientGroupCounts,
    /// Those that were answered with a 4xx.
    pub client_errors_by_group: ClientGroupCounts,
}

/// What is known of one epoch of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolloutEvidence {
    /// Requests that the sync path served: those that were never canaried.
    pub sync_counts: EvidenceCounts,
    /// Canaried requests with an outcome.
    pub async_counts: EvidenceCounts,
    /// Canaried requests that became a task.
    pub accepted_tasks: u64,
    /// Tasks of them that were cancelled: no outcome is to come.
    pub cancelled_tasks: u64,
    /// Canaried requests that the store refused, or that got a 5xx of ours instead of a task; each
    /// is also an async failure.
    pub refused_requests: u64,
    /// Canaried requests that got a 4xx of ours instead of a task; each is also an async client
    /// error.
    pub rejected_requests: u64,
    /// Canaried requests whose client was told to poll, though it had not asked for that.
    pub deferred_requests: u64,
    /// Canaried requests by how long their client waited for its answer, which may be 202.
    pub acknowledgement_times: DurationCounts,
    /// Requests that would have been canaried and were served sync because the store was gone.
    pub store_unavailable: u64,
    /// Copies of sync requests that became a task (`shadow`), which is none of those above.
    pub shadow_copied: u64,
    /// Copies whose answer was compared with that of the sync path.
    pub shadow_compared: u64,
    /// Of them those that were answered otherwise.
    pub shadow_mismatched: u64,
}

// === impl Counts ===

impl EvidenceCounts {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.failed += other.failed;
        self.client_errors += other.client_errors;
        add_elementwise(&mut self.durations, &other.durations);
        add_elementwise(&mut self.failed_by_group, &other.failed_by_group);
        add_elementwise(&mut self.client_errors_by_group, &other.client_errors_by_group);
    }

    /// What came since `earlier`; nothing where counts were lost (a store that was flushed).
    #[must_use]
    pub fn delta_since(&self, earlier: &Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            failed: self.failed.saturating_sub(earlier.failed),
            client_errors: self.client_errors.saturating_sub(earlier.client_errors),
            durations: subtract_elementwise(&self.durations, &earlier.durations),
            failed_by_group: subtract_elementwise(&self.failed_by_group, &earlier.failed_by_group),
            client_errors_by_group: subtract_elementwise(
                &self.client_errors_by_group,
                &earlier.client_errors_by_group,
            ),
        }
    }
}

// === impl Evidence ===

impl RolloutEvidence {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.sync_counts.add(&other.sync_counts);
        self.async_counts.add(&other.async_counts);
        self.accepted_tasks += other.accepted_tasks;
        self.cancelled_tasks += other.cancelled_tasks;
        self.refused_requests += other.refused_requests;
        self.rejected_requests += other.rejected_requests;
        self.deferred_requests += other.deferred_requests;
        add_elementwise(&mut self.acknowledgement_times, &other.acknowledgement_times);
        self.store_unavailable += other.store_unavailable;
        self.shadow_copied += other.shadow_copied;
        self.shadow_compared += other.shadow_compared;
        self.shadow_mismatched += other.shadow_mismatched;
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn delta_since(&self, earlier: &Self) -> Self {
        Self {
            sync_counts: self.sync_counts.delta_since(&earlier.sync_counts),
            async_counts: self.async_counts.delta_since(&earlier.async_counts),
            accepted_tasks: self.accepted_tasks.saturating_sub(earlier.accepted_tasks),
            cancelled_tasks: self.cancelled_tasks.saturating_sub(earlier.cancelled_tasks),
            refused_requests: self.refused_requests.saturating_sub(earlier.refused_requests),
            rejected_requests: self.rejected_requests.saturating_sub(earlier.rejected_requests),
            deferred_requests: self.deferred_requests.saturating_sub(earlier.deferred_requests),
            acknowledgement_times: subtract_elementwise(
                &self.acknowledgement_times,
                &earlier.acknowledgement_times,
            ),
            store_unavailable: self.store_unavailable.saturating_sub(earlier.store_unavailable),
            shadow_copied: self.shadow_copied.saturating_sub(earlier.shadow_copied),
            shadow_compared: self.shadow_compared.saturating_sub(earlier.shadow_compared),
            shadow_mismatched: self.shadow_mismatched.saturating_sub(earlier.shadow_mismatched),
        }
    }

    /// Canaried requests, whatever came of them: those that became a task, and those that did not.
    #[must_use]
    pub fn canaried_requests(&self) -> u64 {
        self.accepted_tasks + self.requests_without_task()
    }

    /// Canaried requests that have an outcome without a task.
    fn requests_without_task(&self) -> u64 {
        self.refused_requests + self.rejected_requests
    }

    /// Tasks whose outcome is still to come.
    #[must_use]
    pub fn open_tasks(&self) -> u64 {
        let ended = self.async_counts.total.saturating_sub(self.requests_without_task());
        self.accepted_tasks.saturating_sub(ended + self.cancelled_tasks)
    }
}

impl<'a> std::iter::Sum<&'a Self> for RolloutEvidence {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, evidence| {
            sum.add(evidence);
            sum
        })
    }
}

/// How many of `took` were over `seconds`, which is one of the bounds.
#[must_use]
pub fn count_slower_than(took: &DurationCounts, seconds: f64) -> u64 {
    let first = DURATION_BUCKET_BOUNDS.partition_point(|bound| *bound <= seconds);
    took[first..].iter().sum()
}

/// Of how many clients such requests are: as many as the groups that have any make likely (linear
/// counting; Whang, Vander-Zanden, Taylor 1990). None where every group has some: they are too many
/// to be told apart.
#[must_use]
pub fn estimate_clients(by: &ClientGroupCounts) -> Option<u64> {
    let empty = by.iter().filter(|requests| **requests == 0).count();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    // at most 111
    (empty > 0)
        .then(|| (CLIENT_GROUPS as f64 * (CLIENT_GROUPS as f64 / empty as f64).ln()).round() as u64)
}

fn add_elementwise<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
    for (sum, more) in to.iter_mut().zip(from) {
        *sum += more;
    }
}

fn subtract_elementwise<const N: usize>(now: &[u64; N], earlier: &[u64; N]) -> [u64; N] {
    std::array::from_fn(|at| now[at].saturating_sub(earlier[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_clients_are_counted_and_too_many_are_not() {
        let of = |groups: usize| {
            estimate_clients(&std::array::from_fn(|at| u64::from(at < groups) * 900))
        };
        assert_eq!(
            [0, 1, 2, 4, 16, 31, 32].map(of),
            [Some(0), Some(1), Some(2), Some(4), Some(22), Some(111), None]
        );
    }
}
