//! One exchange with the upstream: a request, and the head of its response.
//!
//! A request is sent once. It is sent on another connection only if no byte of it left (the
//! connection had closed before), or if it is safe to repeat and met a reused connection that was
//! just closing.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use crate::config::UpstreamConfig;
use crate::proxy::http::request_body::{RequestBody, RequestBodyProgress};
use crate::proxy::upstream::connection::BorrowedConnection;
use crate::proxy::upstream::error::UpstreamError;
use crate::proxy::upstream::pool::UpstreamPool;

/// Sends a request to one of the upstream's servers and returns the head of its response, with the
/// connection that its body arrives on. With `for_tunnel` the connection can be upgraded.
pub(crate) async fn send_request(
    pool: &UpstreamPool,
    upstream: &UpstreamConfig,
    mut request: Request<RequestBody>,
    for_tunnel: bool,
) -> Result<(Response<Incoming>, BorrowedConnection), UpstreamError> {
    loop {
        let mut connection = pool.acquire_connection(upstream, for_tunnel).await?;
        let progress = request.body().progress();
        connection.request_progress = Some(progress.clone());
        let repeat = if connection.is_reused { copy_if_repeatable(&request) } else { None };
        let response = connection.sender.try_send_request(request);
        let result = match upstream.timeout {
            None => response.await,
            Some(limit) => await_first_byte(response, &progress, limit).await.map_err(|()| {
                UpstreamError::FirstByteTimeout { url: connection.server_url(), limit }
            })?,
        };
        let mut error = match result {
            Ok(response) => return Ok((response, connection)),
            Err(error) => error,
        };
        if let Some(body_error) = progress.error() {
            return Err(UpstreamError::RequestBody(body_error));
        }
        let broken =
            |error| UpstreamError::ConnectionBroken { url: connection.server_url(), error };
        request = error.take_message().or(repeat).ok_or_else(|| broken(error.into_error()))?;
    }
}

/// Waits for the head of a response, at most for `limit` from the moment that the request's body
/// has ended; `Err` when that time is over.
async fn await_first_byte<T>(
    response: impl Future<Output = T>,
    request: &RequestBodyProgress,
    limit: Duration,
) -> Result<T, ()> {
    let mut response = std::pin::pin!(response);
    let mut time_left = limit;
    loop {
        if let Ok(result) = timeout(time_left, response.as_mut()).await {
            return Ok(result);
        }
        time_left = request.ended_at().map_or(limit, |ended| limit.saturating_sub(ended.elapsed()));
        if time_left.is_zero() {
            return Err(());
        }
    }
}

/// A copy of a request that may be sent a second time (RFC 9110 §9.2.2): safe, and without a body.
fn copy_if_repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::from_bytes(Bytes::new()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
