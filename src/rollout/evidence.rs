//! Counts of a route's sync path and async path: the evidence that gates judge.
//!
//! Counts are cumulative within one epoch and summed over all replicas: an evaluation that does not
//! run loses no counts. The store counts a task in the change that ends it, under the epoch in
//! which the task was accepted: a worker that dies loses no counts. Each proxy counts what the
//! store does not know, such as the responses of the sync path.

use super::assignments::AssignmentCounts;
use super::fallbacks::FallbackCounts;
use crate::cohort_hash::CLIENT_GROUPS;
use crate::metrics::FallbackReason;
use crate::task::{DURATION_BUCKET_BOUNDS, DurationCounts};

/// Requests by the [group](crate::cohort_hash::client_group) of their client, where the group is
/// known.
pub type ClientGroupCounts = [u64; CLIENT_GROUPS];

/// Outcomes of the requests of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvidenceCounts {
    /// Requests with an outcome: tasks that completed or failed count, cancelled tasks do not.
    pub total: u64,
    /// Failed requests: 5xx on the sync path; on the async path a task that failed for good or was
    /// refused.
    pub failed: u64,
    /// Requests that were answered with a 4xx; not among `failed`.
    pub client_errors: u64,
    /// Times from the request to its outcome.
    pub durations: DurationCounts,
    /// Failed requests by group of clients.
    pub failed_by_group: ClientGroupCounts,
    /// Requests that were answered with a 4xx, by group of clients.
    pub client_errors_by_group: ClientGroupCounts,
}

/// The evidence of one epoch of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolloutEvidence {
    /// Outcomes of requests that the sync path served because they were not canaried.
    pub sync_counts: EvidenceCounts,
    /// Outcomes of canaried requests.
    pub async_counts: EvidenceCounts,
    /// Canaried requests that became a task.
    pub accepted_tasks: u64,
    /// Accepted tasks that were cancelled: they get no outcome.
    pub cancelled_tasks: u64,
    /// Canaried requests that the store refused, or that this program answered with a 5xx instead
    /// of making a task; each is also an async failure.
    pub refused_requests: u64,
    /// Canaried requests that this program answered with a 4xx instead of making a task; each is
    /// also an async client error.
    pub rejected_requests: u64,
    /// Canaried requests that were answered with 202, so that the client must poll, although it
    /// did not ask for that.
    pub deferred_requests: u64,
    /// Times that clients of canaried requests waited for an answer, 202 included.
    pub acknowledgement_times: DurationCounts,
    /// Requests that would have been canaried and were served sync because the store was
    /// unreachable.
    pub store_unavailable: u64,
    /// Requests of the async cohort that were served sync, by reason; those of
    /// `store_unavailable` included.
    pub fallbacks: FallbackCounts,
    /// How requests were assigned to the paths.
    pub assignments: AssignmentCounts,
    /// Copies of sync requests (`shadow`) that became a task; no other count contains them.
    pub shadow_copied: u64,
    /// Copies whose answer was compared with the answer of the sync path.
    pub shadow_compared: u64,
    /// Compared copies whose answer differed.
    pub shadow_mismatched: u64,
    /// The requests of `sync_counts`, by group of clients.
    pub sync_requests_by_group: ClientGroupCounts,
    /// Canaried requests, by group of clients.
    pub canaried_by_group: ClientGroupCounts,
}

// === impl EvidenceCounts ===

impl EvidenceCounts {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.failed += other.failed;
        self.client_errors += other.client_errors;
        add_elementwise(&mut self.durations, &other.durations);
        add_elementwise(&mut self.failed_by_group, &other.failed_by_group);
        add_elementwise(&mut self.client_errors_by_group, &other.client_errors_by_group);
    }

    /// The counts since `earlier`; zero where the store lost counts (it was flushed).
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

// === impl RolloutEvidence ===

impl RolloutEvidence {
    /// Adds the counts of `other`.
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
        self.fallbacks.add(&other.fallbacks);
        self.assignments.add(&other.assignments);
        self.shadow_copied += other.shadow_copied;
        self.shadow_compared += other.shadow_compared;
        self.shadow_mismatched += other.shadow_mismatched;
        add_elementwise(&mut self.sync_requests_by_group, &other.sync_requests_by_group);
        add_elementwise(&mut self.canaried_by_group, &other.canaried_by_group);
    }

    /// The evidence since `earlier`; zero where the store lost counts.
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
            fallbacks: self.fallbacks.delta_since(&earlier.fallbacks),
            assignments: self.assignments.delta_since(&earlier.assignments),
            shadow_copied: self.shadow_copied.saturating_sub(earlier.shadow_copied),
            shadow_compared: self.shadow_compared.saturating_sub(earlier.shadow_compared),
            shadow_mismatched: self.shadow_mismatched.saturating_sub(earlier.shadow_mismatched),
            sync_requests_by_group: subtract_elementwise(
                &self.sync_requests_by_group,
                &earlier.sync_requests_by_group,
            ),
            canaried_by_group: subtract_elementwise(
                &self.canaried_by_group,
                &earlier.canaried_by_group,
            ),
        }
    }

    /// Canaried requests with or without an outcome, whether they became a task or not.
    #[must_use]
    pub fn canaried_requests(&self) -> u64 {
        self.accepted_tasks + self.requests_without_task()
    }

    /// Requests that were assigned to the async path: the canaried ones, and those that fell back
    /// before they became a task.
    #[must_use]
    pub fn assigned_to_async(&self) -> u64 {
        let fell_back = self.fallbacks.nonzero_counts().map(|(_, count)| count);
        self.served_async() + fell_back.sum::<u64>()
    }

    /// Canaried requests that the async path answered.
    #[must_use]
    pub fn served_async(&self) -> u64 {
        // what the store refused is canaried, since it is a failure, and was served sync
        let refused = [FallbackReason::Backpressure, FallbackReason::StoreRefused];
        let served_sync: u64 = refused.map(|reason| self.fallbacks.count_for(reason)).iter().sum();
        self.canaried_requests().saturating_sub(served_sync)
    }

    /// Canaried requests that have an outcome and never became a task.
    fn requests_without_task(&self) -> u64 {
        self.refused_requests + self.rejected_requests
    }

    /// Accepted tasks without an outcome so far.
    #[must_use]
    pub fn open_tasks(&self) -> u64 {
        let ended = self.async_counts.total.saturating_sub(self.requests_without_task());
        self.accepted_tasks.saturating_sub(ended + self.cancelled_tasks)
    }

    /// Whether at least the share `min_ended_ratio` (0 to 1) of the accepted tasks has an outcome.
    #[must_use]
    pub fn is_mature(&self, min_ended_ratio: f64) -> bool {
        #[allow(clippy::cast_precision_loss)] // counts of requests stay below 2^53
        let (open, accepted) = (self.open_tasks() as f64, self.accepted_tasks as f64);
        open <= (1.0 - min_ended_ratio) * accepted
    }

    /// Counts every open task as failed, for an epoch in which the deadline of all tasks has
    /// passed.
    pub fn fail_open_tasks(&mut self) {
        let open = self.open_tasks();
        self.async_counts.failed += open;
        self.async_counts.total += open;
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

/// How many durations are over `seconds`, which is one of the bucket bounds.
#[must_use]
pub fn count_slower_than(durations: &DurationCounts, seconds: f64) -> u64 {
    let first = DURATION_BUCKET_BOUNDS.partition_point(|bound| *bound <= seconds);
    durations[first..].iter().sum()
}

/// How many clients made these requests, estimated from the number of groups without any (linear
/// counting; Whang, Vander-Zanden, Taylor 1990). None where every group has some: then the clients
/// are too many for an estimate.
#[must_use]
pub fn estimate_clients(by_group: &ClientGroupCounts) -> Option<u64> {
    let empty = by_group.iter().filter(|requests| **requests == 0).count();
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
    fn few_clients_are_estimated_and_too_many_are_not() {
        let of = |groups: usize| {
            estimate_clients(&std::array::from_fn(|at| u64::from(at < groups) * 900))
        };
        assert_eq!(
            [0, 1, 2, 4, 16, 31, 32].map(of),
            [Some(0), Some(1), Some(2), Some(4), Some(22), Some(111), None]
        );
    }
}
