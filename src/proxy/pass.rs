//! The sync path: a request streamed to the upstream, its answer streamed back.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

use super::body::{Outgoing, Reply};
use super::headers;
use super::pool::UpstreamError;
use super::respond::Problem;
use super::service::Context;
use super::upgrade;
use crate::config::UpstreamUrl;
use crate::route::{framing_objection, strip_hop_by_hop};

/// Serves a request from the upstream.
pub(super) async fn serve(context: &Context<'_>, mut request: Request<Outgoing>) -> Response<Reply> {
    let tunnel = upgrade::Wanted::take(&mut request);
    context.forwarding().apply(request.headers_mut(), &context.request_id, context.trusted);
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(header::HOST) {
        let authority = context.snapshot.config.upstream.urls.first().map(UpstreamUrl::authority);
        let host = authority.and_then(|authority| authority.parse().ok());
        request.headers_mut().insert(header::HOST, host.unwrap_or(HeaderValue::from_static("")));
    }
    if tunnel.is_some() {
        upgrade::name_websocket(request.headers_mut());
    }
    let upstream = &context.snapshot.config.upstream;
    match context.connection.thread.pool.exchange(upstream, request, tunnel.is_some()).await {
        Ok((response, connection)) => {
            if let Some(why) = objection(&response, tunnel.is_some()) {
                return Problem::Upstream(UpstreamError::Answer { url: connection.url(), why }).into_response();
            }
            if let Some(tunnel) = tunnel.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
                return tunnel.open(context, response, connection);
            }
            let (mut head, body) = response.into_parts();
            clean_answer(&mut head.headers);
            head.version = Version::HTTP_11; // the client's connection speaks its own
            Response::from_parts(head, Reply::upstream(body, connection))
        }
        Err(error) => Problem::Upstream(error).into_response(),
    }
}

/// Why an answer cannot be passed on: it switches to what was not asked for, or is framed in two ways.
fn objection(answer: &Response<Incoming>, asked_for_websocket: bool) -> Option<&'static str> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let to = answer.headers().get(header::UPGRADE);
        let websocket = to.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        return (!asked_for_websocket || !websocket).then_some("it switches to a protocol that was not asked for");
    }
    framing_objection(answer.headers())
}

/// An answer's headers as a client gets them.
fn clean_answer(answer: &mut HeaderMap) {
    strip_hop_by_hop(answer);
    answer.remove(&headers::PATH); // only this proxy says which path it was
}

/// The upstream's answer to an upgrade.
pub(super) type Switched = Response<Incoming>;
