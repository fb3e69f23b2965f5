//! Who may use the admin routes: where there is a token, those who have it, and an address that guesses is told to wait; where
//! there is none, those who name the server by a loopback name or an address, so that no web page reaches it through DNS.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, HOST, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use prometheus::IntCounter;

use crate::audit;
use crate::digest::Digest;
use crate::http::bearer;
use crate::log_throttle::LogThrottle;

const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"millpond admin\"");
/// Wrong tokens of one address in a window; more are answered 429 until the window ends. The right one is let in all the
/// same: others may stand behind the address of one who guesses.
const GUESSES_MAX: u32 = 10;
const GUESS_WINDOW: Duration = Duration::from_secs(10);
/// Addresses whose guesses are counted. When there are more, all are forgotten: memory is bounded, and so many addresses
/// are not held up by a count for each.
const ADDRESSES_MAX: usize = 1024;

/// Decides whether a request may be answered.
#[derive(Debug)]
pub(super) struct Guard {
    token: Option<Digest>,
    guesses: Guesses,
    failures: IntCounter,
    log_throttle: LogThrottle,
}

impl Guard {
    /// Asks for `token`, if there is one. Refused tokens are counted in `failures`.
    pub(super) fn new(token: Option<Digest>, failures: IntCounter) -> Self {
        Self { token, guesses: Guesses::default(), failures, log_throttle: LogThrottle::for_clients() }
    }

    /// The refusal of a request from `address`, if it is refused. `/live` is open: that the process lives is no secret.
    pub(super) fn refusal<B>(&self, request: &Request<B>, address: IpAddr) -> Option<Response> {
        if request.uri().path() == "/live" {
            return None;
        }
        let Some(token) = &self.token else { return misdirected(request) };
        let Some(guess) = request.headers().get(AUTHORIZATION).and_then(bearer) else {
            self.log(address);
            return Some(unauthorized());
        };
        let now = Instant::now();
        if *token == Digest::of(guess) {
            return None;
        }
        if let Some(wait) = self.guesses.blocked_for(address, now) {
            self.failed(address);
            let seconds = HeaderValue::from(wait.as_secs() + 1);
            let text = "too many wrong tokens from this address: try again later\n";
            return Some((StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, seconds)], text).into_response());
        }
        self.guesses.count(address, now);
        self.failed(address);
        Some(unauthorized())
    }

    fn failed(&self, address: IpAddr) {
        self.failures.inc();
        self.log(address);
    }

    fn log(&self, address: IpAddr) {
        if let Some(suppressed) = self.log_throttle.permit() {
            tracing::warn!(target: audit::TARGET, %address, suppressed, "an admin request without the right ADMIN_TOKEN was refused");
        }
    }
}

fn unauthorized() -> Response {
    let text = "send ADMIN_TOKEN as Authorization: Bearer\n";
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, BEARER)], text).into_response()
}

fn misdirected<B>(request: &Request<B>) -> Option<Response> {
    let mut hosts = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes);
    let authority = request.uri().authority().map(Authority::as_str).map(str::as_bytes);
    // Without any it is no browser.
    let is_local = hosts.all(is_rebinding_safe) && authority.is_none_or(is_rebinding_safe);
    let text =
        "without ADMIN_TOKEN the Host must be localhost or an IP address: use one of these, or set ADMIN_TOKEN\n";
    (!is_local).then(|| (StatusCode::MISDIRECTED_REQUEST, text).into_response())
}

/// Whether a host, with or without a port, is a loopback name or an address: what no DNS server has a say in.
pub(crate) fn is_rebinding_safe(host: &[u8]) -> bool {
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

/// Wrong tokens by address, each with when the first of its window came.
#[derive(Debug, Default)]
struct Guesses(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl Guesses {
    /// How long wrong tokens of `address` are answered 429, if it has sent too many.
    fn blocked_for(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let guesses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, count) = *guesses.get(&network(address))?;
        let left = GUESS_WINDOW.checked_sub(now.saturating_duration_since(began))?;
        (count >= GUESSES_MAX && !left.is_zero()).then_some(left)
    }

    fn count(&self, address: IpAddr, now: Instant) {
        let mut guesses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |began: Instant| now.saturating_duration_since(began) >= GUESS_WINDOW;
        let address = network(address);
        if guesses.len() >= ADDRESSES_MAX && !guesses.contains_key(&address) {
            guesses.retain(|_, (began, _)| !is_over(*began));
            if guesses.len() >= ADDRESSES_MAX {
                guesses.clear();
            }
        }
        let (began, count) = guesses.entry(address).or_insert((now, 0));
        if is_over(*began) {
            (*began, *count) = (now, 0);
        }
        *count += 1;
    }
}

fn network(address: IpAddr) -> IpAddr {
    crate::http::network(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_guesses_is_blocked_until_its_window_ends_and_others_are_not() {
        let (guesses, began) = (Guesses::default(), Instant::now());
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..GUESSES_MAX {
            assert_eq!(guesses.blocked_for(one, began), None);
            guesses.count(one, began);
        }
        assert_eq!(guesses.blocked_for(one, began), Some(GUESS_WINDOW));
        assert_eq!(guesses.blocked_for(two, began), None);
        assert_eq!(guesses.blocked_for(one, began + GUESS_WINDOW), None);
    }

    #[test]
    fn the_addresses_that_are_counted_are_bounded() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        (0..10_000).for_each(|n| guesses.count(Ipv4Addr::from_bits(n).into(), now));
        assert!(guesses.0.lock().unwrap().len() <= ADDRESSES_MAX);
    }

    #[test]
    fn loopback_names_and_addresses_are_local_and_all_else_is_not() {
        for local in ["localhost", "LOCALHOST:9090", "a.localhost:1", "127.0.0.1:9090", "10.1.2.3", "[::1]", "[::1]:9"]
        {
            assert!(is_rebinding_safe(local.as_bytes()), "{local}");
        }
        for other in
            ["", "x", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", "[::1]x", "a@[::1]"]
        {
            assert!(!is_rebinding_safe(other.as_bytes()), "{other}");
        }
    }
}
