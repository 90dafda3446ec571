//! The sections `proxy`, `admin` and `upstream`: the two listeners of the process, and the legacy
//! servers behind the proxy.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::model::network::Cidr;
use crate::config::model::secret::Secret;

/// `proxy:`
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// The address that clients call. Needs a restart to change.
    pub listen: SocketAddr,
    /// The number of data-plane threads; 0 is one per core. Needs a restart to change.
    pub threads: usize,
    /// The largest request body that can become a task, in bytes.
    pub max_body_bytes: usize,
    /// The path under which tasks are read, such as `/task`, without a slash at the end.
    pub task_path: String,
    /// Peers whose `X-Forwarded-*` and `x-omnidaemon-path` headers are accepted; empty trusts no
    /// peer.
    pub trusted_networks: Vec<Cidr>,
    /// How long requests and tasks may take to end at shutdown, after `drain_delay`.
    pub drain_timeout: Duration,
    /// How long `/readyz` answers 503 before the proxy stops accepting connections.
    pub drain_delay: Duration,
    /// Whether `/metrics` is also served on the data port (`expose: [metrics]`).
    pub expose_metrics: bool,
    /// Origins from which browsers may call the proxy's task endpoints (`cors: {origins: […]}`);
    /// `*` is any origin.
    pub cors_origins: Vec<String>,
    /// The base URL at which handlers reach this proxy to report progress; without one they get no
    /// address to report to.
    pub public_url: Option<UpstreamUrl>,
}

/// `admin:`
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// The address of health, metrics and API. Needs a restart to change.
    pub listen: SocketAddr,
    /// The bearer token of `/admin/v1`; without one the listener must be on loopback.
    pub token: Option<Secret>,
    /// A bearer token that allows only reading.
    pub read_token: Option<Secret>,
    /// Values of the Host header that are accepted beside the listener's own address.
    pub allowed_hosts: Vec<String>,
}

/// `upstream:`
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    /// One or several servers, tried in turn until one is reached.
    pub urls: Vec<UpstreamUrl>,
    /// The longest time that opening a connection may take.
    pub connect_timeout: Duration,
    /// The longest time until the first byte of a response; none waits without a limit.
    pub timeout: Option<Duration>,
}

/// The base of an HTTP server: scheme, host and port, no path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// Whether the scheme is `https`.
    pub tls: bool,
    /// The host name or address, IPv6 without brackets.
    pub host: String,
    /// The port; the default of the scheme when the URL has none.
    pub port: u16,
}

impl UpstreamUrl {
    /// The value of the Host header: `host`, or `host:port` for a port that is not the scheme's
    /// default.
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
