//! Whether a request can be captured as a task, or is served by the upstream instead.

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::config::{HandlerConfig, RouteConfig};
use crate::metrics::FallbackReason;
use crate::proxy::context::RequestContext;
use crate::route::{BodyError, ParsedBody, check_capturable, parse_legacy_call};

/// Why a request is served by the upstream instead of a task, as far as its head and the circuit
/// breaker of the store tell; `None` if it can be captured. `length` is that of its body, if known.
pub(crate) fn fallback_reason(
    context: &RequestContext<'_>,
    route: &RouteConfig,
    method: &Method,
    headers: &HeaderMap,
    length: Option<u64>,
) -> Option<FallbackReason> {
    let config = &context.snapshot.config;
    let topic = config.topics.get(&route.topic)?;
    let max_body = config.proxy.max_body_bytes;
    check_capturable(method, headers, &topic.handler, length, max_body).or_else(|| {
        context.services().circuit.is_open().then_some(FallbackReason::StoreUnavailable)
    })
}

/// Parses the body of a legacy call for its topic's `handler`; `None` if no task can be made of it.
/// A body that is not JSON becomes a string payload if the upstream runs the task: the upstream
/// decides what such a body means.
pub(crate) fn parse_legacy_body(
    route: &RouteConfig,
    handler: &HandlerConfig,
    body: &Bytes,
) -> Option<ParsedBody> {
    match parse_legacy_call(body, |topic| route.has_topic(topic)) {
        Ok(parsed) => Some(parsed),
        Err(BodyError::NotJson(_) | BodyError::DuplicateKey(_))
            if *handler == HandlerConfig::Upstream =>
        {
            Some(ParsedBody { payload: crate::store::body_as_json(body), ..ParsedBody::default() })
        }
        Err(_) => None,
    }
}
