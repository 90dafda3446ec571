//! Header fields of a request on its way to the upstream.
//!
//! Hop-by-hop fields end here. `Via`, `Forwarded`, `X-Forwarded-*` and the request id are set here,
//! so that a client outside `proxy.trusted` cannot forge where it comes from.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::outbound::{PROTECTED_HEADERS, is_own_header, strip_hop_by_hop};

/// `x-omnidaemon-path`: the path that a request took; a trusted client may choose it.
pub(crate) static PATH_HEADER: HeaderName = HeaderName::from_static("x-omnidaemon-path");
/// `x-request-id`: the client's own id of a request, else one of this process.
pub(crate) static REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The header values that one client connection adds to each of its requests, built once.
pub(crate) struct ForwardingHeaders {
    peer_address: HeaderValue,
    forwarded_element: HeaderValue,
    via: HeaderValue,
}

// === impl ForwardingHeaders ===

impl ForwardingHeaders {
    /// The values for a client at `peer`; `via` names this process.
    pub(crate) fn new(peer: IpAddr, via: HeaderValue) -> Self {
        let peer = peer.to_canonical();
        let element = if peer.is_ipv6() {
            format!("for=\"[{peer}]\";proto=http")
        } else {
            format!("for={peer};proto=http")
        };
        let value = |text: String| {
            HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unknown"))
        };
        Self { peer_address: value(peer.to_string()), forwarded_element: value(element), via }
    }

    /// Turns the headers that a client sent into those that the upstream gets. Removes what the
    /// client may not set, then adds this proxy's forwarding fields.
    pub(crate) fn apply_to(
        &self,
        headers: &mut HeaderMap,
        request_id: &HeaderValue,
        is_trusted: bool,
    ) {
        strip_hop_by_hop(headers);
        drop_untrusted_headers(headers, is_trusted);
        if is_trusted {
            append_list_element(headers, &X_FORWARDED_FOR, &self.peer_address);
            append_list_element(headers, &header::FORWARDED, &self.forwarded_element);
            headers.entry(&X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
            if !headers.contains_key(&X_FORWARDED_HOST)
                && let Some(host) = headers.get(header::HOST).cloned()
            {
                headers.insert(&X_FORWARDED_HOST, host);
            }
        } else {
            headers.insert(&X_FORWARDED_FOR, self.peer_address.clone());
            headers.insert(header::FORWARDED, self.forwarded_element.clone());
            headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("http"));
            if let Some(host) = headers.get(header::HOST).cloned() {
                headers.insert(&X_FORWARDED_HOST, host);
            }
        }
        append_list_element(headers, &header::VIA, &self.via);
        headers.insert(&REQUEST_ID_HEADER, request_id.clone());
    }
}

/// Removes the fields that a client may not set: this program's own, and, from clients that are not
/// trusted, those that state the client's origin. Names with underscores are removed as well, since
/// CGI-like upstreams do not distinguish `_` from `-`.
fn drop_untrusted_headers(headers: &mut HeaderMap, is_trusted: bool) {
    let is_forbidden = |name: &&HeaderName| {
        let name = name.as_str();
        let states_origin = |name: &str| name.starts_with("x-forwarded-") || name == "x-real-ip";
        if name.contains('_') {
            let hyphened = name.replace('_', "-");
            return PROTECTED_HEADERS.contains(&hyphened.as_str())
                || is_own_header(&hyphened)
                || states_origin(&hyphened);
        }
        // The HTTP server answers `Expect` itself, when the body is read.
        name == "expect" || is_own_header(name) || (!is_trusted && states_origin(name))
    };
    let forbidden: Vec<HeaderName> = headers.keys().filter(is_forbidden).cloned().collect();
    for name in forbidden {
        headers.remove(name);
    }
}

/// Appends an element to a list field and joins all lines of the field into one.
fn append_list_element(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let Some(first) = headers.get(name) else {
        headers.insert(name, value.clone());
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for line in headers.get_all(name).iter().skip(1) {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line.as_bytes());
    }
    joined.extend_from_slice(b", ");
    joined.extend_from_slice(value.as_bytes());
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, joined);
    }
}

/// The request id that a client sent, if it is safe to log: 1 to 128 letters, digits and `-_.:`.
pub(crate) fn client_request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(&REQUEST_ID_HEADER)?;
    let is_safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    ((1..=128).contains(&value.len()) && value.as_bytes().iter().all(is_safe))
        .then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    fn forwarding() -> ForwardingHeaders {
        ForwardingHeaders::new(
            "10.0.0.9".parse().expect("ip"),
            HeaderValue::from_static("1.1 omnidaemon"),
        )
    }

    fn header_values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
        headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect()
    }

    #[test]
    fn an_untrusted_client_cannot_forge_its_origin() {
        let mut headers = header_map(&[
            ("host", "api.example"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "evil"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x_custom", "kept"),
            ("x-omnidaemon-path", "async"),
            ("forwarded", "for=1.2.3.4"),
        ]);
        forwarding().apply_to(&mut headers, &HeaderValue::from_static("r1"), false);
        assert_eq!(header_values(&headers, "x-forwarded-for"), ["10.0.0.9"]);
        assert_eq!(header_values(&headers, "x-forwarded-host"), ["api.example"]);
        assert_eq!(header_values(&headers, "forwarded"), ["for=10.0.0.9;proto=http"]);
        assert_eq!(header_values(&headers, "via"), ["1.1 omnidaemon"]);
        assert!(
            !headers.contains_key("x_forwarded_for") && !headers.contains_key("x-omnidaemon-path")
        );
        assert!(headers.contains_key("x_custom"));
    }

    #[test]
    fn a_trusted_client_keeps_its_forwarding_fields() {
        let mut headers = header_map(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-proto", "https"),
            ("via", "1.0 edge"),
        ]);
        forwarding().apply_to(&mut headers, &HeaderValue::from_static("r1"), true);
        assert_eq!(header_values(&headers, "x-forwarded-for"), ["1.2.3.4, 5.6.7.8, 10.0.0.9"]);
        assert_eq!(header_values(&headers, "x-forwarded-proto"), ["https"]);
        assert_eq!(header_values(&headers, "via"), ["1.0 edge, 1.1 omnidaemon"]);
    }

    #[test]
    fn only_request_ids_that_are_safe_to_log_are_kept() {
        assert!(client_request_id(&header_map(&[("x-request-id", "a-1.b_2:c")])).is_some());
        for bad in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert!(client_request_id(&header_map(&[("x-request-id", bad)])).is_none(), "{bad}");
        }
    }
}
