//! Request headers that more than one module interprets, all of them in the same way.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::header::ORIGIN;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Of a response: which share of the tenant is full. Another version that has forwarded the request does not count it as a failure.
pub(crate) const MILLPOND_REJECTION: HeaderName = HeaderName::from_static("millpond-rejection");
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) const X_AWS_SQSD_MSGID: HeaderName = HeaderName::from_static("x-aws-sqsd-msgid");
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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

/// The origin that must be allowed: of a web page that may not be this server's own, empty if the browser does not send it;
/// none for any other request.
pub(crate) fn foreign_origin<'a>(headers: &'a HeaderMap, host: &str) -> Option<&'a str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let origin = text(&ORIGIN);
    let is_own = match (text(&SEC_FETCH_SITE), origin) {
        (None, None) | (Some("none"), _) => return None,
        // Scripts cannot set this header.
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => is_of_host(origin, host),
    };
    (!is_own || !is_local_host(host.as_bytes())).then(|| origin.unwrap_or_default())
}

/// Whether an origin is of this host. Browsers omit default ports in an origin, and mostly in a host.
fn is_of_host(origin: &str, host: &str) -> bool {
    let without_port = |port| host.strip_suffix(port).unwrap_or(host);
    let (authority, host) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, without_port(":80")),
        Some(("https", authority)) => (authority, without_port(":443")),
        _ => return false,
    };
    authority.eq_ignore_ascii_case(host)
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

    fn of(site: Option<&'static str>, origin: Option<&'static str>, host: &str) -> Option<String> {
        let given = [(SEC_FETCH_SITE, site), (ORIGIN, origin)];
        let headers = given.into_iter().filter_map(|(name, value)| Some((name, value?.parse().unwrap())));
        foreign_origin(&HeaderMap::from_iter(headers), host).map(str::to_owned)
    }

    #[test]
    fn pages_of_other_origins_are_distinguished_from_own_pages_and_other_clients() {
        assert_eq!(of(None, None, "a:8080"), None);
        assert_eq!(of(None, Some("http://localhost:8080"), "LocalHost:8080"), None);
        assert_eq!(of(None, Some("https://192.0.2.1"), "192.0.2.1:443"), None);
        assert_eq!(of(None, Some("http://[::1]"), "[::1]:80"), None);
        assert_eq!(of(Some("same-origin"), Some("http://127.0.0.1:8080"), "127.0.0.1:8080"), None);
        assert_eq!(of(Some("none"), None, "a"), None);
        for origin in ["http://b", "null", "http://127.0.0.1:81", "http://127.0.0.1.b", "file://", "127.0.0.1", ""] {
            assert_eq!(of(None, Some(origin), "127.0.0.1").as_deref(), Some(origin));
        }
        assert_eq!(of(Some("cross-site"), Some("https://a"), "a").as_deref(), Some("https://a"));
        assert_eq!(of(Some("same-site"), None, "127.0.0.1").as_deref(), Some(""));
    }

    #[test]
    fn a_page_under_a_name_that_dns_may_rebind_is_foreign() {
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            let origin: &'static str = format!("http://{host}").leak();
            assert_eq!(of(None, Some(origin), host).as_deref(), Some(origin));
            assert_eq!(of(Some("same-origin"), Some(origin), host).as_deref(), Some(origin));
            assert_eq!(of(Some("same-origin"), None, host).as_deref(), Some(""));
        }
    }
}
