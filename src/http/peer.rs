//! Who is at the other end of a connection, and who stands behind a proxy. For limits and for the log; nobody's rights
//! follow from an address.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies whose word on a sender's address is taken.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Those in `networks`.
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.into())
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The address of the client that sent a request, as an extension of the request: for limits and for the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

/// One end of a connection: the sender's, or a proxy's.
#[derive(Debug, Clone)]
pub struct Peer {
    address: IpAddr,
    proxies: TrustedProxies,
}

impl Peer {
    /// The peer at `address`. An IPv4 address in IPv6's clothes is an IPv4 address.
    pub(super) fn new(address: IpAddr, proxies: TrustedProxies) -> Self {
        Self { address: address.to_canonical(), proxies }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether this is a proxy that speaks for others.
    pub(super) fn is_proxy(&self) -> bool {
        self.proxies.contains(self.address)
    }

    /// Whether `address` is a proxy that speaks for others.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.proxies.contains(address)
    }

    /// Who sent a request: the peer, or whom trusted proxies name in `X-Forwarded-For`. Each proxy adds to the right
    /// what it has seen, so the rightmost address that is no trusted proxy's is the last that somebody trusted has seen.
    pub(super) fn client(&self, headers: &HeaderMap) -> IpAddr {
        let mut client = self.address;
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let mut named = lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
        while self.proxies.contains(client) {
            let Some(next) = named.next().and_then(|text| address(text.trim())) else { break };
            client = next;
        }
        client
    }
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<std::net::SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
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
    fn what_a_stranger_says_of_others_is_not_heard() {
        assert_eq!(client("192.0.2.7", &["203.0.113.9"]), "192.0.2.7");
        assert_eq!(client("::ffff:192.0.2.7", &["203.0.113.9"]), "192.0.2.7");
    }

    #[test]
    fn the_sender_is_the_rightmost_address_that_no_trusted_proxy_has() {
        assert_eq!(client("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("::ffff:10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 203.0.113.9 ,10.0.0.2"]), "203.0.113.9", "the first one is made up");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "203.0.113.9", "fd00::2"]), "203.0.113.9");
        assert_eq!(client("fd00::1", &["[2001:db8::9]:443"]), "2001:db8::9");
        assert_eq!(client("fd00::1", &["[2001:db8::9]"]), "2001:db8::9");
        assert_eq!(client("fd00::1", &["203.0.113.9:1234"]), "203.0.113.9");
    }

    #[test]
    fn where_the_proxies_words_end_or_make_no_sense_the_last_of_them_is_the_sender() {
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["203.0.113.9,"]), "10.0.0.1");
    }
}
