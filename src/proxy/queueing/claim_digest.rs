//! The digests that identify an idempotency claim in the store, which keeps neither the key nor the
//! request. They are compared with stored ones: the order and form of their parts must not change.

use std::fmt::Write as _;

use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::config::RouteConfig;
use crate::proxy::http::api_key::owner_from_headers;
use crate::proxy::http::validate::request_target;

/// The scope of a key: the caller's API key, the route and the idempotency key.
pub(crate) fn claim_scope(headers: &HeaderMap, route: &RouteConfig, key: &HeaderValue) -> String {
    let owner = owner_from_headers(headers);
    let owner = owner.as_ref().map_or("", |owner| owner.digest());
    digest_parts(&[owner.as_bytes(), route.name.as_bytes(), key.as_bytes()])
}

/// The request that a key is used for: method, target and body. The same key with another request
/// is a client's mistake.
pub(crate) fn fingerprint_request(head: &Parts, body: &[u8]) -> String {
    let target = request_target(&head.uri);
    digest_parts(&[head.method.as_str().as_bytes(), target.as_bytes(), body])
}

/// SHA-256 in hexadecimal. The length of each part goes before it, so that different lists of parts
/// never concatenate to the same bytes.
fn digest_parts(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_lists_of_parts_have_different_digests() {
        let lists: [&[&[u8]]; 4] = [&[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"ab", b"c", b""]];
        let mut digests: Vec<String> = lists.iter().map(|parts| digest_parts(parts)).collect();
        assert!(digests.iter().all(|digest| digest.len() == 64));
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), lists.len());
    }
}
