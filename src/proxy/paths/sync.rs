//! The sync path: a request is streamed to the upstream, and the response streamed back.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

use crate::config::UpstreamUrl;
use crate::outbound::strip_hop_by_hop;
use crate::proxy::answer::problem::ProxyProblem;
use crate::proxy::answer::response_body::ResponseBody;
use crate::proxy::context::RequestContext;
use crate::proxy::http::headers::PATH_HEADER;
use crate::proxy::http::request_body::RequestBody;
use crate::proxy::paths::upgrade::{UpgradeRequest, set_websocket_headers};
use crate::proxy::upstream::error::UpstreamError;
use crate::proxy::upstream::exchange::send_request;
use crate::route::find_framing_defect;

/// Streams a request to the upstream and its response back.
pub(crate) async fn serve_sync(
    context: &RequestContext<'_>,
    mut request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let upstream = &context.snapshot.config.upstream;
    let upgrade = UpgradeRequest::take_from(&mut request);
    context.forwarding().apply_to(request.headers_mut(), &context.request_id, context.is_trusted);
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(header::HOST) {
        let authority = upstream.urls.first().map(UpstreamUrl::authority);
        let host = authority.and_then(|authority| authority.parse().ok());
        request.headers_mut().insert(header::HOST, host.unwrap_or(HeaderValue::from_static("")));
    }
    if upgrade.is_some() {
        set_websocket_headers(request.headers_mut());
    }
    match send_request(&context.thread().pool, upstream, request, upgrade.is_some()).await {
        Ok((response, connection)) => {
            if let Some(why) = find_response_objection(&response, upgrade.is_some()) {
                let url = connection.server_url();
                let error = UpstreamError::MalformedResponse { url, why };
                return ProxyProblem::from(error).into_response();
            }
            if let Some(upgrade) = upgrade
                && response.status() == StatusCode::SWITCHING_PROTOCOLS
            {
                let tracker = &context.connection.task_tracker;
                return upgrade.open_tunnel(tracker, response, connection);
            }
            let (mut head, body) = response.into_parts();
            clean_response_headers(&mut head.headers);
            head.version = Version::HTTP_11; // hyper sets the version of the client's connection
            Response::from_parts(head, ResponseBody::from_upstream(body, connection))
        }
        Err(error) => ProxyProblem::from(error).into_response(),
    }
}

/// Why a response cannot be passed on: it switches to a protocol that was not asked for, or is
/// framed ambiguously. `None` if it can.
fn find_response_objection(
    response: &Response<Incoming>,
    asked_for_websocket: bool,
) -> Option<&'static str> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = response.headers().get(header::UPGRADE);
        let is_websocket =
            protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
        return (!asked_for_websocket || !is_websocket)
            .then_some("it switches to a protocol that was not asked for");
    }
    find_framing_defect(response.headers())
}

/// Removes the headers of an upstream's response that the client does not get.
fn clean_response_headers(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(&PATH_HEADER); // only this proxy sets it
}
