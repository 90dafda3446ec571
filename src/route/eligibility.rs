//! Eligibility: whether a request can be captured and run from the queue at all.

use http::{HeaderMap, Method, header};

use crate::config::HandlerConfig;
use crate::metrics::FallbackReason;

/// The reason why a request cannot be captured, decided by its head; `None` when it can.
///
/// `length` is the declared length of the body, if there is one; the data plane checks while it
/// reads the body that an undeclared length stays within `max_body` (bytes).
#[must_use]
pub fn check_capturable(
    method: &Method,
    headers: &HeaderMap,
    handler: &HandlerConfig,
    length: Option<u64>,
    max_body: usize,
) -> Option<FallbackReason> {
    if method != Method::POST
        || headers.contains_key(header::UPGRADE)
        || accepts_event_stream(headers)
        || (*handler != HandlerConfig::Upstream && !is_json_request(headers))
    {
        return Some(FallbackReason::Ineligible);
    }
    length.is_some_and(|length| length > max_body as u64).then_some(FallbackReason::BodyTooLarge)
}

fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("text/event-stream"))
}

/// Whether the content type of a request is JSON; a request without a content type counts as JSON.
#[must_use]
pub fn is_json_request(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let text = value.to_str().unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || media.ends_with("+json")
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
    fn only_requests_that_can_be_replayed_are_eligible() {
        let is_eligible =
            |method: &Method, pairs: &[(&'static str, &str)], handler: &HandlerConfig, length| {
                check_capturable(method, &build_headers(pairs), handler, length, 100).is_none()
            };
        let (upstream, external) = (HandlerConfig::Upstream, HandlerConfig::External);
        assert!(is_eligible(
            &Method::POST,
            &[("content-type", "text/plain")],
            &upstream,
            Some(100)
        ));
        assert!(is_eligible(
            &Method::POST,
            &[("content-type", "Application/JSON; charset=utf-8")],
            &external,
            None
        ));
        assert!(is_eligible(
            &Method::POST,
            &[("content-type", "application/ld+json")],
            &external,
            None
        ));
        assert!(!is_eligible(&Method::POST, &[("content-type", "text/plain")], &external, None));
        assert!(!is_eligible(&Method::PUT, &[], &upstream, None));
        assert!(!is_eligible(&Method::POST, &[("upgrade", "websocket")], &upstream, None));
        assert!(!is_eligible(
            &Method::POST,
            &[("accept", "text/html, text/event-stream;q=0.5")],
            &upstream,
            None
        ));
        assert!(!is_eligible(&Method::POST, &[], &upstream, Some(101)));
    }
}
