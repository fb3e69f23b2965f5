//! The other end of a connection, and the client behind trusted proxies. An address is for limits and logs; no right follows
//! from it.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::headers::X_FORWARDED_FOR;

/// A client that has one address of an IPv6 /64 usually has all of them.
const IPV6_NETWORK: u128 = !0 << 64;

/// The proxies whose information on a client's address is trusted.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Those in `networks`.
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.into())
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The address of the client that sent a request, as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// The other end of a connection: a client, or a proxy.
#[derive(Debug, Clone)]
pub struct Peer {
    address: IpAddr,
    proxies: TrustedProxies,
}

impl Peer {
    /// The peer at `address`. An IPv4-mapped IPv6 address counts as IPv4.
    pub(super) fn new(address: IpAddr, proxies: TrustedProxies) -> Self {
        Self { address: address.to_canonical(), proxies }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether this is a trusted proxy.
    pub(super) fn is_proxy(&self) -> bool {
        self.trusts(self.address)
    }

    /// Whether `address` is a trusted proxy.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.proxies.contains(address)
    }

    /// The client that sent a request: the peer, or the address that trusted proxies name in `X-Forwarded-For`. Each proxy
    /// appends the address that it has seen, so the client is the rightmost address that is not a trusted proxy.
    pub(crate) fn client(&self, headers: &HeaderMap) -> IpAddr {
        let mut client = self.address;
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        // Each part is parsed alone, so that a client's invalid bytes do not hide what a proxy has appended to its line.
        let mut forwarded = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        while self.trusts(client) {
            let text = forwarded.next().and_then(|part| str::from_utf8(part).ok());
            let Some(next) = text.and_then(|text| parse_address(text.trim())) else { break };
            client = next;
        }
        client
    }
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<std::net::SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// The address that limits count: an IPv4 address, or the /64 network of an IPv6 address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let proxies = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let lines = lines.iter().map(|line| (X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap()));
        let peer = Peer::new(peer.parse().unwrap(), TrustedProxies::new(&proxies));
        peer.client(&HeaderMap::from_iter(lines)).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_may_name_another_address() {
        assert_eq!(client("192.0.2.7", &["203.0.113.9"]), "192.0.2.7");
        assert_eq!(client("::ffff:192.0.2.7", &["203.0.113.9"]), "192.0.2.7");
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_a_trusted_proxy() {
        assert_eq!(client("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("::ffff:10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(
            client("10.0.0.1", &["1.1.1.1, 203.0.113.9 ,10.0.0.2"]),
            "203.0.113.9",
            "a client can write the first one itself"
        );
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "203.0.113.9", "fd00::2"]), "203.0.113.9");
        assert_eq!(client("fd00::1", &["[2001:db8::9]:443"]), "2001:db8::9");
        assert_eq!(client("fd00::1", &["[2001:db8::9]"]), "2001:db8::9");
        assert_eq!(client("fd00::1", &["203.0.113.9:1234"]), "203.0.113.9");
    }

    #[test]
    fn where_the_list_ends_or_is_malformed_the_last_proxy_is_the_client() {
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["203.0.113.9,"]), "10.0.0.1");
        let peer = Peer::new([10, 0, 0, 1].into(), TrustedProxies::new(&["10.0.0.0/8".parse().unwrap()]));
        let invalid = HeaderValue::from_bytes(b"\xff, 203.0.113.9").unwrap();
        let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, invalid)]);
        assert_eq!(peer.client(&headers).to_string(), "203.0.113.9", "invalid bytes of a client hide nothing");
    }

    #[test]
    fn all_addresses_of_an_ipv6_network_count_as_one() {
        let of = |address: &str| network(address.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
