//! Checks a parsed request for what the parser accepts and a proxy must not pass on, and rewrites
//! it into the form that the upstream gets: origin form with a canonical path, and one `Host`.
//!
//! A request that is ambiguous is refused, never reinterpreted. A refusal is returned as a
//! [`RequestRejection`]; its status is chosen where responses are made.

use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};

use crate::route::{PathError, canonicalize_path, is_only_chunked};

/// The longest path and query, bytes.
const MAX_REQUEST_TARGET: usize = 8 * 1024;

/// Why a request is not passed on.
#[derive(Debug)]
pub(crate) enum RequestRejection {
    /// The head is malformed or ambiguous; says how.
    Malformed(&'static str),
    /// The path has no canonical form.
    BadPath(PathError),
    /// The method is `CONNECT`.
    ConnectNotServed,
    /// `Transfer-Encoding` is not exactly `chunked`.
    UnsupportedTransferCoding,
    /// Path and query are longer than this proxy takes.
    UriTooLong,
}

/// Rejects a request that must not be passed on. Rewrites any other into the form that the upstream
/// gets: origin form with a canonical path, one `Host`, one `Cookie`.
pub(crate) fn validate_request<B>(request: &mut Request<B>) -> Result<(), RequestRejection> {
    if request.method() == Method::CONNECT {
        return Err(RequestRejection::ConnectNotServed);
    }
    check_transfer_coding(request.headers())?;
    let authority = host_override(request)?;
    let uri = request.uri();
    let target = request_target(uri);
    if target.len() > MAX_REQUEST_TARGET {
        return Err(RequestRejection::UriTooLong);
    }
    if !target.starts_with('/') {
        return Err(RequestRejection::Malformed("the request target must be an absolute path"));
    }
    let path = canonicalize_path(uri.path()).map_err(RequestRejection::BadPath)?;
    let is_canonical = path == uri.path();
    if !is_canonical || uri.authority().is_some() {
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        *request.uri_mut() = Uri::try_from(target)
            .map_err(|_| RequestRejection::Malformed("the request target is malformed"))?;
    }
    if request.version() == Version::HTTP_2 {
        join_cookie_fields(request.headers_mut());
    }
    if let Some(authority) = authority {
        let value = authority.as_str().parse().map_err(|_| {
            RequestRejection::Malformed("the authority of the request target is malformed")
        })?;
        request.headers_mut().insert(header::HOST, value);
    }
    Ok(())
}

/// Path and query of a request; `/` where there is none.
pub(crate) fn request_target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// HTTP/2 may split Cookie into several fields; in HTTP/1.1 it is one (RFC 9113 §8.2.3).
fn join_cookie_fields(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let pairs: Vec<&[u8]> =
            headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&pairs.join(b"; ".as_slice())) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

/// The authority of the request target, which replaces `Host` (RFC 9112 §3.2.2); `None` for a
/// target without one. Rejects requests without a valid `Host`.
fn host_override<B>(request: &Request<B>) -> Result<Option<Authority>, RequestRejection> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(RequestRejection::Malformed("the request has more than one Host header"));
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(RequestRejection::Malformed("the Host header is missing"));
    }
    if let Some(authority) = request.uri().authority() {
        if authority.as_str().contains('@') {
            return Err(RequestRejection::Malformed(
                "the request target contains user information",
            ));
        }
        return Ok(Some(authority.clone()));
    }
    match host {
        Some(host) if !is_valid_host(host.as_bytes()) => {
            Err(RequestRejection::Malformed("the Host header is malformed"))
        }
        _ => Ok(None),
    }
}

/// Whether `text` is a host with an optional port (RFC 9110 §7.2). Plain names are decided without
/// the URI parser; IPv6 addresses and rare characters are left to it.
fn is_valid_host(text: &[u8]) -> bool {
    let (name, port) = match text.iter().rposition(|&byte| byte == b':') {
        Some(colon) => (&text[..colon], &text[colon + 1..]),
        None => (text, &text[text.len()..]),
    };
    let has_name = !name.is_empty() || text.is_empty();
    let is_plain =
        has_name && name.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let is_authority = || has_name && !text.contains(&b'@') && Authority::try_from(text).is_ok();
    (is_plain && port.iter().all(u8::is_ascii_digit)) || is_authority()
}

/// Rejects transfer codings other than `chunked`. hyper accepts some of them without decoding, and
/// the body would reach the upstream framed wrongly.
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), RequestRejection> {
    if is_only_chunked(headers) == Some(false) {
        Err(RequestRejection::UnsupportedTransferCoding)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_chunked_coding_is_accepted() {
        let is_accepted = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::TRANSFER_ENCODING, value.parse().expect("a value"));
            }
            check_transfer_coding(&headers).is_ok()
        };
        assert!(is_accepted(&[]) && is_accepted(&["chunked"]) && is_accepted(&["Chunked"]));
        assert!(
            !is_accepted(&["gzip, chunked"])
                && !is_accepted(&["chunked", "chunked"])
                && !is_accepted(&["gzip", "chunked"])
        );
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for host in ["api.example", "api.example:8000", "[::1]:80", "127.0.0.1", ""] {
            assert!(is_valid_host(host.as_bytes()), "{host}");
        }
        for host in ["a b", "a/b", "u@h", "a\"b", "h:x:y", ":80"] {
            assert!(!is_valid_host(host.as_bytes()), "{host}");
        }
    }
}
