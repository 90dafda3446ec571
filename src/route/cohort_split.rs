//! The split: which path a request takes by its client, its route's weight and pins.
//!
//! A client with a sticky key keeps its path while the weight stays the same, and raising the
//! weight only moves clients from sync to async (`cohort_hash.rs`).

use http::{HeaderMap, header};

use crate::cohort_hash::{self, RequestPath, Weight};
use crate::config::{PinConfig, RolloutConfig, StickyKey};

/// The path of a request and the group of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CohortAssignment {
    /// The assigned path.
    pub path: RequestPath,
    /// The [group](cohort_hash::client_group) of the client; known for a request whose sticky key
    /// was read for the assignment.
    pub client_group: Option<u8>,
    /// What the path was found by.
    pub basis: AssignmentBasis,
    /// Whether the request lacks the sticky key that its route expects, and is assigned at random.
    pub lacks_sticky_key: bool,
}

/// What the path of a request was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignmentBasis {
    /// By nothing that depends on chance or client: a pin, the choice of a trusted caller, or a
    /// weight of 0 or 100 %.
    Fixed,
    /// By the [bucket](cohort_hash::cohort_bucket) of its sticky key.
    Bucket(u16),
    /// By a random bucket.
    Random,
}

impl From<RequestPath> for CohortAssignment {
    /// The fixed assignment of a request whose client is not known.
    fn from(path: RequestPath) -> Self {
        Self { path, client_group: None, basis: AssignmentBasis::Fixed, lacks_sticky_key: false }
    }
}

/// Assigns a path to a request. `random` draws the bucket of a request without a sticky key. A
/// pinned client has its pinned path at every weight above 0; one that is pinned to sync keeps it
/// even at 100 %.
#[must_use]
pub fn assign_cohort(
    rollout: &RolloutConfig,
    weight: Weight,
    headers: &HeaderMap,
    random: impl FnOnce() -> u64,
) -> CohortAssignment {
    if weight == Weight::ZERO {
        return RequestPath::Sync.into();
    }
    if weight == Weight::FULL && rollout.pin.sync_key_values.is_empty() {
        return RequestPath::Async.into();
    }
    let key = find_sticky_key(rollout, headers).map(|(_, key)| key);
    let hash = key.map(|key| cohort_hash::hash_sticky_key(&rollout.salt, key));
    let (path, basis) = match key.and_then(|key| find_pinned_path(&rollout.pin, key)) {
        Some(path) => (path, AssignmentBasis::Fixed),
        None if weight == Weight::FULL => (RequestPath::Async, AssignmentBasis::Fixed),
        None => {
            let bucket = cohort_hash::cohort_bucket(hash.unwrap_or_else(random));
            let basis = hash.map_or(AssignmentBasis::Random, |_| AssignmentBasis::Bucket(bucket));
            (path_of_bucket(weight, bucket), basis)
        }
    };
    let lacks_sticky_key =
        hash.is_none() && weight != Weight::FULL && !rollout.sticky_keys.is_empty();
    CohortAssignment {
        path,
        client_group: hash.map(cohort_hash::client_group),
        basis,
        lacks_sticky_key,
    }
}

/// The path of a bucket at a weight.
fn path_of_bucket(weight: Weight, bucket: u16) -> RequestPath {
    if weight.covers(bucket) { RequestPath::Async } else { RequestPath::Sync }
}

impl CohortAssignment {
    /// Whether the client's bucket belongs to the other path at the weight that the rollout wants.
    #[must_use]
    pub fn is_mismatched(&self, desired_weight: Weight) -> bool {
        match self.basis {
            AssignmentBasis::Bucket(bucket) => path_of_bucket(desired_weight, bucket) != self.path,
            AssignmentBasis::Fixed | AssignmentBasis::Random => false,
        }
    }
}

fn find_pinned_path(pin: &PinConfig, key: &[u8]) -> Option<RequestPath> {
    let contains_key = |list: &[String]| list.iter().any(|pinned| pinned.as_bytes() == key);
    if contains_key(&pin.sync_key_values) {
        return Some(RequestPath::Sync);
    }
    contains_key(&pin.async_key_values).then_some(RequestPath::Async)
}

/// Whether the client of a request is pinned to the sync path.
#[must_use]
pub fn is_pinned_sync(rollout: &RolloutConfig, headers: &HeaderMap) -> bool {
    find_sticky_key(rollout, headers)
        .is_some_and(|(_, key)| find_pinned_path(&rollout.pin, key) == Some(RequestPath::Sync))
}

/// The sticky key that identifies the client of a request, and its value: the first of the route's
/// keys that the request has.
#[must_use]
pub fn find_sticky_key<'r, 'h>(
    rollout: &'r RolloutConfig,
    headers: &'h HeaderMap,
) -> Option<(&'r StickyKey, &'h [u8])> {
    rollout.sticky_keys.iter().find_map(|key| Some((key, find_sticky_value(key, headers)?)))
}

fn find_sticky_value<'h>(key: &StickyKey, headers: &'h HeaderMap) -> Option<&'h [u8]> {
    let value = match key {
        StickyKey::Header(name) => headers.get(name)?.as_bytes(),
        StickyKey::Cookie(name) => find_cookie(headers, name)?.as_bytes(),
    };
    (!value.is_empty()).then_some(value)
}

fn find_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RolloutMode;

    fn test_rollout_config(sticky: Vec<StickyKey>) -> RolloutConfig {
        RolloutConfig {
            sticky_keys: sticky,
            ..RolloutConfig::new("s", Weight::FULL, RolloutMode::Manual)
        }
    }

    fn assigned_path(
        rollout: &RolloutConfig,
        weight: Weight,
        headers: &HeaderMap,
        random: impl FnOnce() -> u64,
    ) -> RequestPath {
        assign_cohort(rollout, weight, headers, random).path
    }

    fn build_headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn a_client_with_a_key_keeps_its_path_while_the_weight_stays() {
        let sticky = vec![StickyKey::Header(header::FROM), StickyKey::Cookie("sid".into())];
        let (rollout, half) = (test_rollout_config(sticky), Weight::from_basis_points(5_000));
        for who in [
            build_headers(&[("from", "a")]),
            build_headers(&[("cookie", "x=1; sid=b"), ("from", "")]),
        ] {
            let first = assigned_path(&rollout, half, &who, || unreachable!("it has a key"));
            assert!(
                (0..50).all(|_| assigned_path(&rollout, half, &who, || unreachable!()) == first)
            );
        }
    }

    #[test]
    fn the_ends_are_exact_and_a_request_without_a_key_is_random() {
        let (rollout, none) = (
            test_rollout_config(vec![StickyKey::Cookie("sid".into())]),
            build_headers(&[("cookie", "sidx=1")]),
        );
        assert_eq!(assigned_path(&rollout, Weight::ZERO, &none, || 0), RequestPath::Sync);
        assert_eq!(assigned_path(&rollout, Weight::FULL, &none, || u64::MAX), RequestPath::Async);
        let tenth = Weight::from_basis_points(1_000);
        assert_eq!(assigned_path(&rollout, tenth, &none, || 999), RequestPath::Async);
        assert_eq!(assigned_path(&rollout, tenth, &none, || 1_000), RequestPath::Sync);
    }

    #[test]
    fn a_client_has_one_group_on_either_path_and_other_requests_have_none() {
        let rollout = test_rollout_config(vec![StickyKey::Header(header::FROM)]);
        let split = |points, who: &HeaderMap| {
            assign_cohort(&rollout, Weight::from_basis_points(points), who, || 7)
        };
        let clients = |points, who: &HeaderMap| split(points, who).client_group;
        let known = build_headers(&[("from", "a")]);
        assert!(clients(1, &known).is_some());
        assert_eq!(clients(1, &known), clients(9_999, &known));
        assert_eq!(
            (clients(5_000, &build_headers(&[])), clients(0, &known), clients(10_000, &known)),
            (None, None, None)
        );
        let unkeyed = [(5_000, ""), (5_000, "a"), (0, ""), (10_000, "")]
            .map(|(points, who)| split(points, &build_headers(&[("from", who)])).lacks_sticky_key);
        assert_eq!(unkeyed, [true, false, false, false]);
        let (none, half) = (test_rollout_config(Vec::new()), Weight::from_basis_points(5_000));
        assert!(
            !assign_cohort(&none, half, &known, || 7).lacks_sticky_key,
            "the route expects no key"
        );
    }

    #[test]
    fn an_assignment_is_mismatched_where_another_weight_than_the_desired_one_made_it() {
        let pin = PinConfig { sync_key_values: vec!["out".into()], async_key_values: Vec::new() };
        let rollout =
            RolloutConfig { pin, ..test_rollout_config(vec![StickyKey::Header(header::FROM)]) };
        let weight = Weight::from_basis_points;
        let mismatched = |from: &str, ran, desired| {
            let headers = build_headers(&[("from", from)]);
            assign_cohort(&rollout, weight(ran), &headers, || 0).is_mismatched(weight(desired))
        };
        let clients: Vec<String> = (0..200).map(|n| format!("client-{n}")).collect();
        let count =
            |ran, desired| clients.iter().filter(|client| mismatched(client, ran, desired)).count();
        assert_eq!((count(5_000, 5_000), count(1_000, 1_000)), (0, 0));
        assert!((50..110).contains(&count(1_000, 5_000)), "a replica that allows less");
        for unkeyed_or_pinned in ["", "out"] {
            assert!(!mismatched(unkeyed_or_pinned, 1_000, 9_999));
        }
        let basis = |from: &str, points| {
            assign_cohort(&rollout, weight(points), &build_headers(&[("from", from)]), || 7).basis
        };
        assert_eq!(basis("", 5_000), AssignmentBasis::Random);
        assert_eq!(
            (basis("out", 5_000), basis("a", 10_000)),
            (AssignmentBasis::Fixed, AssignmentBasis::Fixed)
        );
        assert!(matches!(basis("a", 5_000), AssignmentBasis::Bucket(_)));
    }

    #[test]
    fn a_pinned_client_has_its_path_at_every_weight_but_0() {
        let pin = PinConfig {
            sync_key_values: vec!["out".into()],
            async_key_values: vec!["first".into()],
        };
        let rollout =
            RolloutConfig { pin, ..test_rollout_config(vec![StickyKey::Header(header::FROM)]) };
        let assigned = |who: &str, points| {
            assigned_path(
                &rollout,
                Weight::from_basis_points(points),
                &build_headers(&[("from", who)]),
                || unreachable!("it has a key"),
            )
        };
        for points in [1, 5_000, 9_999, 10_000] {
            assert_eq!(
                (assigned("out", points), assigned("first", points)),
                (RequestPath::Sync, RequestPath::Async)
            );
        }
        assert_eq!(
            (assigned("out", 0), assigned("first", 0)),
            (RequestPath::Sync, RequestPath::Sync)
        );
        let pinned_sync = |who| is_pinned_sync(&rollout, &build_headers(&[("from", who)]));
        assert_eq!(["out", "first", "outer"].map(pinned_sync), [true, false, false]);
        // A value that only starts with a pinned one is another client.
        assert_eq!(assigned("outer", 10_000), RequestPath::Async);
        assert_eq!(
            assigned_path(&rollout, Weight::FULL, &HeaderMap::new(), || u64::MAX),
            RequestPath::Async
        );
    }
}
