//! What holds for every HTTP message that passes through, whichever path it takes: which fields end
//! here, which names are guarded, and which framing is beyond doubt.

use http::HeaderMap;
use http::header::{self, HeaderName};

/// Fields that end here.
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

/// Names that mean something to us or to the upstream's trust: a `Connection` header cannot have
/// them dropped, and spelled with underscores they are.
pub const PROTECTED_HEADERS: [&str; 18] = [
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

/// Removes what concerns one connection only (RFC 9110 §7.6.1): the hop-by-hop fields and those
/// that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One pass that hashes nothing; most heads have none of these, or only `Connection:
    // keep-alive`.
    let here = |name: &&HeaderName| HOP_BY_HOP_HEADERS.contains(&name.as_str());
    let mut doomed: Vec<HeaderName> = headers.keys().filter(here).cloned().collect();
    if doomed.is_empty() {
        return;
    }
    for value in headers.get_all(header::CONNECTION) {
        let tokens = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        for token in tokens.filter(|token| !is_standard_connection_token(token)) {
            let name = HeaderName::from_bytes(token).ok();
            doomed.extend(name.filter(|name| {
                !PROTECTED_HEADERS.contains(&name.as_str()) && !is_own_header(name.as_str())
            }));
        }
    }
    for name in doomed {
        headers.remove(name);
    }
}

fn is_standard_connection_token(token: &[u8]) -> bool {
    ["keep-alive", "close", "upgrade", "te"]
        .iter()
        .any(|usual| token.eq_ignore_ascii_case(usual.as_bytes()))
}

/// Whether `Transfer-Encoding` is `chunked` and nothing else; none where there is none.
#[must_use]
pub fn is_only_chunked(headers: &HeaderMap) -> Option<bool> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next()?;
    Some(first.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none())
}

/// Why an answer's framing is in doubt: passed on, it could be read another way (RFC 9112 §6.3).
#[must_use]
pub fn find_framing_defect(answer: &HeaderMap) -> Option<&'static str> {
    if !is_only_chunked(answer)? {
        return Some("its transfer coding is not chunked");
    }
    answer.contains_key(header::CONTENT_LENGTH).then_some("it has a length and a transfer coding")
}

/// Whether a field is one of this program's.
#[must_use]
pub fn is_own_header(name: &str) -> bool {
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
    fn hop_by_hop_fields_end_here_and_guarded_ones_do_not() {
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

    #[test]
    fn only_one_plain_chunked_without_a_length_is_beyond_doubt() {
        let objection = |pairs: &[(&'static str, &str)]| find_framing_defect(&build_headers(pairs));
        assert_eq!(objection(&[("content-length", "3")]), None);
        assert_eq!(objection(&[("transfer-encoding", "Chunked")]), None);
        assert!(objection(&[("transfer-encoding", "gzip, chunked")]).is_some());
        assert!(
            objection(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")])
                .is_some()
        );
        assert!(objection(&[("transfer-encoding", "chunked"), ("content-length", "3")]).is_some());
    }
}
