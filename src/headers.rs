//! Request headers that the public and the admin routes interpret the same way.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::HeaderValue;

/// The token after `Bearer` in an `Authorization` header (RFC 6750, 2.1); none of another scheme.
pub(crate) fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Whether a host, with or without a port, is a loopback name or an IP address, which DNS cannot rebind.
pub(crate) fn is_local_host(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else { return false };
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    if let Some((address, port)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        let port = port.strip_prefix(':').or_else(|| port.is_empty().then_some(""));
        return address.parse::<Ipv6Addr>().is_ok() && port.is_some_and(is_port);
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let name = name.to_ascii_lowercase();
    let is_name = name == "localhost" || name.ends_with(".localhost");
    is_port(port) && (is_name || name.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_and_addresses_are_local_hosts() {
        for local in ["localhost", "LOCALHOST:9090", "a.localhost:1", "127.0.0.1:9090", "10.1.2.3", "[::1]", "[::1]:9"]
        {
            assert!(is_local_host(local.as_bytes()), "{local}");
        }
        for other in
            ["", "x", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", "[::1]x", "a@[::1]"]
        {
            assert!(!is_local_host(other.as_bytes()), "{other}");
        }
    }
}
