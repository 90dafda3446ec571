//! Connections to the upstream, kept open per data-plane thread.
//!
//! A connection is driven by a task of its own on this thread and is lent to one exchange at a
//! time. A request is sent once: only one that never left (the connection had died before), or that
//! is safe and met a connection that was just closing, goes to another. A connection is lent again
//! only when both the answer and the request have ended.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::body::{RequestBody, RequestBodyError, RequestBodyProgress};
use crate::config::{UpstreamConfig, UpstreamUrl};
use crate::outbound::{build_tls_config, load_native_roots};

/// Longer than this an idle connection is not trusted: servers commonly close theirs after 5 s.
const MAX_IDLE_TIME: Duration = Duration::from_secs(4);
/// Idle connections that one thread keeps per server.
const MAX_IDLE_PER_SERVER: usize = 256;
/// How long a connection may take to be ready again.
const READY_TIMEOUT: Duration = Duration::from_millis(10);
/// The largest head of an answer.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// No server could be connected to.
    #[error("cannot connect to {url}: {error}")]
    ConnectFailed { url: UpstreamUrl, error: io::Error },
    /// Connecting took longer than `connect_timeout`.
    #[error("connecting to {url} took longer than upstream.connect_timeout ({limit:?})")]
    ConnectTimeout { url: UpstreamUrl, limit: Duration },
    /// No first byte within `timeout`.
    #[error("{url} sent no answer within upstream.timeout ({limit:?})")]
    FirstByteTimeout { url: UpstreamUrl, limit: Duration },
    /// The connection broke after the request was sent.
    #[error("the connection to {url} broke: {error}")]
    ConnectionBroken { url: UpstreamUrl, error: hyper::Error },
    /// The answer could be read two ways, or switches to a protocol that nobody asked for.
    #[error("{url} sent an answer that cannot be passed on: {why}")]
    MalformedResponse { url: UpstreamUrl, why: &'static str },
    /// It is the client's body that is at fault.
    #[error("{0}")]
    RequestBody(RequestBodyError),
}

/// One thread's connections.
pub(super) struct UpstreamPool {
    servers: RefCell<Vec<Rc<UpstreamServer>>>,
    next_server: Cell<usize>,
    cached_tls_config: RefCell<Option<Arc<ClientConfig>>>,
}

struct UpstreamServer {
    url: UpstreamUrl,
    idle_connections: RefCell<Vec<IdleConnection>>,
}

struct IdleConnection {
    sender: SendRequest<RequestBody>,
    idle_since: Instant,
}

/// A connection out on an exchange; dropped unless it is given back.
pub(super) struct BorrowedConnection {
    sender: SendRequest<RequestBody>,
    server: Rc<UpstreamServer>,
    /// Whether it has served an exchange before.
    is_reused: bool,
    /// How far the exchange's request has come.
    request_progress: Option<Rc<RequestBodyProgress>>,
}

// === impl Borrowed ===

impl BorrowedConnection {
    /// The server that it leads to.
    pub(super) fn server_url(&self) -> UpstreamUrl {
        self.server.url.clone()
    }

    /// Lends it to the next exchange, unless it has closed, or its request is still being sent:
    /// that one is given up, and the connection with it.
    pub(super) fn return_to_pool(self) {
        if let Some(request) = self.request_progress.filter(|request| request.ended_at().is_none())
        {
            return request.abandon_after_grace();
        }
        let mut idle = self.server.idle_connections.borrow_mut();
        if !self.sender.is_closed() && idle.len() < MAX_IDLE_PER_SERVER {
            idle.push(IdleConnection { sender: self.sender, idle_since: Instant::now() });
        }
    }
}

// === impl Pool ===

impl UpstreamPool {
    pub(super) fn new() -> Self {
        Self {
            servers: RefCell::default(),
            next_server: Cell::new(0),
            cached_tls_config: RefCell::default(),
        }
    }

    /// Sends a request to one of the upstream's servers and returns the head of its answer. `fresh`
    /// asks for a connection of its own, which can become a tunnel.
    pub(super) async fn send_request(
        &self,
        upstream: &UpstreamConfig,
        mut request: Request<RequestBody>,
        fresh: bool,
    ) -> Result<(Response<Incoming>, BorrowedConnection), UpstreamError> {
        loop {
            let mut connection = self.acquire_connection(upstream, fresh).await?;
            let progress = request.body().progress();
            connection.request_progress = Some(progress.clone());
            let again = if connection.is_reused { copy_if_repeatable(&request) } else { None };
            let sent = connection.sender.try_send_request(request);
            let answered = match upstream.timeout {
                None => sent.await,
                Some(limit) => await_first_byte(sent, &progress, limit).await.map_err(|()| {
                    UpstreamError::FirstByteTimeout { url: connection.server_url(), limit }
                })?,
            };
            let mut error = match answered {
                Ok(response) => return Ok((response, connection)),
                Err(error) => error,
            };
            if let Some(fault) = progress.error() {
                return Err(UpstreamError::RequestBody(fault));
            }
            let broken =
                |error| UpstreamError::ConnectionBroken { url: connection.server_url(), error };
            request = error.take_message().or(again).ok_or_else(|| broken(error.into_error()))?;
        }
    }

    /// A ready connection: an idle one, else a new one to the first server, in turn, that takes it.
    async fn acquire_connection(
        &self,
        upstream: &UpstreamConfig,
        fresh: bool,
    ) -> Result<BorrowedConnection, UpstreamError> {
        let first = self.next_server.get();
        self.next_server.set(first.wrapping_add(1));
        let mut last = None;
        for offset in 0..upstream.urls.len() {
            let url = &upstream.urls[first.wrapping_add(offset) % upstream.urls.len()];
            let server = self.find_or_add_server(url);
            if !fresh && let Some(sender) = server.take_idle_connection().await {
                return Ok(BorrowedConnection {
                    sender,
                    server,
                    is_reused: true,
                    request_progress: None,
                });
            }
            match self.connect_within(url, upstream.connect_timeout, fresh).await {
                Ok(sender) => {
                    return Ok(BorrowedConnection {
                        sender,
                        server,
                        is_reused: false,
                        request_progress: None,
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| UpstreamError::ConnectFailed {
            url: UpstreamUrl { tls: false, host: String::new(), port: 0 },
            error: io::Error::other("no server is configured"),
        }))
    }

    fn find_or_add_server(&self, url: &UpstreamUrl) -> Rc<UpstreamServer> {
        let mut servers = self.servers.borrow_mut();
        if let Some(server) = servers.iter().find(|server| server.url == *url) {
            return server.clone();
        }
        let server =
            Rc::new(UpstreamServer { url: url.clone(), idle_connections: RefCell::default() });
        servers.push(server.clone());
        server
    }

    async fn connect_within(
        &self,
        url: &UpstreamUrl,
        limit: Duration,
        tunnel: bool,
    ) -> Result<SendRequest<RequestBody>, UpstreamError> {
        match timeout(limit, self.open_connection(url, tunnel)).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(UpstreamError::ConnectFailed { url: url.clone(), error }),
            Err(_) => Err(UpstreamError::ConnectTimeout { url: url.clone(), limit }),
        }
    }

    async fn open_connection(
        &self,
        url: &UpstreamUrl,
        tunnel: bool,
    ) -> io::Result<SendRequest<RequestBody>> {
        let tcp = TcpStream::connect((url.host.as_str(), url.port)).await?;
        tcp.set_nodelay(true)?;
        if url.tls {
            let name = tls_server_name(&url.host)?;
            let tls = TlsConnector::from(self.load_tls_config()).connect(name, tcp).await?;
            start_http1(TokioIo::new(tls), tunnel).await
        } else {
            start_http1(TokioIo::new(tcp), tunnel).await
        }
    }

    fn load_tls_config(&self) -> Arc<ClientConfig> {
        if let Some(config) = &*self.cached_tls_config.borrow() {
            return config.clone();
        }
        let config = Arc::new(build_tls_config(load_native_roots()));
        *self.cached_tls_config.borrow_mut() = Some(config.clone());
        config
    }
}

/// Waits for an answer's head: for `limit` from the moment that the request's body has ended.
async fn await_first_byte<T>(
    answer: impl Future<Output = T>,
    request: &RequestBodyProgress,
    limit: Duration,
) -> Result<T, ()> {
    let mut answer = std::pin::pin!(answer);
    let mut left = limit;
    loop {
        if let Ok(answered) = timeout(left, answer.as_mut()).await {
            return Ok(answered);
        }
        left = request.ended_at().map_or(limit, |ended| limit.saturating_sub(ended.elapsed()));
        if left.is_zero() {
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

fn tls_server_name(host: &str) -> io::Result<ServerName<'static>> {
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(io::Error::other),
    }
}

/// Starts HTTP/1.1 on a connection, and the task that drives it.
async fn start_http1<T>(io: T, tunnel: bool) -> io::Result<SendRequest<RequestBody>>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.writev(false).max_buf_size(MAX_RESPONSE_HEAD);
    let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
    // A connection's own error reaches the exchange on it; between exchanges it only means that it
    // closed.
    if tunnel {
        tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
    } else {
        tokio::task::spawn_local(async move { drop(connection.await) });
    }
    Ok(sender)
}

// === impl Server ===

impl UpstreamServer {
    /// The idle connection used last, which is the one most likely alive.
    async fn take_idle_connection(&self) -> Option<SendRequest<RequestBody>> {
        loop {
            let mut idle = self.idle_connections.borrow_mut().pop()?;
            if idle.idle_since.elapsed() > MAX_IDLE_TIME {
                self.idle_connections.borrow_mut().clear(); // all others are older
                return None;
            }
            // One that has not finished its last exchange yet is not waited for long.
            if idle.sender.is_ready()
                || matches!(timeout(READY_TIMEOUT, idle.sender.ready()).await, Ok(Ok(())))
            {
                return Some(idle.sender);
            }
        }
    }
}
