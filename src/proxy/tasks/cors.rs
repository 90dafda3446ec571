//! Cross-origin requests of browsers to the task endpoints.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request};

use crate::snapshot::Snapshot;

/// Whether a request is a browser's preflight, sent before the actual request.
pub(crate) fn is_cors_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Adds the headers that let a browser on a configured origin read the response.
pub(crate) fn add_cors_headers(
    snapshot: &Snapshot,
    request_headers: &HeaderMap,
    response_headers: &mut HeaderMap,
) {
    let Some(origin) = request_headers.get(header::ORIGIN) else { return };
    let allowed = &snapshot.config.proxy.cors_origins;
    if allowed.iter().any(|one| one == "*" || one.as_bytes() == origin.as_bytes()) {
        response_headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        response_headers.append(header::VARY, HeaderValue::from_static("origin"));
        let exposed = HeaderValue::from_static("location, retry-after, x-request-id");
        response_headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}
