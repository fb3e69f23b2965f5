//! Checks of a request's head that hyper does not make: what a proxy in front could interpret differently.

use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, Request, Version};

use super::problem::Problem;
use crate::server::HEADERS_MAX;

/// Checks the head of a request before it is routed.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    if request.headers().len() > HEADERS_MAX {
        return Err(Problem::TooManyHeaders);
    }
    match request.version() {
        Version::HTTP_11 => one_host(request.headers()).and_then(|()| transfer_coding(request.headers())),
        Version::HTTP_2 => same_host(request),
        // Optional in HTTP/1.0.
        _ if request.headers().contains_key(HOST) => one_host(request.headers()),
        _ => Ok(()),
    }
}

/// RFC 9112, 3.2.
fn one_host(headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(Problem::InvalidHead("the Host header is not a valid host")),
        _ => Err(Problem::InvalidHead(
            "an HTTP/1.1 request must have exactly one Host header, an HTTP/1.0 request at most one",
        )),
    }
}

/// RFC 9113, 8.3.1: there is one `Host` at most, and it equals `:authority`.
fn same_host<B>(request: &Request<B>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next(), request.uri().authority()) {
        (None, _, _) => Ok(()),
        (Some(_), Some(_), _) => Err(Problem::InvalidHead("a request must have one Host header at most")),
        (Some(host), None, _) if !is_host(host) => Err(Problem::InvalidHead("the Host header is not a valid host")),
        (Some(host), None, Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(Problem::InvalidHead("the Host header differs from :authority"))
        }
        (Some(_), None, _) => Ok(()),
    }
}

fn transfer_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        // hyper checks only that the last coding is `chunked`, which is enough to find the end of the body, but not to decode
        // it (RFC 9112, 6.1).
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::UnsupportedCoding),
    }
}

fn is_host(host: &HeaderValue) -> bool {
    host.as_bytes().iter().all(|byte| is_host_byte(*byte))
}

/// A byte of a host and its port. A future address format may use any byte that does not end the authority (RFC 3986, 3.2).
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\' | b'?' | b'#' | b'@' | b'"' | b'<' | b'>' | b',')
}
