//! The client group of a request: which requests come from the same client, as far as that can be
//! told, so that the failures of one client do not look like the failures of many.
//!
//! A client is identified by its route's sticky key, else by a hash over the fields that
//! authenticate it, else not at all: behind a load balancer all clients have one address. Only the
//! [group](cohort_hash::client_group) of the hash is kept, which names no client.

use http::{HeaderMap, HeaderName, header};
use xxhash_rust::xxh3::Xxh3;

use super::cohort_split::find_sticky_key;
use crate::cohort_hash;
use crate::config::RolloutConfig;

/// The fields that authenticate a client, in the order in which they are hashed.
static IDENTITY_FIELDS: [HeaderName; 3] =
    [header::AUTHORIZATION, HeaderName::from_static("x-api-key"), header::COOKIE];

/// The group of the client that sent a request; none where nothing identifies the client.
#[must_use]
pub fn find_client_group(rollout: &RolloutConfig, headers: &HeaderMap) -> Option<u8> {
    let hash = match find_sticky_key(rollout, headers) {
        Some((_, key)) => cohort_hash::hash_sticky_key(&rollout.salt, key),
        None => hash_identity_fields(&rollout.salt, headers)?,
    };
    Some(cohort_hash::client_group(hash))
}

/// A hash over the authenticating fields that a request has.
fn hash_identity_fields(salt: &str, headers: &HeaderMap) -> Option<u64> {
    if !IDENTITY_FIELDS.iter().any(|name| headers.contains_key(name)) {
        return None;
    }
    let mut hash = Xxh3::new();
    hash.update(salt.as_bytes());
    for name in &IDENTITY_FIELDS {
        // a byte that no field value contains keeps the values of two fields apart
        hash.update(&[0]);
        for value in headers.get_all(name) {
            hash.update(value.as_bytes());
        }
    }
    Some(hash.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cohort_hash::Weight;
    use crate::config::{RolloutMode, StickyKey};

    fn group_of(sticky: &[StickyKey], fields: &[(&'static str, &str)]) -> Option<u8> {
        let rollout = RolloutConfig {
            sticky_keys: sticky.to_vec(),
            ..RolloutConfig::new("s", Weight::FULL, RolloutMode::Gated)
        };
        let headers = fields
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect();
        find_client_group(&rollout, &headers)
    }

    #[test]
    fn a_client_is_known_by_its_sticky_key_else_by_what_authenticates_it_else_not() {
        let from = [StickyKey::Header(header::FROM)];
        let by_key = group_of(&from, &[("from", "a")]);
        assert!(by_key.is_some());
        assert_eq!(group_of(&from, &[("from", "a"), ("authorization", "Bearer x")]), by_key);
        assert_eq!(group_of(&from, &[("accept", "text/html"), ("user-agent", "curl")]), None);
        assert_eq!(group_of(&[], &[("from", "a")]), None);
        let known = [("authorization", "Bearer x"), ("x-api-key", "x"), ("cookie", "sid=x")]
            .map(|field| group_of(&from, &[field]));
        assert!(known.iter().all(Option::is_some), "{known:?}");
    }

    #[test]
    fn clients_with_different_credentials_are_spread_over_the_groups() {
        let groups: std::collections::BTreeSet<_> = (0..400)
            .map(|n| group_of(&[], &[("authorization", &format!("Bearer token-{n}"))]))
            .collect();
        assert_eq!(groups.len(), cohort_hash::CLIENT_GROUPS);
        let shared_login = (0..400).map(|n| {
            group_of(&[], &[("authorization", "Basic c2hhcmVk"), ("cookie", &format!("sid={n}"))])
        });
        assert_eq!(shared_login.collect::<std::collections::BTreeSet<_>>(), groups);
    }
}
