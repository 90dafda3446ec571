//! The assignment of clients to the sync and the async path: a client's key is hashed into one of
//! 10,000 buckets, and the buckets below the weight take the async path.
//!
//! The hash is XXH3-64 over `salt`, a zero byte and `key`. It is part of the contract, because two
//! replicas or releases that hashed differently would move clients back and forth. Raising the
//! weight only adds buckets, lowering it removes those that were added last, and the weights 0 and
//! 100 % need no hash.

use std::fmt;

/// The number of buckets; a weight is a number of them.
pub const COHORT_BUCKETS: u16 = 10_000;

/// A share of traffic in basis points, 0 to 10,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All traffic.
    pub const FULL: Self = Self(COHORT_BUCKETS);

    /// The weight of a percentage, rounded to a hundredth; `None` outside of 0 to 100.
    #[must_use]
    pub fn from_percent(percent: f64) -> Option<Self> {
        if !(0.0..=100.0).contains(&percent) {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 10,000
        Some(Self((percent * 100.0).round() as u16))
    }

    /// The weight of `points` basis points; more than 10,000 becomes 10,000.
    #[must_use]
    pub fn from_basis_points(points: u16) -> Self {
        Self(points.min(COHORT_BUCKETS))
    }

    /// The weight in basis points.
    #[must_use]
    pub fn basis_points(self) -> u16 {
        self.0
    }

    /// The weight in percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Whether `bucket` (0 to 9,999) takes the async path at this weight.
    #[must_use]
    pub fn covers(self, bucket: u16) -> bool {
        bucket < self.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.percent())
    }
}

/// The path on which a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestPath {
    /// Streamed to the upstream at once.
    Sync,
    /// Captured as a task and run from the queue.
    Async,
}

impl RequestPath {
    /// The value of the `path` label and of the `x-omnidaemon-path` header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

/// The hash of a client's key under the salt of a rollout.
#[must_use]
pub fn hash_sticky_key(salt: &str, key: &[u8]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(salt.as_bytes());
    hash.update(&[0]);
    hash.update(key);
    hash.digest()
}

/// The bucket of a key's hash, or of a random number for a request without a key.
#[must_use]
pub fn cohort_bucket(hash: u64) -> u16 {
    #[allow(clippy::cast_possible_truncation)] // below 10,000
    let bucket = (hash % u64::from(COHORT_BUCKETS)) as u16;
    bucket
}

/// The number of client groups. Failures are counted by group: that distinguishes a few failing
/// clients from many, and identifies none of them.
pub const CLIENT_GROUPS: usize = 32;

/// The group of a key's hash, 0 to 31: its five highest bits, which do not depend on the bucket.
#[must_use]
pub fn client_group(hash: u64) -> u8 {
    (hash >> 59).to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_the_same_in_every_release() {
        let buckets = [("invoke", "client-1"), ("invoke", "client-2"), ("", "")]
            .map(|(salt, key)| bucket_of_key(salt, key.as_bytes()));
        assert_eq!(buckets, EXPECTED_BUCKETS);
    }

    const EXPECTED_BUCKETS: [u16; 3] = [9473, 5019, 1883];

    fn bucket_of_key(salt: &str, key: &[u8]) -> u16 {
        cohort_bucket(hash_sticky_key(salt, key))
    }

    #[test]
    fn clients_of_every_bucket_are_in_every_group() {
        let mut groups = [0; CLIENT_GROUPS];
        for hash in (0..40_000u32)
            .map(|n| hash_sticky_key("s", &n.to_le_bytes()))
            .filter(|hash| cohort_bucket(*hash) < 1_000)
        {
            groups[usize::from(client_group(hash))] += 1;
        }
        assert!(groups.iter().all(|clients| (60..200).contains(clients)), "{groups:?}");
    }

    proptest! {
        #[test]
        fn raising_only_adds_and_the_ends_are_exact(
            key in ".*", low in 0u16..=10_000, more in 0u16..=10_000
        ) {
            let bucket = bucket_of_key("salt", key.as_bytes());
            let high = Weight::from_basis_points(low.saturating_add(more));
            let low = Weight::from_basis_points(low);
            prop_assert!(!low.covers(bucket) || high.covers(bucket));
            prop_assert!(Weight::FULL.covers(bucket) && !Weight::ZERO.covers(bucket));
        }
    }

    #[test]
    fn the_share_of_clients_is_the_weight() {
        let ten = Weight::from_percent(10.0).expect("in range");
        let hits =
            (0..20_000).filter(|n: &u32| ten.covers(bucket_of_key("s", &n.to_le_bytes()))).count();
        assert!((1_800..2_200).contains(&hits), "{hits}");
    }

    #[test]
    fn percents_are_read_to_the_hundredth() {
        assert_eq!(Weight::from_percent(0.01).map(Weight::basis_points), Some(1));
        assert_eq!(Weight::from_percent(12.5).map(|w| w.to_string()).as_deref(), Some("12.5 %"));
        assert_eq!(
            (
                Weight::from_percent(100.1),
                Weight::from_percent(-1.0),
                Weight::from_percent(f64::NAN)
            ),
            (None, None, None)
        );
    }
}
