//! A network of IP addresses, as in `proxy.trusted`.

use std::net::IpAddr;

/// A network, such as `10.0.0.0/8` or `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The network's address.
    pub network_address: IpAddr,
    /// The number of leading bits that all addresses of the network share.
    pub prefix_length: u8,
}

impl Cidr {
    /// Whether `peer` is in the network; an IPv4-mapped IPv6 peer counts as IPv4.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        match (self.network_address, peer.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix_length.min(32));
                shift == 32 || u32::from(net) >> shift == u32::from(ip) >> shift
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix_length.min(128));
                shift == 128 || u128::from(net) >> shift == u128::from(ip) >> shift
            }
            _ => false,
        }
    }
}
