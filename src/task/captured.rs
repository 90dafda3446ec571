//! A captured HTTP request: what a worker needs to replay it to the legacy upstream.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Method};

/// A request as the legacy upstream would have received it, stored so that a worker can replay it.
#[derive(Clone, PartialEq, Eq)]
pub struct CapturedRequest {
    /// The method.
    pub method: Method,
    /// The path and query.
    pub target: String,
    /// All end-to-end headers, credentials included.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl fmt::Debug for CapturedRequest {
    /// Shows neither headers nor body: both can carry secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} bytes)", self.method, self.target, self.body.len())
    }
}

/// The header that marks a captured request as a shadow copy, whose original was answered by the
/// sync path.
pub const SHADOW_HEADER: &str = "x-omnidaemon-shadow";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_bodies_do_not_show_in_debug_output() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer canary-secret".parse().expect("a header value"));
        let request = CapturedRequest {
            method: Method::POST,
            target: "/invoke".into(),
            headers,
            body: Bytes::from_static(b"canary-secret"),
        };
        assert!(!format!("{request:?}").contains("canary-secret"));
    }
}
