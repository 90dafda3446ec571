//! The header rules for every HTTP message that passes through this program, on either path: which
//! fields end here, and which names are protected.

use http::HeaderMap;
use http::header::{self, HeaderName};

/// Fields that concern one connection and are never forwarded (RFC 9110 §7.6.1).
const HOP_BY_HOP_HEADERS: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Names that this program interprets or that the upstream may trust. A `Connection` header cannot
/// have them removed; a field with the same name spelled with underscores is removed.
pub(crate) const PROTECTED_HEADERS: [&str; 18] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "via",
    "x-api-key",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// Removes the hop-by-hop fields and the fields that `Connection` names (RFC 9110 §7.6.1), except
/// protected ones and those of this program.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One pass without hashing, since most heads have no hop-by-hop field or only
    // `Connection: keep-alive`.
    let is_hop_by_hop = |name: &&HeaderName| HOP_BY_HOP_HEADERS.contains(&name.as_str());
    let mut removed: Vec<HeaderName> = headers.keys().filter(is_hop_by_hop).cloned().collect();
    if removed.is_empty() {
        return;
    }
    for value in headers.get_all(header::CONNECTION) {
        let tokens = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        for token in tokens.filter(|token| !is_standard_connection_token(token)) {
            let name = HeaderName::from_bytes(token).ok();
            removed.extend(name.filter(|name| {
                !PROTECTED_HEADERS.contains(&name.as_str()) && !is_own_header(name.as_str())
            }));
        }
    }
    for name in removed {
        headers.remove(name);
    }
}

fn is_standard_connection_token(token: &[u8]) -> bool {
    ["keep-alive", "close", "upgrade", "te"]
        .iter()
        .any(|standard| token.eq_ignore_ascii_case(standard.as_bytes()))
}

/// Whether a field name belongs to this program: `x-omnidaemon-` and anything.
#[must_use]
pub(crate) fn is_own_header(name: &str) -> bool {
    name.starts_with("x-omnidaemon-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build_headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn hop_by_hop_fields_are_removed_and_protected_ones_are_kept() {
        let mut headers = build_headers(&[
            ("connection", "close, X-Private, Authorization, X-Forwarded-For"),
            ("x-private", "1"),
            ("authorization", "Bearer s"),
            ("te", "trailers"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "x-kept"]);
    }
}
