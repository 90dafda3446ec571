//! The sync path: a request streamed to the upstream, its answer streamed back.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

use super::body::{RequestBody, ResponseBody};
use super::headers;
use super::pool::UpstreamError;
use super::respond::ProxyProblem;
use super::service::RequestContext;
use super::upgrade;
use crate::config::UpstreamUrl;
use crate::route::{find_framing_defect, strip_hop_by_hop};

/// Serves a request from the upstream.
pub(super) async fn serve_sync(
    context: &RequestContext<'_>,
    mut request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let tunnel = upgrade::UpgradeRequest::take_from(&mut request);
    context.forwarding().apply_to(request.headers_mut(), &context.request_id, context.is_trusted);
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(header::HOST) {
        let authority = context.snapshot.config.upstream.urls.first().map(UpstreamUrl::authority);
        let host = authority.and_then(|authority| authority.parse().ok());
        request.headers_mut().insert(header::HOST, host.unwrap_or(HeaderValue::from_static("")));
    }
    if tunnel.is_some() {
        upgrade::set_websocket_headers(request.headers_mut());
    }
    let upstream = &context.snapshot.config.upstream;
    match context.connection.thread.pool.send_request(upstream, request, tunnel.is_some()).await {
        Ok((response, connection)) => {
            if let Some(why) = find_response_objection(&response, tunnel.is_some()) {
                return ProxyProblem::Upstream(UpstreamError::MalformedResponse {
                    url: connection.server_url(),
                    why,
                })
                .into_response();
            }
            if let Some(tunnel) =
                tunnel.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS)
            {
                return tunnel.open_tunnel(context, response, connection);
            }
            let (mut head, body) = response.into_parts();
            clean_response_headers(&mut head.headers);
            head.version = Version::HTTP_11; // the client's connection speaks its own
            Response::from_parts(head, ResponseBody::from_upstream(body, connection))
        }
        Err(error) => ProxyProblem::Upstream(error).into_response(),
    }
}

/// Why an answer cannot be passed on: it switches to what was not asked for, or is framed in two
/// ways.
fn find_response_objection(
    answer: &Response<Incoming>,
    asked_for_websocket: bool,
) -> Option<&'static str> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let to = answer.headers().get(header::UPGRADE);
        let websocket = to.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        return (!asked_for_websocket || !websocket)
            .then_some("it switches to a protocol that was not asked for");
    }
    find_framing_defect(answer.headers())
}

/// An answer's headers as a client gets them.
fn clean_response_headers(answer: &mut HeaderMap) {
    strip_hop_by_hop(answer);
    answer.remove(&headers::PATH_HEADER); // only this proxy says which path it was
}

/// The upstream's answer to an upgrade.
pub(super) type SwitchedResponse = Response<Incoming>;
