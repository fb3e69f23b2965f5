//! What hyper lets through of a request's head and HTTP does not: that on which a server in front could have another opinion.

use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, Request, Version};

use super::Problem;

/// Header lines of a request; more are answered 431. hyper reserves room for as many on a connection of HTTP/1, so that this
/// is not to be large; over HTTP/2 it has no such limit.
pub(super) const HEADERS_MAX: usize = 100;

/// Whether a request may go on to its route.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    if request.headers().len() > HEADERS_MAX {
        return Err(Problem::TooManyHeaders);
    }
    match request.version() {
        Version::HTTP_11 => one_host(request.headers()).and_then(|()| coding(request.headers())),
        Version::HTTP_2 => same_host(request),
        // HTTP/1.0 may have none.
        _ if request.headers().contains_key(HOST) => one_host(request.headers()),
        _ => Ok(()),
    }
}

/// RFC 9112, 3.2.
fn one_host(headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(Problem::InvalidHead("the Host header is no host")),
        _ => Err(Problem::InvalidHead("a request of HTTP/1 has one Host header, and in HTTP/1.0 it may have none")),
    }
}

/// RFC 9113, 8.3.1: a `Host` beside `:authority` is the same, and there is only one.
fn same_host<B>(request: &Request<B>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next(), request.uri().authority()) {
        (None, _, _) => Ok(()),
        (Some(_), Some(_), _) => Err(Problem::InvalidHead("a request has one Host header at most")),
        (Some(host), None, _) if !is_host(host) => Err(Problem::InvalidHead("the Host header is no host")),
        (Some(host), None, Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(Problem::InvalidHead("the Host header differs from :authority"))
        }
        (Some(_), None, _) => Ok(()),
    }
}

fn coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        // hyper has seen to it that the last is `chunked`, which is enough to find the end of the body, and not to read it
        // (RFC 9112, 6.1).
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::UnsupportedCoding),
    }
}

fn is_host(host: &HeaderValue) -> bool {
    host.as_bytes().iter().all(|byte| is_of_a_host(*byte))
}

/// What stands in a host and its port, of which the address of a version to come may have anything but what ends it
/// (RFC 3986, 3.2).
fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\' | b'?' | b'#' | b'@' | b'"' | b'<' | b'>' | b',')
}
