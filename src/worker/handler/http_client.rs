//! The HTTP client of the `upstream` and `http` handlers.
//!
//! One shared client, which trusts the system's root certificates. It follows no redirect and
//! repeats no sent request; a request that could not be sent has an error of its own
//! ([`ExchangeError::NotSent`]), because only such a request may go to another server. An answer
//! with ambiguous framing is refused before its body is read. A connection may be idle for at most
//! [`POOL_IDLE_TIMEOUT`], which is shorter than servers keep theirs, so that a task with a single
//! attempt does not meet a connection that is just being closed.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HyperClient, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::config::UpstreamConfig;
use crate::outbound::{build_tls_config, load_native_roots};
use crate::route::find_framing_defect;
use crate::task::{FailureKind, TaskFailure};

/// A pooled client; cheap to clone.
pub(super) type HandlerHttpClient = HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// How long a connection may be idle in the pool.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long [`probe_upstream`] may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many informational answers (1xx) may precede the final one.
const MAX_INFORMATIONAL: usize = 100;

/// The shared client; it is built again only when `upstream.connect_timeout` changes.
#[derive(Default)]
pub(super) struct HandlerClientCache {
    tls: OnceLock<rustls::ClientConfig>,
    current: Mutex<Option<(Duration, HandlerHttpClient)>>,
}

/// Why an exchange has no answer.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// No server was reached, and nothing was sent; the reason.
    NotSent(String),
    /// The server may have received the request.
    Failed(TaskFailure),
}

// === impl HandlerClientCache ===

impl HandlerClientCache {
    /// The client with this timeout for connects.
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

/// The status with which the upstream answers OPTIONS for a path, a request that changes nothing;
/// `None` without an answer within `PROBE_TIMEOUT`.
pub async fn probe_upstream(upstream: &UpstreamConfig, path: &str) -> Option<StatusCode> {
    let uri = format!("{}{path}", upstream.urls.first()?);
    let agent = concat!("omnidaemon/", env!("CARGO_PKG_VERSION"), " (start-up check)");
    let request =
        Request::options(uri).header(header::USER_AGENT, agent).body(Full::default()).ok()?;
    let exchange = HandlerClientCache::default().get(upstream.connect_timeout).request(request);
    timeout(PROBE_TIMEOUT, exchange).await.ok()?.ok().map(|response| response.status())
}

/// Sends a request and returns the answer once its head is complete, within `first_byte` if given.
pub(super) async fn send_request(
    client: &HandlerHttpClient,
    mut request: Request<Full<Bytes>>,
    first_byte: Option<Duration>,
) -> Result<Response<Incoming>, ExchangeError> {
    let flooded = limit_informational(&mut request);
    let sending = async {
        tokio::select! {
            sent = client.request(request) => Ok(sent),
            () = flooded.notified() => Err(broken_connection_error(format!(
                "more than {MAX_INFORMATIONAL} informational answers came"
            ))),
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
        Some(defect) => Err(broken_connection_error(format!("the answer is not valid: {defect}"))),
        None => Ok(response),
    }
}

fn broken_connection_error(message: String) -> ExchangeError {
    ExchangeError::Failed(TaskFailure::new(FailureKind::BrokenExchange, message))
}

/// Notified when the answer to `request` has more than [`MAX_INFORMATIONAL`] informational parts.
fn limit_informational(request: &mut Request<Full<Bytes>>) -> Arc<Notify> {
    let flooded = Arc::new(Notify::new());
    let (notify, seen) = (Arc::clone(&flooded), AtomicUsize::new(0));
    hyper::ext::on_informational(request, move |_| {
        if seen.fetch_add(1, Ordering::Relaxed) == MAX_INFORMATIONAL {
            notify.notify_one();
        }
    });
    flooded
}

/// Why a response is not a usable final answer: its end is ambiguous (RFC 9112 §6.3), or its
/// status is informational.
fn find_response_defect<B>(response: &Response<B>) -> Option<&'static str> {
    if response.status().is_informational() {
        return Some("its status is informational, and the request asked for none");
    }
    find_framing_defect(response.headers())
}

/// The causes of an error, outermost first; the last one is the most specific.
fn format_error_causes(error: &Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}
