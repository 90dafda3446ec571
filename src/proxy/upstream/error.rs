//! Why the upstream gave no response.

use std::io;
use std::time::Duration;

use crate::config::UpstreamUrl;
use crate::proxy::http::request_body::RequestBodyError;

/// Why the upstream gave no response that can be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No server accepted a connection.
    #[error("cannot connect to {url}: {error}")]
    ConnectFailed { url: UpstreamUrl, error: io::Error },
    /// Connecting took longer than `upstream.connect_timeout`.
    #[error("connecting to {url} took longer than upstream.connect_timeout ({limit:?})")]
    ConnectTimeout { url: UpstreamUrl, limit: Duration },
    /// No first byte of a response came within `upstream.timeout`.
    #[error("{url} sent no answer within upstream.timeout ({limit:?})")]
    FirstByteTimeout { url: UpstreamUrl, limit: Duration },
    /// The connection broke after the request was sent.
    #[error("the connection to {url} broke: {error}")]
    ConnectionBroken { url: UpstreamUrl, error: hyper::Error },
    /// The response is framed ambiguously, or switches to a protocol that the client did not ask
    /// for.
    #[error("{url} sent an answer that cannot be passed on: {why}")]
    MalformedResponse { url: UpstreamUrl, why: &'static str },
    /// The client's request body failed while it was sent.
    #[error("{0}")]
    RequestBody(RequestBodyError),
}
