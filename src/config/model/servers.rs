//! The sections `proxy`, `admin` and `upstream`: who listens where, and the servers behind it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::model::network::Cidr;
use crate::config::model::secret::Secret;

/// `proxy:`
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// The data port. Restart-only.
    pub listen: SocketAddr,
    /// Data-plane threads; 0 is one per core. Restart-only.
    pub threads: usize,
    /// Largest body of a task, bytes.
    pub max_body_bytes: usize,
    /// Where `/task/<id>` is served, without a slash at the end.
    pub task_path: String,
    /// Peers whose `X-Forwarded-*` and `x-omnidaemon-path` count; empty is nobody.
    pub trusted_networks: Vec<Cidr>,
    /// The longest a shutdown takes.
    pub drain_timeout: Duration,
    /// How long `/readyz` says 503 before the proxy stops accepting.
    pub drain_delay: Duration,
    /// Whether `/metrics` is also served on the data port (`expose: [metrics]`).
    pub expose_metrics: bool,
    /// Origins that browsers may call the own paths from (`cors: {origins: […]}`); `*` is any.
    pub cors_origins: Vec<String>,
    /// Where handlers reach this proxy, to say how far they have come; none tells them no address.
    pub public_url: Option<UpstreamUrl>,
}

/// `admin:`
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// The admin port. Restart-only.
    pub listen: SocketAddr,
    /// The bearer token of `/admin/v1`; without one the listener must be loopback.
    pub token: Option<Secret>,
    /// A bearer token that may look, and change nothing.
    pub read_token: Option<Secret>,
    /// Host names accepted beside the listener's own.
    pub allowed_hosts: Vec<String>,
}

/// `upstream:`
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    /// One or several servers, tried in turn.
    pub urls: Vec<UpstreamUrl>,
    /// The longest a connect may take.
    pub connect_timeout: Duration,
    /// The longest until the first byte of an answer; none waits.
    pub timeout: Option<Duration>,
}

/// The base of an HTTP server: scheme, host and port, no path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// Whether it is `https`.
    pub tls: bool,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl UpstreamUrl {
    /// `host` or `host:port`, as it goes into a Host header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}
