//! The HTTP client of the rollout controller, for Prometheus queries and notifications. A request
//! has one deadline, and its response body is read whole, up to 4 MiB.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::root_cause::format_root_cause;
use super::tls::{build_tls_config, load_native_roots};

/// The largest response body that is read, bytes.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

type SmallHttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// One client for the process: it pools connections, and reads the root certificates once.
static HTTP_CLIENT: LazyLock<SmallHttpClient> = LazyLock::new(|| {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(build_tls_config(load_native_roots()))
        .https_or_http()
        .enable_http1();
    Client::builder(TokioExecutor::new()).build(connector.build())
});

/// A request to `url`, whose user info becomes basic authentication.
///
/// # Errors
/// Why the request cannot be built, without the URL.
pub(crate) fn build_request(
    method: http::Method,
    url: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, String> {
    let (url, user) = split_user_info(url);
    let uri: Uri = url.parse().map_err(|_| "its URL cannot be read".to_owned())?;
    let mut request = Request::new(Full::new(body));
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    if let Some(user) = user {
        let value = format!("Basic {}", BASE64_STANDARD.encode(user));
        let mut value =
            HeaderValue::try_from(value).map_err(|_| "its user info cannot be sent".to_owned())?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

/// Sends a request and reads its response, within `limit`.
///
/// # Errors
/// Why there is no response, without the URL.
pub(crate) async fn send_request(
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let exchange = async {
        let response =
            HTTP_CLIENT.request(request).await.map_err(|error| format_root_cause(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    let timed_out = |_| Err(format!("no answer within {} s", limit.as_secs_f64()));
    timeout(limit, exchange).await.unwrap_or_else(timed_out)
}

/// A URL without its user info, and the user info.
fn split_user_info(url: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => (format!("{scheme}://{}", &rest[at + 1..]), Some(rest[..at].to_owned())),
        None => (url.to_owned(), None),
    }
}
