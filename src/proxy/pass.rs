//! The sync path: a request streamed to the upstream, its answer streamed back.

use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::body::{Outgoing, Reply};
use super::headers;
use super::respond::Problem;
use super::service::Context;
use super::upgrade;

/// Serves a request from the upstream.
pub(super) async fn serve(context: &Context<'_>, mut request: Request<Outgoing>) -> Response<Reply> {
    let tunnel = upgrade::Wanted::take(&mut request);
    context.forwarding().apply(request.headers_mut(), &context.request_id, context.trusted);
    *request.version_mut() = Version::HTTP_11;
    if tunnel.is_some() {
        upgrade::name_websocket(request.headers_mut());
    }
    let upstream = &context.snapshot.config.upstream;
    match context.connection.thread.pool.exchange(upstream, request, tunnel.is_some()).await {
        Ok((response, connection)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => match tunnel {
            Some(tunnel) => tunnel.open(context, response, connection),
            None => Problem::BadRequest("the upstream switched protocols unasked").into_response(),
        },
        Ok((response, connection)) => {
            let (mut head, body) = response.into_parts();
            clean_answer(&mut head.headers);
            head.version = Version::HTTP_11; // the client's connection speaks its own
            Response::from_parts(head, Reply::upstream(body, connection))
        }
        Err(error) => Problem::Upstream(error).into_response(),
    }
}

/// An answer's headers as a client gets them.
fn clean_answer(answer: &mut HeaderMap) {
    headers::strip_hop_by_hop(answer);
    answer.remove(&headers::PATH); // only this proxy says which path it was
}

/// The upstream's answer to an upgrade.
pub(super) type Switched = Response<Incoming>;
