//! Finds upstreams that resolve to a listener of this process: a request would loop.
//!
//! `check/mod.rs` refuses what the text of the file shows, such as the same address and port. This
//! file asks the system: it resolves host names, and finds out whether an address belongs to this
//! machine when a listener is on `0.0.0.0` or `::`. A name that does not resolve within 2 s is
//! not reported.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::config::diagnostics::ConfigProblem;
use crate::config::{Config, UpstreamUrl};

/// The longest that all names may take to resolve.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// A problem for each upstream of `config` that resolves to one of its own listeners.
pub async fn find_self_upstreams(config: &Config) -> Vec<ConfigProblem> {
    let listens =
        [(config.proxy.listen, "the proxy itself"), (config.admin.listen, "the admin port")];
    let mut found = Vec::new();
    let lookups = async {
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
    let _ = timeout(LOOKUP_TIMEOUT, lookups).await;
    found
}

/// The problem of an upstream that is the listener `name` of this process.
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

/// Whether the address belongs to this machine: only such an address can be bound.
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
    fn every_address_of_this_machine_reaches_a_listener_on_all_addresses() {
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
    async fn a_name_is_resolved_and_an_unknown_name_is_not_reported() {
        let url = |host: &str| UpstreamUrl { tls: false, host: host.into(), port: 8000 };
        let listen = "127.0.0.1:8000".parse().expect("an address");
        assert!(resolves_to_listener(&url("localhost"), listen).await);
        assert!(!resolves_to_listener(&url("no-such-host.invalid"), listen).await);
    }
}
