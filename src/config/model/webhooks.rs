//! The section `webhooks`: the hosts that task ends may be posted to, and how they are posted.
//!
//! By default no host is allowed. A host is listed by name, and the addresses that it resolves to
//! are checked too: an address that is not public is used only for an entry with `private:`.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::Secret;

/// `webhooks:`
#[derive(Clone, Debug, PartialEq)]
pub struct WebhooksConfig {
    /// The hosts that the webhook of a task may have; an empty list allows no webhooks.
    pub allowed_hosts: Vec<AllowedWebhookHost>,
    /// The longest time that one try of a delivery may take.
    pub timeout: Duration,
    /// The number of tries after the first.
    pub retries: u32,
    /// The key that deliveries are signed with.
    pub signing_secret: Option<Secret>,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            timeout: Duration::from_secs(10),
            retries: 16,
            signing_secret: None,
        }
    }
}

/// One of `webhooks.hosts`: `hooks.example.com`, `hooks.example.com:8443` or
/// `private:hooks.internal:8080`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedWebhookHost {
    /// The name or address in lower case, IPv6 without brackets.
    pub host: String,
    /// The only port that is allowed; none allows the default port of the scheme.
    pub port: Option<u16>,
    /// Whether the host's addresses may be loopback, link-local or of a private network.
    pub allow_private: bool,
}

impl fmt::Display for AllowedWebhookHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{host}{}", self.port.map_or_else(String::new, |port| format!(":{port}")))
    }
}

/// Whether an address is of the public internet: not of this machine, of a private network or of a
/// cloud's metadata service. An IPv6 address that embeds an IPv4 address is judged by the latter.
#[must_use]
pub fn is_public_address(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let special = a == 0 // this network
                || ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                // carrier-grade NAT, and the metadata service of some clouds
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0) // protocol assignments
                || (a == 198 && (b == 18 || b == 19)) // benchmarks
                || a >= 224; // multicast, reserved, broadcast
            !special
        }
        IpAddr::V6(ip) => match ip.segments() {
            // NAT64 (64:ff9b::/96) and 6to4 (2002::/16) addresses reach the embedded IPv4 address
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
                is_public_address(embedded_ipv4(high, low))
            }
            // global unicast is 2000::/3, without Teredo, benchmarks and documentation
            [0x2001, 0 | 2 | 0xdb8, ..] => false,
            [first, ..] => first & 0xe000 == 0x2000,
        },
    }
}

fn embedded_ipv4(high: u16, low: u16) -> IpAddr {
    IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_public_or_not_in_every_notation() {
        for public in [
            "1.1.1.1",
            "203.0.114.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "100.128.0.1",
        ] {
            assert!(is_public_address(public.parse().expect("an address")), "{public}");
        }
        for not in [
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "10.0.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::1",
            "2001:db8::1",
            "2001:0:1::1",
            "fec0::1",
            "64:ff9b:1::1",
        ] {
            assert!(!is_public_address(not.parse().expect("an address")), "{not}");
        }
    }
}
