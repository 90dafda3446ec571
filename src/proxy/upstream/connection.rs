//! Connections to one server of the upstream: idle ones, and those lent to an exchange.
//!
//! A connection is lent to one exchange at a time. It is lent again only when both the response and
//! the request of its exchange have ended; otherwise it is closed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;
use tokio::time::timeout;

use crate::config::UpstreamUrl;
use crate::proxy::http::request_body::{RequestBody, RequestBodyProgress};

/// How long a connection may be idle and still be lent: servers commonly close theirs after 5 s.
const MAX_IDLE_TIME: Duration = Duration::from_secs(4);
/// Idle connections that one thread keeps per server.
const MAX_IDLE_PER_SERVER: usize = 256;
/// How long an idle connection may take to become ready for its next exchange.
const READY_TIMEOUT: Duration = Duration::from_millis(10);

/// A server of the upstream and the idle connections of this thread to it.
pub(crate) struct UpstreamServer {
    pub(crate) url: UpstreamUrl,
    idle_connections: RefCell<Vec<IdleConnection>>,
}

struct IdleConnection {
    sender: SendRequest<RequestBody>,
    idle_since: Instant,
}

/// A connection lent to an exchange; closed when dropped, unless it was returned to its server.
pub(crate) struct BorrowedConnection {
    pub(crate) sender: SendRequest<RequestBody>,
    /// Whether the connection has served an earlier exchange.
    pub(crate) is_reused: bool,
    /// How far the request of the exchange has been sent.
    pub(crate) request_progress: Option<Rc<RequestBodyProgress>>,
    server: Rc<UpstreamServer>,
}

// === impl UpstreamServer ===

impl UpstreamServer {
    /// A server to which no connection is open yet.
    pub(crate) fn new(url: UpstreamUrl) -> Self {
        Self { url, idle_connections: RefCell::default() }
    }

    /// Lends the idle connection that was used last, which is the most likely to be alive.
    pub(crate) async fn take_idle_connection(self: &Rc<Self>) -> Option<BorrowedConnection> {
        loop {
            let mut idle = self.idle_connections.borrow_mut().pop()?;
            if idle.idle_since.elapsed() > MAX_IDLE_TIME {
                self.idle_connections.borrow_mut().clear(); // all others are older
                return None;
            }
            // A connection that has not finished its last exchange yet is not waited for long.
            if idle.sender.is_ready()
                || matches!(timeout(READY_TIMEOUT, idle.sender.ready()).await, Ok(Ok(())))
            {
                return Some(BorrowedConnection::new(idle.sender, self.clone(), true));
            }
        }
    }
}

// === impl BorrowedConnection ===

impl BorrowedConnection {
    /// A connection whose request has not been sent yet.
    pub(crate) fn new(
        sender: SendRequest<RequestBody>,
        server: Rc<UpstreamServer>,
        is_reused: bool,
    ) -> Self {
        Self { sender, is_reused, request_progress: None, server }
    }

    /// The server at the other end.
    pub(crate) fn server_url(&self) -> UpstreamUrl {
        self.server.url.clone()
    }

    /// Makes the connection available to the next exchange. Closes it instead if its request is
    /// still being sent, if the server has closed it, or if enough others are idle.
    pub(crate) fn return_to_pool(self) {
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
