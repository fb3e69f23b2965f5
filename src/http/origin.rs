//! Requests that a browser sends for a web page.
//!
//! Without tokens, any page on the web could make the browsers of its visitors POST here, even from inside a private
//! network. Browsers send the page's origin (Fetch Metadata; RFC 6454, 7), and other clients do not send these headers. A page
//! of this server's own origin is accepted only if the Host is an IP address or a loopback name: the owner of any other name
//! can point it at this server after the page was loaded (DNS rebinding). A browser does not send a token on its own, so
//! with `TOKENS_FILE` nothing needs to be checked.

use axum::http::header::HOST;
use axum::http::request::Parts;

use super::problem::Problem;
use super::state::ApiState;
use crate::config::AllowedOrigins;
use crate::headers::foreign_origin;

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

fn allows(allowed: &AllowedOrigins, origin: &str) -> bool {
    match allowed {
        AllowedOrigins::Any => true,
        AllowedOrigins::Only(origins) => origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
