//! The file that says what is rolled out. It is JSON:
//!
//! ```json
//! {
//!   "mirror": {"url": "http://10.0.0.8:8080", "percent": 10, "tokens": false},
//!   "forward": {"url": "http://10.0.0.9:8080", "percent": 1.5, "by": "tenant"},
//!   "features": {"ack_stored": {"percent": 0, "tenants": ["acme"], "except": []}},
//!   "variants": [{"name": "a", "percent": 50}, {"name": "b", "percent": 50}]
//! }
//! ```
//!
//! Each of the four is optional. Unknown and repeated members are errors, because a misspelled one would silently do nothing.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use axum::http::Uri;
use axum::http::uri::Authority;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

use super::Plan;
use super::selection::Percent;
use crate::reload::read_at_most;
use crate::tenants::{TenantName, without_values};

const FILE_MAX_BYTES: u64 = 1 << 20;

/// Why the file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// The file exceeds 1 MiB.
    #[error("the file exceeds {FILE_MAX_BYTES} bytes: list fewer tenants, or use percent")]
    TooLarge,
    /// The content is no JSON of this form.
    #[error("line {line}{}{member}: {reason}", if member.is_empty() { "" } else { ", " })]
    Invalid {
        /// From 1.
        line: usize,
        /// The path to the member; empty if it is none.
        member: String,
        /// What is wrong or was expected, without the invalid value.
        reason: String,
    },
    /// A URL leads back to this server.
    #[error(
        "{member}.url is an address of this server (LISTEN_ADDR or ADMIN_ADDR): name LISTEN_ADDR of the other one, or remove {member}"
    )]
    Loop {
        /// `mirror` or `forward`.
        member: &'static str,
    },
    /// The variants are not valid together.
    #[error("variants: {0}")]
    Variants(&'static str),
}

pub(super) fn read(path: &Path, own: &[SocketAddr]) -> Result<Plan, FileError> {
    let text = read_at_most(path, FILE_MAX_BYTES).map_err(FileError::Io)?;
    parse(&text.ok_or(FileError::TooLarge)?, own)
}

/// Parses `text`, the content of the file of a server that listens on the addresses in `own`.
///
/// # Errors
/// The first error.
pub fn parse(text: &[u8], own: &[SocketAddr]) -> Result<Plan, FileError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let file = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let member = if error.path().iter().next().is_none() { String::new() } else { error.path().to_string() };
        invalid(error.inner(), member)
    });
    let plan: Plan = file?;
    json.end().map_err(|error| invalid(&error, String::new()))?;
    check_urls(&plan, own)?;
    plan.variants.check().map_err(FileError::Variants)?;
    Ok(plan)
}

/// Checks that no URL of the plan leads back to one of the addresses in `own`.
pub(super) fn check_urls(plan: &Plan, own: &[SocketAddr]) -> Result<(), FileError> {
    let (mirror, forward) = (plan.mirror.as_ref().map(|to| &to.url), plan.forward.as_ref().map(|to| &to.url));
    for (member, url) in [("mirror", mirror), ("forward", forward)] {
        if url.is_some_and(|url| own.iter().any(|listener| is_own(url, *listener))) {
            return Err(FileError::Loop { member });
        }
    }
    Ok(())
}

fn invalid(error: &serde_json::Error, member: String) -> FileError {
    let mut reason = without_values(error);
    if error.is_syntax() || error.is_eof() {
        reason.push_str(": the file is not valid JSON there");
    }
    FileError::Invalid { line: error.line().max(1), member, reason }
}

/// Whether `url` is the listener's own address. Names other than localhost are not resolved: the headers of copied and forwarded
/// requests end a loop in any case.
fn is_own(url: &Uri, listener: SocketAddr) -> bool {
    let default_port = if url.scheme_str() == Some("https") { 443 } else { 80 };
    if url.port_u16().unwrap_or(default_port) != listener.port() {
        return false;
    }
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let Ok(address) = host.parse::<IpAddr>().map(|address| address.to_canonical()) else {
        return host.eq_ignore_ascii_case("localhost")
            && (listener.ip().is_loopback() || listener.ip().is_unspecified());
    };
    if !listener.ip().is_unspecified() {
        return address == listener.ip().to_canonical() || address.is_unspecified();
    }
    address.is_unspecified() || is_of_this_machine(address)
}

/// Connecting a UDP socket sends nothing, and chooses the address to send from: for one of this machine, that address itself.
fn is_of_this_machine(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let chosen = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    chosen.is_ok_and(|chosen| chosen.ip() == address)
}

/// Names of tenants.
pub(super) fn tenants<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HashSet<String>, D::Error> {
    let names = Vec::<TenantName>::deserialize(deserializer)?;
    Ok(names.into_iter().map(|TenantName(name)| name).collect())
}

/// The base of a server's routes.
pub(super) fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uri, D::Error> {
    let text = String::deserialize(deserializer)?;
    let url = text.parse::<Uri>().ok().filter(|url| {
        let authority = url.authority().map(Authority::as_str).unwrap_or_default();
        matches!(url.scheme_str(), Some("http" | "https"))
            && !authority.is_empty()
            && !authority.contains('@')
            // A port that is no number of 16 bits has no `port_u16`.
            && (url.port_u16().is_some_and(|port| port > 0) || url.host() == Some(authority))
            && url.path() == "/"
            // `Uri` drops a fragment.
            && !text.contains(['?', '#'])
    });
    // The text is not repeated: it may contain a password.
    let expected =
        "expected http or https, a host and optionally a port, such as http://10.0.0.9:8080, and nothing else";
    url.ok_or_else(|| D::Error::custom(expected))
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = f64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 100 with at most two decimals")
            }

            fn visit_f64<E>(self, number: f64) -> Result<f64, E> {
                Ok(number)
            }

            fn visit_u64<E>(self, number: u64) -> Result<f64, E> {
                Ok(number as f64)
            }

            fn visit_i64<E>(self, number: i64) -> Result<f64, E> {
                Ok(number as f64)
            }
        }
        let number = deserializer.deserialize_any(Number)?;
        let expected = "expected a number from 0 to 100 with at most two decimals";
        Self::new(number).ok_or_else(|| D::Error::custom(expected))
    }
}
