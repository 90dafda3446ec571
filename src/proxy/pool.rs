//! Connections to the upstream, kept open per data-plane thread.
//!
//! A connection is driven by a task of its own on this thread and is lent to one exchange at a time. A
//! request is sent once: only one that never left (the connection had died before), or that is safe and met a
//! connection that was just closing, goes to another. A connection is lent again only when both the answer
//! and the request have ended.

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

use super::body::{Fault, Outgoing, Progress};
use crate::config::{Upstream, UpstreamUrl};
use crate::outbound::{native_roots, tls};

/// Longer than this an idle connection is not trusted: servers commonly close theirs after 5 s.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// Idle connections that one thread keeps per server.
const IDLE_MOST: usize = 256;
/// How long a connection may take to be ready again.
const READY_WITHIN: Duration = Duration::from_millis(10);
/// The largest head of an answer.
const MAX_HEAD: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// No server could be connected to.
    #[error("cannot connect to {url}: {error}")]
    Connect { url: UpstreamUrl, error: io::Error },
    /// Connecting took longer than `connect_timeout`.
    #[error("connecting to {url} took longer than upstream.connect_timeout ({limit:?})")]
    ConnectTimeout { url: UpstreamUrl, limit: Duration },
    /// No first byte within `timeout`.
    #[error("{url} sent no answer within upstream.timeout ({limit:?})")]
    FirstByte { url: UpstreamUrl, limit: Duration },
    /// The connection broke after the request was sent.
    #[error("the connection to {url} broke: {error}")]
    Broken { url: UpstreamUrl, error: hyper::Error },
    /// The answer could be read two ways, or switches to a protocol that nobody asked for.
    #[error("{url} sent an answer that cannot be passed on: {why}")]
    Answer { url: UpstreamUrl, why: &'static str },
    /// It is the client's body that is at fault.
    #[error("{0}")]
    Request(Fault),
}

/// One thread's connections.
pub(super) struct Pool {
    servers: RefCell<Vec<Rc<Server>>>,
    next: Cell<usize>,
    tls: RefCell<Option<Arc<ClientConfig>>>,
}

struct Server {
    url: UpstreamUrl,
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    sender: SendRequest<Outgoing>,
    since: Instant,
}

/// A connection out on an exchange; dropped unless it is given back.
pub(super) struct Borrowed {
    sender: SendRequest<Outgoing>,
    server: Rc<Server>,
    /// Whether it has served an exchange before.
    used: bool,
    /// How far the exchange's request has come.
    request: Option<Rc<Progress>>,
}

// === impl Borrowed ===

impl Borrowed {
    /// The server that it leads to.
    pub(super) fn url(&self) -> UpstreamUrl {
        self.server.url.clone()
    }

    /// Lends it to the next exchange, unless it has closed, or its request is still being sent: that one is
    /// given up, and the connection with it.
    pub(super) fn give_back(self) {
        if let Some(request) = self.request.filter(|request| request.ended().is_none()) {
            return request.abandon_later();
        }
        let mut idle = self.server.idle.borrow_mut();
        if !self.sender.is_closed() && idle.len() < IDLE_MOST {
            idle.push(Idle { sender: self.sender, since: Instant::now() });
        }
    }
}

// === impl Pool ===

impl Pool {
    pub(super) fn new() -> Self {
        Self { servers: RefCell::default(), next: Cell::new(0), tls: RefCell::default() }
    }

    /// Sends a request to one of the upstream's servers and returns the head of its answer. `fresh` asks for a
    /// connection of its own, which can become a tunnel.
    pub(super) async fn exchange(
        &self,
        upstream: &Upstream,
        mut request: Request<Outgoing>,
        fresh: bool,
    ) -> Result<(Response<Incoming>, Borrowed), UpstreamError> {
        loop {
            let mut connection = self.connection(upstream, fresh).await?;
            let progress = request.body().progress();
            connection.request = Some(progress.clone());
            let again = if connection.used { repeatable(&request) } else { None };
            let sent = connection.sender.try_send_request(request);
            let answered = match upstream.timeout {
                None => sent.await,
                Some(limit) => first_byte(sent, &progress, limit)
                    .await
                    .map_err(|()| UpstreamError::FirstByte { url: connection.url(), limit })?,
            };
            let mut error = match answered {
                Ok(response) => return Ok((response, connection)),
                Err(error) => error,
            };
            if let Some(fault) = progress.fault() {
                return Err(UpstreamError::Request(fault));
            }
            let broken = |error| UpstreamError::Broken { url: connection.url(), error };
            request = error.take_message().or(again).ok_or_else(|| broken(error.into_error()))?;
        }
    }

    /// A ready connection: an idle one, else a new one to the first server, in turn, that takes it.
    async fn connection(&self, upstream: &Upstream, fresh: bool) -> Result<Borrowed, UpstreamError> {
        let first = self.next.get();
        self.next.set(first.wrapping_add(1));
        let mut last = None;
        for offset in 0..upstream.urls.len() {
            let url = &upstream.urls[first.wrapping_add(offset) % upstream.urls.len()];
            let server = self.server(url);
            if !fresh && let Some(sender) = server.idle_connection().await {
                return Ok(Borrowed { sender, server, used: true, request: None });
            }
            match self.connect(url, upstream.connect_timeout, fresh).await {
                Ok(sender) => return Ok(Borrowed { sender, server, used: false, request: None }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| UpstreamError::Connect {
            url: UpstreamUrl { tls: false, host: String::new(), port: 0 },
            error: io::Error::other("no server is configured"),
        }))
    }

    fn server(&self, url: &UpstreamUrl) -> Rc<Server> {
        let mut servers = self.servers.borrow_mut();
        if let Some(server) = servers.iter().find(|server| server.url == *url) {
            return server.clone();
        }
        let server = Rc::new(Server { url: url.clone(), idle: RefCell::default() });
        servers.push(server.clone());
        server
    }

    async fn connect(
        &self,
        url: &UpstreamUrl,
        limit: Duration,
        tunnel: bool,
    ) -> Result<SendRequest<Outgoing>, UpstreamError> {
        match timeout(limit, self.open(url, tunnel)).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(UpstreamError::Connect { url: url.clone(), error }),
            Err(_) => Err(UpstreamError::ConnectTimeout { url: url.clone(), limit }),
        }
    }

    async fn open(&self, url: &UpstreamUrl, tunnel: bool) -> io::Result<SendRequest<Outgoing>> {
        let tcp = TcpStream::connect((url.host.as_str(), url.port)).await?;
        tcp.set_nodelay(true)?;
        if url.tls {
            let name = server_name(&url.host)?;
            let tls = TlsConnector::from(self.tls_config()).connect(name, tcp).await?;
            handshake(TokioIo::new(tls), tunnel).await
        } else {
            handshake(TokioIo::new(tcp), tunnel).await
        }
    }

    fn tls_config(&self) -> Arc<ClientConfig> {
        if let Some(config) = &*self.tls.borrow() {
            return config.clone();
        }
        let config = Arc::new(tls(native_roots()));
        *self.tls.borrow_mut() = Some(config.clone());
        config
    }
}

/// Waits for an answer's head: for `limit` from the moment that the request's body has ended.
async fn first_byte<T>(answer: impl Future<Output = T>, request: &Progress, limit: Duration) -> Result<T, ()> {
    let mut answer = std::pin::pin!(answer);
    let mut left = limit;
    loop {
        if let Ok(answered) = timeout(left, answer.as_mut()).await {
            return Ok(answered);
        }
        left = request.ended().map_or(limit, |ended| limit.saturating_sub(ended.elapsed()));
        if left.is_zero() {
            return Err(());
        }
    }
}

/// A copy of a request that may be sent a second time (RFC 9110 §9.2.2): safe, and without a body.
fn repeatable(request: &Request<Outgoing>) -> Option<Request<Outgoing>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Outgoing::whole(Bytes::new()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(io::Error::other),
    }
}

/// Starts HTTP/1.1 on a connection, and the task that drives it.
async fn handshake<T>(io: T, tunnel: bool) -> io::Result<SendRequest<Outgoing>>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.writev(false).max_buf_size(MAX_HEAD);
    let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
    // A connection's own error reaches the exchange on it; between exchanges it only means that it closed.
    if tunnel {
        tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
    } else {
        tokio::task::spawn_local(async move { drop(connection.await) });
    }
    Ok(sender)
}

// === impl Server ===

impl Server {
    /// The idle connection used last, which is the one most likely alive.
    async fn idle_connection(&self) -> Option<SendRequest<Outgoing>> {
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            if idle.since.elapsed() > IDLE_LIMIT {
                self.idle.borrow_mut().clear(); // all others are older
                return None;
            }
            // One that has not finished its last exchange yet is not waited for long.
            if idle.sender.is_ready() || matches!(timeout(READY_WITHIN, idle.sender.ready()).await, Ok(Ok(()))) {
                return Some(idle.sender);
            }
        }
    }
}
