//! The digests that identify an idempotency claim in the store, which keeps neither the key nor the
//! request. They are compared with stored ones: the order and form of their parts must not change.

use std::fmt::Write as _;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest as _, Sha256};

use crate::config::RouteConfig;
use crate::proxy::http::api_key::owner_from_headers;
use crate::proxy::http::validate::request_target;

/// The scope of a key: the caller, the route and the idempotency key.
///
/// The caller is known by the API key (`Authorization`, `X-API-Key`) and by the cookies, of which
/// the route may name those that count. A request with neither a second API key nor cookies keeps
/// the scope of earlier releases, which knew one API key alone.
pub(crate) fn claim_scope(headers: &HeaderMap, route: &RouteConfig, key: &HeaderValue) -> String {
    let owner = owner_from_headers(headers);
    let owner = owner.as_ref().map_or("", |owner| owner.digest());
    let mut parts = vec![owner.as_bytes(), route.name.as_bytes(), key.as_bytes()];
    if headers.contains_key(header::AUTHORIZATION)
        && let Some(second_key) = headers.get("x-api-key")
    {
        parts.extend([b"x-api-key".as_slice(), second_key.as_bytes()]);
    }
    let cookies = collect_cookies(headers, route.idempotency_cookies.as_deref());
    if !cookies.is_empty() {
        parts.push(b"cookie");
        parts.extend(cookies);
    }
    digest_parts(&parts)
}

/// The cookies of all `Cookie` fields, or those of `names`, sorted by their names: fields may be
/// split (HTTP/2) and their order may change between two requests of one client. Cookies of the
/// same name keep their order, which decides what the upstream reads.
fn collect_cookies<'h>(headers: &'h HeaderMap, names: Option<&[String]>) -> Vec<&'h [u8]> {
    let counts = |name: &[u8]| {
        names.is_none_or(|names| names.iter().any(|counted| counted.as_bytes() == name))
    };
    let fields = headers.get_all(header::COOKIE).iter();
    let mut cookies: Vec<&[u8]> = fields
        .flat_map(|field| field.as_bytes().split(|&byte| byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|cookie| !cookie.is_empty() && counts(cookie_name(cookie)))
        .collect();
    cookies.sort_by_key(|cookie| cookie_name(cookie));
    cookies
}

/// The name of a cookie; empty for a text without `=`, which browsers read as a bare value.
fn cookie_name(cookie: &[u8]) -> &[u8] {
    let end = cookie.iter().position(|&byte| byte == b'=').unwrap_or(0);
    cookie[..end].trim_ascii_end()
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

    fn cookies_of<'h>(headers: &'h HeaderMap, names: Option<&[String]>) -> Vec<&'h str> {
        let cookies = collect_cookies(headers, names).into_iter();
        cookies.map(|cookie| std::str::from_utf8(cookie).expect("text")).collect()
    }

    fn cookie_fields(fields: &[&'static str]) -> HeaderMap {
        let value = |field: &&'static str| (header::COOKIE, HeaderValue::from_static(field));
        fields.iter().map(value).fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
    }

    #[test]
    fn split_and_reordered_cookies_are_the_same_and_others_are_not() {
        let plain = cookie_fields(&["a=1; sid=x"]);
        for same in [&["sid=x; a=1"][..], &["a=1", "sid=x"], &["sid=x", " a=1 ;"], &["a=1;sid=x"]] {
            let fields = cookie_fields(same);
            assert_eq!(cookies_of(&fields, None), cookies_of(&plain, None), "{same:?}");
        }
        for other in [&["a=1; sid=y"][..], &["a=1"], &["a=1; sid=x; b=2"], &["a=1; sidx"], &[]] {
            let fields = cookie_fields(other);
            assert_ne!(cookies_of(&fields, None), cookies_of(&plain, None), "{other:?}");
        }
        // Which of two cookies of one name counts is the upstream's decision.
        let (one, two) = (cookie_fields(&["sid=x; sid=y"]), cookie_fields(&["sid=y; sid=x"]));
        assert_ne!(cookies_of(&one, None), cookies_of(&two, None));
        let (one, two) = (cookie_fields(&["x; y"]), cookie_fields(&["y; x"]));
        assert_ne!(cookies_of(&one, None), cookies_of(&two, None));
    }

    #[test]
    fn only_named_cookies_count_where_names_are_given() {
        let fields = cookie_fields(&["track=7; sid=x", "sid2=z"]);
        assert_eq!(cookies_of(&fields, Some(&["sid".into()])), ["sid=x"]);
        assert_eq!(cookies_of(&fields, Some(&[])), [""; 0]);
    }

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
