//! The connections of one data-plane thread to the upstream's servers.
//!
//! Servers take turns. A server that cannot be connected to is skipped for that request.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use crate::config::{UpstreamConfig, UpstreamUrl};
use crate::proxy::upstream::connect::UpstreamConnector;
use crate::proxy::upstream::connection::{BorrowedConnection, UpstreamServer};
use crate::proxy::upstream::error::UpstreamError;

/// One thread's connections to the upstream.
#[derive(Default)]
pub(crate) struct UpstreamPool {
    servers: RefCell<Vec<Rc<UpstreamServer>>>,
    next_server: Cell<usize>,
    connector: UpstreamConnector,
}

// === impl UpstreamPool ===

impl UpstreamPool {
    /// Lends a ready connection: an idle one, else a new one to the first server, in turn, that
    /// accepts it. With `for_tunnel` the connection is always new, and can be upgraded.
    pub(crate) async fn acquire_connection(
        &self,
        upstream: &UpstreamConfig,
        for_tunnel: bool,
    ) -> Result<BorrowedConnection, UpstreamError> {
        let first = self.next_server.get();
        self.next_server.set(first.wrapping_add(1));
        let mut last_error = None;
        for offset in 0..upstream.urls.len() {
            let url = &upstream.urls[first.wrapping_add(offset) % upstream.urls.len()];
            let server = self.find_or_add_server(url);
            if !for_tunnel && let Some(connection) = server.take_idle_connection().await {
                return Ok(connection);
            }
            match self.connector.connect_within(url, upstream.connect_timeout, for_tunnel).await {
                Ok(sender) => return Ok(BorrowedConnection::new(sender, server, false)),
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| UpstreamError::ConnectFailed {
            url: UpstreamUrl { tls: false, host: String::new(), port: 0 },
            error: io::Error::other("no server is configured"),
        }))
    }

    fn find_or_add_server(&self, url: &UpstreamUrl) -> Rc<UpstreamServer> {
        let mut servers = self.servers.borrow_mut();
        if let Some(server) = servers.iter().find(|server| server.url == *url) {
            return server.clone();
        }
        let server = Rc::new(UpstreamServer::new(url.clone()));
        servers.push(server.clone());
        server
    }
}
