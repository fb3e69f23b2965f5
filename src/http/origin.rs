//! Requests that a browser sends for a web page.
//!
//! Where no token is asked for, any page on the web could have the browsers of its visitors POST here, also from within
//! a network that the server is only reachable from. Browsers say whose page it is (Fetch Metadata; RFC 6454, 7), and other
//! clients do not send these headers. That a page is of this server's own origin counts only where the Host is an address or a
//! loopback name: the owner of any other name can point it at this server after the page was loaded (DNS rebinding). A token is not sent by a browser on its own, so with `TOKENS_FILE` there is nothing to
//! check.

use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::{Edge, Problem};
use crate::admin::is_rebinding_safe;
use crate::config::AllowedOrigins;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a web page's request where no token is asked for, unless the page is of this server's origin or `ALLOWED_ORIGINS`
/// has its origin.
pub(super) fn check(edge: &Edge, head: &Parts) -> Result<(), Problem> {
    if edge.tenants.is_some() {
        return Ok(());
    }
    let host = head.uri.authority().map(|authority| authority.as_str());
    let host = host.or_else(|| head.headers.get(HOST).and_then(|host| host.to_str().ok()));
    let may = match foreign_origin(&head.headers, host.unwrap_or_default()) {
        None => true,
        Some(origin) => is_allowed(&edge.settings.allowed_origins, origin),
    };
    if may { Ok(()) } else { Err(Problem::CrossOrigin) }
}

/// The origin that has to be allowed: of a web page that is not known to be of this server's own, empty if it is not said;
/// none of any other request.
fn foreign_origin<'a>(headers: &'a HeaderMap, host: &str) -> Option<&'a str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let origin = text(&ORIGIN);
    let is_own = match (text(&SEC_FETCH_SITE), origin) {
        (None, None) | (Some("none"), _) => return None,
        // Pages cannot set it.
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => is_of_host(origin, host),
    };
    (!is_own || !is_rebinding_safe(host.as_bytes())).then(|| origin.unwrap_or_default())
}

/// Whether an origin is of this host. Default ports are left out of an origin, and mostly of a host.
fn is_of_host(origin: &str, host: &str) -> bool {
    let without_port = |port| host.strip_suffix(port).unwrap_or(host);
    let (authority, host) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, without_port(":80")),
        Some(("https", authority)) => (authority, without_port(":443")),
        _ => return false,
    };
    authority.eq_ignore_ascii_case(host)
}

fn is_allowed(allowed: &AllowedOrigins, origin: &str) -> bool {
    match allowed {
        AllowedOrigins::Any => true,
        AllowedOrigins::Only(origins) => origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(site: Option<&'static str>, origin: Option<&'static str>, host: &str) -> Option<String> {
        let given = [(SEC_FETCH_SITE, site), (ORIGIN, origin)];
        let headers = given.into_iter().filter_map(|(name, value)| Some((name, value?.parse().unwrap())));
        foreign_origin(&HeaderMap::from_iter(headers), host).map(str::to_owned)
    }

    #[test]
    fn a_page_of_another_origin_is_told_from_one_of_our_own_and_from_what_is_no_page() {
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
    fn a_page_under_a_name_that_dns_may_rebind_is_not_one_of_our_own() {
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            let origin: &'static str = format!("http://{host}").leak();
            assert_eq!(of(None, Some(origin), host).as_deref(), Some(origin));
            assert_eq!(of(Some("same-origin"), Some(origin), host).as_deref(), Some(origin));
            assert_eq!(of(Some("same-origin"), None, host).as_deref(), Some(""));
        }
    }

    #[test]
    fn origins_are_allowed_by_name_or_all() {
        let only = AllowedOrigins::Only(vec!["https://a.example".to_owned()]);
        assert!(is_allowed(&only, "https://a.example"));
        for other in ["https://b.example", "https://a.example.b", "null", ""] {
            assert!(!is_allowed(&only, other), "{other}");
            assert!(is_allowed(&AllowedOrigins::Any, other), "{other}");
        }
    }
}
