//! Opens connections to the upstream, with TLS where the URL asks for it.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::UpstreamUrl;
use crate::outbound::{build_tls_config, load_native_roots};
use crate::proxy::http::request_body::RequestBody;
use crate::proxy::upstream::error::UpstreamError;

/// The largest head of a response, bytes.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Opens connections for one thread; loads the TLS configuration when it is first needed.
#[derive(Default)]
pub(crate) struct UpstreamConnector {
    cached_tls_config: RefCell<Option<Arc<ClientConfig>>>,
}

// === impl UpstreamConnector ===

impl UpstreamConnector {
    /// Opens a connection within `limit`. One `with_upgrades` can become a tunnel.
    pub(crate) async fn connect_within(
        &self,
        url: &UpstreamUrl,
        limit: Duration,
        with_upgrades: bool,
    ) -> Result<SendRequest<RequestBody>, UpstreamError> {
        match timeout(limit, self.open_connection(url, with_upgrades)).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(UpstreamError::ConnectFailed { url: url.clone(), error }),
            Err(_) => Err(UpstreamError::ConnectTimeout { url: url.clone(), limit }),
        }
    }

    async fn open_connection(
        &self,
        url: &UpstreamUrl,
        with_upgrades: bool,
    ) -> io::Result<SendRequest<RequestBody>> {
        let tcp = TcpStream::connect((url.host.as_str(), url.port)).await?;
        tcp.set_nodelay(true)?;
        if url.tls {
            let name = tls_server_name(&url.host)?;
            let tls = TlsConnector::from(self.load_tls_config()).connect(name, tcp).await?;
            start_http1(TokioIo::new(tls), with_upgrades).await
        } else {
            start_http1(TokioIo::new(tcp), with_upgrades).await
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

fn tls_server_name(host: &str) -> io::Result<ServerName<'static>> {
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(io::Error::other),
    }
}

/// Starts HTTP/1.1 on a connection, and the task that drives it on this thread.
async fn start_http1<T>(io: T, with_upgrades: bool) -> io::Result<SendRequest<RequestBody>>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.writev(false).max_buf_size(MAX_RESPONSE_HEAD);
    let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
    // An error of the connection reaches the exchange on it; between exchanges it only means that
    // the connection closed.
    if with_upgrades {
        tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
    } else {
        tokio::task::spawn_local(async move { drop(connection.await) });
    }
    Ok(sender)
}
