//! Access to the admin routes. With `ADMIN_TOKEN` a request needs the token, and wrong tokens are limited per address. Without
//! it the `Host` must be a loopback name or an IP address, so that no web page can reach the routes by DNS rebinding.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, HOST, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use prometheus::IntCounter;

use super::page;
use crate::audit;
use crate::digest::Digest;
use crate::headers::{bearer, foreign_origin, is_local_host};
use crate::log_throttle::LogThrottle;
use crate::server::network;

const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"millpond admin\"");
/// The number of wrong tokens of one address in a window before the response is 429. The right token is always accepted,
/// because other clients may share the address.
const FAILED_ATTEMPTS_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// The number of addresses that are counted. If there are more, all counts are dropped: a limit per address does not stop
/// an attacker with so many addresses.
const ADDRESSES_MAX: usize = 1024;

/// Decides whether a request may use the admin routes.
#[derive(Debug)]
pub(super) struct Guard {
    token: Option<Digest>,
    failed_attempts: FailedAttempts,
    failures: IntCounter,
    log_throttle: LogThrottle,
}

impl Guard {
    /// Requires `token`, if there is one. `failures` counts wrong tokens.
    pub(super) fn new(token: Option<Digest>, failures: IntCounter) -> Self {
        Self { token, failed_attempts: FailedAttempts::default(), failures, log_throttle: LogThrottle::for_clients() }
    }

    /// The response to a request from `address` that is rejected. `/live` and the files of the page need no token.
    pub(super) fn reject<B>(&self, request: &Request<B>, address: IpAddr) -> Option<Response> {
        if request.uri().path() == "/live" {
            return None;
        }
        let Some(token) = &self.token else { return reject_rebinding(request).or_else(|| reject_foreign(request)) };
        if page::is_asset(request.uri().path()) {
            return None;
        }
        let Some(sent) = request.headers().get(AUTHORIZATION).and_then(bearer) else {
            self.log(address);
            return Some(unauthorized());
        };
        let now = Instant::now();
        if *token == Digest::of(sent) {
            return None;
        }
        if let Some(wait) = self.failed_attempts.blocked_for(address, now) {
            self.count_failure(address);
            let seconds = HeaderValue::from(wait.as_secs() + 1);
            let text = "too many wrong tokens from this address: try again later\n";
            return Some((StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, seconds)], text).into_response());
        }
        self.failed_attempts.count(address, now);
        self.count_failure(address);
        Some(unauthorized())
    }

    fn count_failure(&self, address: IpAddr) {
        self.failures.inc();
        self.log(address);
    }

    fn log(&self, address: IpAddr) {
        if let Some(suppressed) = self.log_throttle.permit() {
            tracing::warn!(target: audit::TARGET, %address, suppressed, "admin request rejected: missing or wrong ADMIN_TOKEN");
        }
    }
}

fn unauthorized() -> Response {
    let text = "send ADMIN_TOKEN as Authorization: Bearer\n";
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, BEARER)], text).into_response()
}

fn reject_rebinding<B>(request: &Request<B>) -> Option<Response> {
    let mut hosts = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes);
    let authority = request.uri().authority().map(Authority::as_str).map(str::as_bytes);
    // Browsers always send a host.
    let is_safe = hosts.all(is_local_host) && authority.is_none_or(is_local_host);
    let text =
        "without ADMIN_TOKEN the Host must be localhost or an IP address: use one of these, or set ADMIN_TOKEN\n";
    (!is_safe).then(|| (StatusCode::MISDIRECTED_REQUEST, text).into_response())
}

/// Rejects what a page of another origin sends: without a token, it could drain the server, or start profiles in frames. A
/// link to the page works, since that only loads files.
fn reject_foreign<B>(request: &Request<B>) -> Option<Response> {
    let headers = request.headers();
    let host = request.uri().authority().map(Authority::as_str);
    let host = host.or_else(|| headers.get(HOST).and_then(|host| host.to_str().ok()));
    let is_document = headers.get(SEC_FETCH_DEST).is_some_and(|destination| destination == "document");
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_link = is_document && is_read && page::is_asset(request.uri().path());
    let text = "requests of web pages of other origins are rejected: set ADMIN_TOKEN, and send it\n";
    let is_foreign = !is_link && foreign_origin(headers, host.unwrap_or_default()).is_some();
    is_foreign.then(|| (StatusCode::FORBIDDEN, text).into_response())
}

/// The number of wrong tokens by address, with the start of the window.
#[derive(Debug, Default)]
struct FailedAttempts(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl FailedAttempts {
    /// The remaining time of the window, if `address` has sent too many wrong tokens in it.
    fn blocked_for(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let (start, count) = *self.0.lock().get(&network(address))?;
        let left = WINDOW.saturating_sub(now.saturating_duration_since(start));
        (count >= FAILED_ATTEMPTS_MAX && !left.is_zero()).then_some(left)
    }

    fn count(&self, address: IpAddr, now: Instant) {
        let mut attempts = self.0.lock();
        let is_over = |start: Instant| now.saturating_duration_since(start) >= WINDOW;
        let address = network(address);
        if attempts.len() >= ADDRESSES_MAX && !attempts.contains_key(&address) {
            attempts.retain(|_, (start, _)| !is_over(*start));
            if attempts.len() >= ADDRESSES_MAX {
                attempts.clear();
            }
        }
        let (start, count) = attempts.entry(address).or_insert((now, 0));
        if is_over(*start) {
            (*start, *count) = (now, 0);
        }
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_with_too_many_wrong_tokens_is_blocked_until_its_window_ends() {
        let (attempts, start) = (FailedAttempts::default(), Instant::now());
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..FAILED_ATTEMPTS_MAX {
            assert_eq!(attempts.blocked_for(one, start), None);
            attempts.count(one, start);
        }
        assert_eq!(attempts.blocked_for(one, start), Some(WINDOW));
        assert_eq!(attempts.blocked_for(two, start), None);
        assert_eq!(attempts.blocked_for(one, start + WINDOW), None);
    }

    #[test]
    fn the_number_of_addresses_is_limited() {
        let (attempts, now) = (FailedAttempts::default(), Instant::now());
        (0..10_000).for_each(|n| attempts.count(Ipv4Addr::from_bits(n).into(), now));
        assert!(attempts.0.lock().len() <= ADDRESSES_MAX);
    }
}
