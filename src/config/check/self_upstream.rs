//! Whether an upstream is this very process, found by resolving its name: a request to it would
//! come round and round.
//!
//! What the text of a file can tell, `meaning/checks.rs` refuses; a name, or an interface's address
//! behind `listen: 0.0.0.0`, takes the system to tell. A name that does not resolve, or not in
//! time, is no mistake here.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::config::diagnostics::ConfigProblem;
use crate::config::{Config, UpstreamUrl};

/// The longest that all names may take to resolve.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The upstreams of `config` that arrive at its own ports.
pub async fn find_self_upstreams(config: &Config) -> Vec<ConfigProblem> {
    let listens =
        [(config.proxy.listen, "the proxy itself"), (config.admin.listen, "the admin port")];
    let mut found = Vec::new();
    let looking = async {
        for url in &config.upstream.urls {
            for (listen, name) in
                listens.into_iter().filter(|(listen, _)| listen.port() == url.port)
            {
                if resolves_to_listener(url, listen).await {
                    found.push(self_upstream_problem(url, listen, name).with_field("upstream"));
                }
            }
        }
    };
    let _ = timeout(LOOKUP_TIMEOUT, looking).await;
    found
}

/// The problem of an upstream that is one of our listeners.
pub(crate) fn self_upstream_problem(
    url: &UpstreamUrl,
    listen: SocketAddr,
    name: &str,
) -> ConfigProblem {
    let message = format!("{url} is {name}, which listens on {listen}");
    ConfigProblem::new(
        message,
        "write the address of the legacy endpoint, or listen on another port",
    )
}

async fn resolves_to_listener(url: &UpstreamUrl, listen: SocketAddr) -> bool {
    let addresses = lookup_host((url.host.as_str(), url.port)).await;
    addresses.is_ok_and(|mut addresses| {
        addresses.any(|address| ip_reaches_listener(address.ip(), listen.ip()))
    })
}

/// Whether a connection to `ip` reaches a listener on `own`.
fn ip_reaches_listener(ip: IpAddr, own: IpAddr) -> bool {
    let (ip, any) = (ip.to_canonical(), own.is_unspecified());
    ip == own.to_canonical() || any && (ip.is_ipv4() || own.is_ipv6()) && is_local_address(ip)
}

/// Only an address of this machine can be bound to.
fn is_local_address(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed_ip_reaches_listener(ip: &str, own: &str) -> bool {
        super::ip_reaches_listener(
            ip.parse().expect("an address"),
            own.parse().expect("an address"),
        )
    }

    #[test]
    fn every_address_of_this_machine_arrives_at_a_listener_on_all_of_them() {
        for (ip, own) in [
            ("127.0.0.1", "0.0.0.0"),
            ("127.0.0.9", "0.0.0.0"),
            ("127.0.0.1", "::"),
            ("::ffff:127.0.0.1", "0.0.0.0"),
            ("127.0.0.1", "127.0.0.1"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert!(parsed_ip_reaches_listener(ip, own), "{ip} {own}");
        }
        for (ip, own) in [("192.0.2.1", "0.0.0.0"), ("127.0.0.1", "127.0.0.2"), ("::1", "0.0.0.0")]
        {
            assert!(!parsed_ip_reaches_listener(ip, own), "{ip} {own}");
        }
    }

    #[tokio::test]
    async fn a_name_is_resolved_and_one_that_is_nobodys_is_no_mistake() {
        let url = |host: &str| UpstreamUrl { tls: false, host: host.into(), port: 8000 };
        let listen = "127.0.0.1:8000".parse().expect("an address");
        assert!(resolves_to_listener(&url("localhost"), listen).await);
        assert!(!resolves_to_listener(&url("no-such-host.invalid"), listen).await);
    }
}
