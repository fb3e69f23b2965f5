//! Requests that a browser sends for a web page.
//!
//! Without tokens, any page on the web could make the browsers of its visitors POST here, even from inside a private
//! network. Browsers send the page's origin (Fetch Metadata; RFC 6454, 7), and other clients do not send these headers. A page
//! of this server's own origin is accepted only if the Host is an IP address or a loopback name: the owner of any other name
//! can point it at this server after the page was loaded (DNS rebinding). A browser does not send a token on its own, so
//! with `TOKENS_FILE` nothing needs to be checked.

use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::problem::Problem;
use super::state::ApiState;
use crate::config::AllowedOrigins;
use crate::headers::is_local_host;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Without tenants, rejects the request of a web page unless it has this server's origin or one of `ALLOWED_ORIGINS`.
pub(super) fn check(state: &ApiState, head: &Parts) -> Result<(), Problem> {
    if state.tenants.is_some() {
        return Ok(());
    }
    let host = head.uri.authority().map(|authority| authority.as_str());
    let host = host.or_else(|| head.headers.get(HOST).and_then(|host| host.to_str().ok()));
    let is_allowed = match foreign_origin(&head.headers, host.unwrap_or_default()) {
        None => true,
        Some(origin) => allows(&state.settings.allowed_origins, origin),
    };
    if is_allowed { Ok(()) } else { Err(Problem::CrossOrigin) }
}

/// The origin that must be allowed: of a web page that may not be this server's own, empty if the browser does not send it;
/// none for any other request.
fn foreign_origin<'a>(headers: &'a HeaderMap, host: &str) -> Option<&'a str> {
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

fn allows(allowed: &AllowedOrigins, origin: &str) -> bool {
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

    #[test]
    fn origins_are_allowed_by_name_or_all() {
        let only = AllowedOrigins::Only(vec!["https://a.example".to_owned()]);
        assert!(allows(&only, "https://a.example"));
        for other in ["https://b.example", "https://a.example.b", "null", ""] {
            assert!(!allows(&only, other), "{other}");
            assert!(allows(&AllowedOrigins::Any, other), "{other}");
        }
    }
}
