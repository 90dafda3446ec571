//! Whether failures are evidence against the async path although one client may have caused them
//! all.
//!
//! One client with a revoked key, or one that retries a broken call every second, is no regression.
//! So a client group's failures count at most as often as those of the third-worst group: the
//! failures of one client never decide, whatever noise there is beside them, and failures of many
//! clients hardly lose any. Where that would hide a regression, every failure counts: with fewer
//! than three groups, with one client that makes more than half of the traffic, and with clients
//! that cannot be told apart.

use std::fmt;

use crate::cohort_hash::CLIENT_GROUPS;
use crate::rollout::evidence::{ClientGroupCounts, RolloutEvidence};
use crate::rollout::statistics::{count_as_float, share_of};

/// How many groups must have failures before these count.
const MIN_FAILING_GROUPS: usize = 3;

/// How many failures that do not count are worth a warning.
const MIN_NOISY_FAILURES: u64 = 3;

/// What the failures of a path are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientBasis {
    /// Groups of clients: no group counts more often than the third-worst one.
    Groups,
    /// Requests: every failure counts.
    Requests(RequestBasisReason),
}

/// Why failures are counted by request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBasisReason {
    /// No canaried request has a sticky key or anything that authenticates its client.
    UnknownClients,
    /// Canaried requests came of so few groups of clients.
    FewGroups(usize),
    /// This group made more than half of the requests of both paths.
    DominantGroup(u8),
}

/// A group of clients that has most of the failures, which therefore do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoisyGroup {
    /// The group.
    pub group: u8,
    /// Its failures.
    pub failures: u64,
    /// The failures of all groups.
    pub all_failures: u64,
}

// === impl ClientBasis ===

impl ClientBasis {
    /// The basis for the failures of `evidence`.
    #[must_use]
    pub fn from_evidence(evidence: &RolloutEvidence) -> Self {
        let RolloutEvidence { canaried_by_group, sync_requests_by_group, .. } = evidence;
        let active = canaried_by_group.iter().filter(|requests| **requests > 0).count();
        let requests = evidence.canaried_requests() + evidence.sync_counts.total;
        let of_group = |group: usize| canaried_by_group[group] + sync_requests_by_group[group];
        let dominant =
            (0u8..).take(CLIENT_GROUPS).find(|group| of_group(usize::from(*group)) * 2 > requests);
        match (active, dominant) {
            (0, _) => Self::Requests(RequestBasisReason::UnknownClients),
            (_, Some(group)) => Self::Requests(RequestBasisReason::DominantGroup(group)),
            (1..MIN_FAILING_GROUPS, _) => Self::Requests(RequestBasisReason::FewGroups(active)),
            _ => Self::Groups,
        }
    }

    /// How many of the failures do not count, being the excess of the two worst groups over the
    /// third-worst one.
    #[must_use]
    pub fn uncounted_failures(self, failed_by_group: &ClientGroupCounts) -> u64 {
        let most = self.most_of_a_group(failed_by_group);
        failed_by_group.iter().map(|failures| failures.saturating_sub(most)).sum()
    }

    /// How many of the new failures do not count: the same part of each group's as of all its
    /// failures, which contain the new ones.
    #[must_use]
    pub fn uncounted_part(self, new: &ClientGroupCounts, all: &ClientGroupCounts) -> f64 {
        let most = self.most_of_a_group(all);
        let of_group = |(new, all): (&u64, &u64)| {
            count_as_float(*new) * share_of(all.saturating_sub(most), *all)
        };
        new.iter().zip(all).map(of_group).sum()
    }

    /// How many failures of one group count at most: as many as the third-worst group has.
    fn most_of_a_group(self, failed_by_group: &ClientGroupCounts) -> u64 {
        if self != Self::Groups {
            return u64::MAX;
        }
        let mut failures = *failed_by_group;
        failures.sort_unstable();
        failures[CLIENT_GROUPS - MIN_FAILING_GROUPS]
    }

    /// Why failures are counted by request, for people; none where they are counted by group.
    #[must_use]
    pub fn explain(self) -> Option<String> {
        let Self::Requests(reason) = self else { return None };
        Some(match reason {
            RequestBasisReason::UnknownClients => "nothing tells clients apart (no sticky key, \
                Authorization, X-API-Key or Cookie)"
                .to_owned(),
            RequestBasisReason::FewGroups(1) => {
                "canaried requests come from one group of clients".to_owned()
            }
            RequestBasisReason::FewGroups(groups) => {
                format!("canaried requests come from {groups} groups of clients")
            }
            RequestBasisReason::DominantGroup(group) => {
                format!("client group {group} makes more than half of the requests")
            }
        })
    }
}

// === impl NoisyGroup ===

impl NoisyGroup {
    /// The consequence for the rollout, at the end of the text.
    pub const CONSEQUENCE: &str = "one client alone causes no rollback";

    /// The group that has most of `failures`, where most of them do not count.
    #[must_use]
    pub fn find(
        basis: ClientBasis,
        failures: u64,
        failed_by_group: &ClientGroupCounts,
    ) -> Option<Self> {
        let uncounted = basis.uncounted_failures(failed_by_group);
        let groups = (0u8..).zip(failed_by_group.iter().copied());
        let (group, of_group) = groups.max_by_key(|(_, failures)| *failures)?;
        (uncounted >= MIN_NOISY_FAILURES && uncounted * 2 > failures).then_some(Self {
            group,
            failures: of_group,
            all_failures: failures,
        })
    }

    /// The group with most of the async failures, else with most of the async 4xx.
    #[must_use]
    pub fn from_evidence(evidence: &RolloutEvidence) -> Option<Self> {
        let (basis, counts) = (ClientBasis::from_evidence(evidence), &evidence.async_counts);
        Self::find(basis, counts.failed, &counts.failed_by_group)
            .or_else(|| Self::find(basis, counts.client_errors, &counts.client_errors_by_group))
    }
}

impl fmt::Display for NoisyGroup {
    /// `60 of 61 come from client group 17; one client alone causes no rollback`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, failures, all_failures } = self;
        let consequence = Self::CONSEQUENCE;
        write!(f, "{failures} of {all_failures} come from client group {group}; {consequence}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_group(counts: &[u64]) -> ClientGroupCounts {
        std::array::from_fn(|group| counts.get(group).copied().unwrap_or_default())
    }

    fn basis(canaried: &[u64], sync: &[u64], unknown: u64) -> ClientBasis {
        let mut evidence = RolloutEvidence {
            accepted_tasks: canaried.iter().sum::<u64>() + unknown,
            canaried_by_group: by_group(canaried),
            sync_requests_by_group: by_group(sync),
            ..RolloutEvidence::default()
        };
        evidence.sync_counts.total = sync.iter().sum();
        ClientBasis::from_evidence(&evidence)
    }

    #[test]
    fn requests_count_where_clients_are_few_or_unknown_or_one_makes_most_of_the_traffic() {
        use RequestBasisReason::{DominantGroup, FewGroups, UnknownClients};
        for (canaried, sync, unknown, expected) in [
            (&[9, 9, 9, 9, 9][..], &[][..], 0, ClientBasis::Groups),
            (&[], &[400, 400], 90, ClientBasis::Requests(UnknownClients)),
            (&[5, 5], &[20, 20, 20, 20], 0, ClientBasis::Requests(FewGroups(2))),
            (&[80, 10, 10], &[], 0, ClientBasis::Requests(DominantGroup(0))),
            // most of the canaried requests, but few of all
            (&[80, 10, 10], &[0, 300, 300, 300], 0, ClientBasis::Groups),
            (&[50, 25, 25], &[], 0, ClientBasis::Groups),
            (&[60, 10, 10], &[], 100, ClientBasis::Groups),
        ] {
            assert_eq!(basis(canaried, sync, unknown), expected, "{canaried:?} {sync:?}");
        }
    }

    #[test]
    fn a_group_counts_no_more_often_than_the_third_worst() {
        for (failed, uncounted) in [
            (&[60][..], 60),
            (&[60, 1], 61),
            (&[60, 1, 1, 1], 59),
            (&[5, 5, 5, 5, 5], 0),
            (&[9, 7, 4, 2], 8),
        ] {
            assert_eq!(ClientBasis::Groups.uncounted_failures(&by_group(failed)), uncounted);
            let every = ClientBasis::Requests(RequestBasisReason::UnknownClients);
            assert_eq!(every.uncounted_failures(&by_group(failed)), 0);
        }
        let noisy = |failed: &[u64]| {
            NoisyGroup::find(ClientBasis::Groups, failed.iter().sum(), &by_group(failed))
                .map(|noisy| (noisy.group, noisy.failures, noisy.all_failures))
        };
        assert_eq!(noisy(&[1, 60, 1, 0, 1]), Some((1, 60, 63)));
        assert_eq!((noisy(&[]), noisy(&[2]), noisy(&[9, 8, 7, 7])), (None, None, None));
    }

    proptest! {
        #[test]
        fn another_failure_never_makes_fewer_count(
            failed in prop::array::uniform32(0u64..40), group in 0..CLIENT_GROUPS,
        ) {
            let counted = |failed: &ClientGroupCounts| {
                failed.iter().sum::<u64>() - ClientBasis::Groups.uncounted_failures(failed)
            };
            let mut more = failed;
            more[group] += 1;
            prop_assert!(counted(&more) >= counted(&failed));
        }
    }
}
