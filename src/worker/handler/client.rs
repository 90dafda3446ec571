//! The HTTP client of the `upstream` and `http` handlers, and what they make of an answer.
//!
//! One client, shared, with native roots. It follows no redirect and repeats no request that was
//! sent; what could not be sent is told apart ([`ExchangeError::NotSent`]), because only that is
//! safe to send elsewhere. What leaves in doubt where an answer ends is none: its framing is judged
//! before its body is read. A connection idles for [`POOL_IDLE_TIMEOUT`] at most, which is less
//! than servers keep theirs, so that a task that is tried once does not meet a connection that is
//! just being closed.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HyperClient, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::oversized_result_failure;
use crate::config::UpstreamConfig;
use crate::outbound::{build_tls_config, load_native_roots};
use crate::route::{find_framing_defect, strip_hop_by_hop};
use crate::task::{FailureKind, TaskAnswer, TaskFailure};

/// A pooled client; cheap to clone.
pub(super) type HandlerHttpClient = HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>;

const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many informational answers (1xx) may come before the final one.
const MAX_INFORMATIONAL: usize = 100;

/// How much of a failed answer's body its message quotes, characters.
const MAX_QUOTED_CHARS: usize = 200;

/// The one client, built again only when `upstream.connect_timeout` is edited.
#[derive(Default)]
pub(super) struct HandlerClientCache {
    tls: OnceLock<rustls::ClientConfig>,
    current: Mutex<Option<(Duration, HandlerHttpClient)>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// Nobody was reached, and nothing was sent; the reason.
    NotSent(String),
    /// It may have been received.
    Failed(TaskFailure),
}

// === impl Clients ===

impl HandlerClientCache {
    /// The client whose connects may take `connect_timeout`.
    pub(super) fn get(&self, connect_timeout: Duration) -> HandlerHttpClient {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((built_for, client)) if *built_for == connect_timeout => client.clone(),
            _ => {
                let client = build_client(
                    self.tls.get_or_init(|| build_tls_config(load_native_roots())).clone(),
                    connect_timeout,
                );
                *current = Some((connect_timeout, client.clone()));
                client
            }
        }
    }
}

fn build_client(tls: rustls::ClientConfig, connect_timeout: Duration) -> HandlerHttpClient {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(connect_timeout));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    HyperClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .build(connector)
}

/// What the upstream says of a path to OPTIONS, which changes nothing; none when it says nothing.
pub async fn probe_upstream(upstream: &UpstreamConfig, path: &str) -> Option<StatusCode> {
    let uri = format!("{}{path}", upstream.urls.first()?);
    let agent = concat!("omnidaemon/", env!("CARGO_PKG_VERSION"), " (start-up check)");
    let request =
        Request::options(uri).header(header::USER_AGENT, agent).body(Full::default()).ok()?;
    let asked = HandlerClientCache::default().get(upstream.connect_timeout).request(request);
    timeout(PROBE_TIMEOUT, asked).await.ok()?.ok().map(|response| response.status())
}

// === one exchange ===

/// Sends a request and waits for the head of its answer, for `first_byte` at most.
pub(super) async fn send_request(
    client: &HandlerHttpClient,
    mut request: Request<Full<Bytes>>,
    first_byte: Option<Duration>,
) -> Result<Response<Incoming>, ExchangeError> {
    let flooded = limit_informational(&mut request);
    let sending = async {
        tokio::select! {
            sent = client.request(request) => Ok(sent),
            () = flooded.notified() => Err(broken_connection_error(format!("more than {MAX_INFORMATIONAL} informational answers came"))),
        }
    };
    let sent = match first_byte {
        Some(limit) => timeout(limit, sending).await.map_err(|_| {
            let message = format!("no first byte within {limit:?} (upstream.timeout)");
            ExchangeError::Failed(TaskFailure::new(FailureKind::Deadline, message))
        })??,
        None => sending.await?,
    };
    let response = sent.map_err(|error| {
        if error.is_connect() {
            return ExchangeError::NotSent(format_error_causes(&error));
        }
        broken_connection_error(format!(
            "the connection broke before the answer: {}",
            format_error_causes(&error)
        ))
    })?;
    match find_response_defect(&response) {
        Some(why) => Err(broken_connection_error(format!("no valid answer came: {why}"))),
        None => Ok(response),
    }
}

fn broken_connection_error(message: String) -> ExchangeError {
    ExchangeError::Failed(TaskFailure::new(FailureKind::BrokenExchange, message))
}

/// Told when more than [`MAX_INFORMATIONAL`] 1xx have come.
fn limit_informational(request: &mut Request<Full<Bytes>>) -> Arc<Notify> {
    let flooded = Arc::new(Notify::new());
    let (tell, seen) = (Arc::clone(&flooded), AtomicUsize::new(0));
    hyper::ext::on_informational(request, move |_| {
        if seen.fetch_add(1, Ordering::Relaxed) == MAX_INFORMATIONAL {
            tell.notify_one();
        }
    });
    flooded
}

/// What leaves in doubt where an answer ends (RFC 9112, 6.3), or that it is one.
fn find_response_defect<B>(response: &Response<B>) -> Option<&'static str> {
    if response.status().is_informational() {
        return Some("its status is an informational one that nothing asked for");
    }
    find_framing_defect(response.headers())
}

/// The causes of an error, the last being the plainest.
fn format_error_causes(error: &Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

/// Reads an answer's body up to `limit`.
async fn read_body(mut body: Incoming, limit: usize) -> Result<Bytes, TaskFailure> {
    let over = || Err(oversized_result_failure(limit));
    if body.size_hint().lower() > limit as u64 {
        return over();
    }
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            TaskFailure::new(
                FailureKind::BrokenExchange,
                format!("the connection broke within the answer: {error}"),
            )
        })?;
        let Ok(data) = frame.into_data() else { continue }; // trailers
        if read.len() + data.len() > limit {
            return over();
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// Turns a response into an answer by `keep`, or into a failure where its status counts as one.
pub(super) async fn read_answer(
    response: Response<Incoming>,
    limit: usize,
    keep: impl FnOnce(&http::response::Parts, Bytes) -> TaskAnswer,
) -> Result<TaskAnswer, TaskFailure> {
    let (head, body) = response.into_parts();
    let status = head.status;
    let body = read_body(body, limit).await;
    if is_completing_status(status) {
        return Ok(keep(&head, body?));
    }
    let mut message = format!("answered {status}");
    if let Some(quoted) = body.as_ref().ok().and_then(|body| quote_body(body)) {
        message = format!("{message}: {quoted}");
    }
    let answer = body.ok().map(|body| keep(&head, body));
    Err(TaskFailure { answer, ..TaskFailure::new(FailureKind::FailedStatus, message) })
}

/// Whether an answer with this status completes its task.
fn is_completing_status(status: StatusCode) -> bool {
    let asks_again =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS]
            .contains(&status);
    status.as_u16() < 500 && !asks_again
}

/// The beginning of a text body, on one line.
fn quote_body(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().filter(|c| !c.is_control()).take(MAX_QUOTED_CHARS).collect();
    (!short.is_empty()).then_some(short)
}

// === headers ===

/// The end-to-end headers of `headers`, without those that the framing sets anew.
pub(super) fn end_to_end_headers(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    strip_hop_by_hop(&mut kept);
    kept.remove(header::EXPECT);
    kept.remove(header::CONTENT_LENGTH);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_completes_unless_it_is_the_servers_fault_or_asks_to_come_again() {
        for (code, completed) in [
            (200, true),
            (302, true),
            (404, true),
            (408, false),
            (422, true),
            (425, false),
            (429, false),
            (500, false),
        ] {
            assert_eq!(
                is_completing_status(StatusCode::from_u16(code).expect("a status")),
                completed,
                "{code}"
            );
        }
    }

    #[test]
    fn only_end_to_end_headers_are_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("content-length", "12"),
            ("x-kept", "a"),
            ("x-kept", "b"),
        ] {
            headers.append(name, value.parse().expect("a header value"));
        }
        let kept = end_to_end_headers(&headers);
        assert_eq!(kept.len(), 2, "{kept:?}");
        assert_eq!(kept.get_all("x-kept").iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn failed_answers_are_quoted_on_one_short_line() {
        assert_eq!(
            quote_body(b"{\n  \"detail\": \"no\"\n}").as_deref(),
            Some("{ \"detail\": \"no\" }")
        );
        assert_eq!(
            quote_body("x".repeat(1000).as_bytes()).map(|quoted| quoted.len()),
            Some(MAX_QUOTED_CHARS)
        );
        assert_eq!((quote_body(b""), quote_body(b"\xff\xfe")), (None, None));
    }
}
