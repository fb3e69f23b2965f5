//! What hyper lets through of a request's head and HTTP does not: that on which a server in front could have another opinion.

use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Version};

use super::Problem;

/// Whether a request may go on to its route.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    if version != Version::HTTP_11 {
        return Ok(());
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if host.as_bytes().iter().all(|byte| is_of_a_host(*byte)) => {}
        (Some(_), None) => return Err(Problem::InvalidHead("the Host header is no host")),
        // RFC 9112, 3.2.
        _ => return Err(Problem::InvalidHead("HTTP/1.1 has one Host header in each request")),
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        // hyper has seen to it that the last is `chunked`, which is enough to find the end of the body, and not to read it
        // (RFC 9112, 6.1).
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::UnsupportedCoding),
    }
}

/// What stands in a host and its port, of which the address of a version to come may have anything but what ends it
/// (RFC 3986, 3.2).
fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\' | b'?' | b'#' | b'@' | b'"' | b'<' | b'>' | b',')
}
