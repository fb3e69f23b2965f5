//! The file that lists the tenants. It is JSON:
//!
//! ```json
//! {
//!   "tenants": [
//!     {
//!       "name": "acme",
//!       "tokens_sha256": ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
//!       "limits": {
//!         "requests_per_second": 1000,
//!         "payloads_per_second": 10000,
//!         "bytes_per_second": 10000000,
//!         "burst_seconds": 2
//!       },
//!       "ack_max": "disk"
//!     }
//!   ]
//! }
//! ```
//!
//! - `name`: 1 to 64 letters, digits and `._-`.
//! - `tokens_sha256`: the SHA-256 of 1 to 16 tokens in hexadecimal. All of them are valid, so that a token can be replaced
//!   without downtime.
//! - `limits`: rate limits; all are optional. A burst may have `burst_seconds` (default 1) times the limit, and always one
//!   body of `MAX_BODY_BYTES` or one batch of 10,000 payloads.
//! - `ack_max`: the maximum ack level of the tenant (`memory`, `disk` or `stored`), which may be higher or lower than the
//!   default, `ACK_MAX`.
//!
//! Errors name the line and never repeat its content, which may be a misplaced token.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, Error as _, SeqAccess, Visitor};

use crate::config::Ack;
use crate::digest::Digest;
use crate::reload::read_at_most;

/// The example token of the documentation. It is public, so it is not accepted.
const EXAMPLE_TOKEN: &[u8] = b"test";
const FILE_MAX_BYTES: u64 = 64 << 20;
/// A tenant takes about 512 bytes of memory.
const TENANTS_MAX: usize = 100_000;
const TOKENS_PER_TENANT_MAX: usize = 16;
const NAME_MAX_BYTES: usize = 64;
/// The maximum values exceed what one machine can process.
const REQUESTS_PER_SECOND_MAX: u64 = 1_000_000;
const PAYLOADS_PER_SECOND_MAX: u64 = 1_000_000_000;
const BYTES_PER_SECOND_MAX: u64 = 1_000_000_000_000;
const BURST_SECONDS_MAX: u64 = 3600;

/// A tenant in the file.
#[derive(Debug)]
pub struct TenantEntry {
    /// The unique name.
    pub name: String,
    /// The digests of its tokens. A token belongs to one tenant only.
    pub tokens: Vec<Digest>,
    /// The rate limits.
    pub limits: RateLimits,
    /// The maximum ack level; `None` for `ACK_MAX`.
    pub ack_max: Option<Ack>,
}

/// The rate limits of a tenant; `None` for no limit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// All requests.
    #[serde(default, deserialize_with = "limit::<_, REQUESTS_PER_SECOND_MAX>")]
    pub requests_per_second: Option<u64>,
    /// Payloads. A burst of 10,000 is always allowed.
    #[serde(default, deserialize_with = "limit::<_, PAYLOADS_PER_SECOND_MAX>")]
    pub payloads_per_second: Option<u64>,
    /// Bytes of bodies as sent. A burst of `MAX_BODY_BYTES` is always allowed.
    #[serde(default, deserialize_with = "limit::<_, BYTES_PER_SECOND_MAX>")]
    pub bytes_per_second: Option<u64>,
    /// The size of a burst, in seconds of the limit.
    #[serde(default = "one", deserialize_with = "bounded::<_, BURST_SECONDS_MAX>")]
    pub burst_seconds: u64,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { requests_per_second: None, payloads_per_second: None, bytes_per_second: None, burst_seconds: one() }
    }
}

fn one() -> u64 {
    1
}

/// Why the file of tenants was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// The file exceeds 64 MiB.
    #[error("the file exceeds {FILE_MAX_BYTES} bytes: distribute the tenants over several servers")]
    TooLarge,
    /// The content is invalid.
    #[error("line {line}: {reason}")]
    Invalid {
        /// From 1.
        line: usize,
        /// What is wrong or was expected, without the invalid value.
        reason: String,
    },
}

pub(super) fn read(path: &Path) -> Result<Vec<TenantEntry>, FileError> {
    let text = read_at_most(path, FILE_MAX_BYTES).map_err(FileError::Io)?;
    parse(&text.ok_or(FileError::TooLarge)?)
}

/// Parses `text`, the content of the file.
///
/// # Errors
/// The first error.
pub fn parse(text: &[u8]) -> Result<Vec<TenantEntry>, FileError> {
    let file: File = serde_json::from_slice(text)
        .map_err(|error| FileError::Invalid { line: error.line().max(1), reason: without_values(&error) })?;
    Ok(file.tenants.0)
}

/// The message of serde_json without the names and values that it repeats.
pub(crate) fn without_values(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rfind(" at line ").and_then(|end| message.get(..end)).unwrap_or(&message);
    if let Some(name) = message.strip_prefix("missing field ") {
        return format!("missing member {name}");
    }
    let repeats = ["invalid type: ", "invalid value: ", "invalid length ", "unknown field "];
    if !repeats.iter().any(|prefix| message.starts_with(prefix)) {
        return message.to_owned();
    }
    let expected = message.rfind(", expected ").and_then(|at| message.get(at + 2..)).unwrap_or("the value is invalid");
    let expected = expected.replace("a sequence", "an array");
    if message.starts_with("unknown field ") { format!("unknown member: {expected}") } else { expected }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `tenants`")]
struct File {
    tenants: TenantList,
}

/// A tenant whose name and tokens may be duplicates of another tenant's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `name` and `tokens_sha256`")]
struct UncheckedTenant {
    name: TenantName,
    tokens_sha256: Tokens,
    #[serde(default)]
    limits: RateLimits,
    #[serde(default, deserialize_with = "ack")]
    ack_max: Option<Ack>,
}

struct TenantList(Vec<TenantEntry>);

impl<'de> Deserialize<'de> for TenantList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TenantListVisitor)
    }
}

/// Checks each tenant when it is read, so that an error has the line of the tenant.
struct TenantListVisitor;

impl<'de> Visitor<'de> for TenantListVisitor {
    type Value = TenantList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of tenants")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TenantList, A::Error> {
        let (mut tenants, mut names, mut digests) = (Vec::new(), HashSet::new(), HashSet::new());
        while let Some(tenant) = list.next_element()? {
            let UncheckedTenant { name: TenantName(name), tokens_sha256: Tokens(tokens), limits, ack_max } = tenant;
            if tenants.len() >= TENANTS_MAX {
                return Err(A::Error::custom(format_args!("the file lists more than {TENANTS_MAX} tenants")));
            }
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("tenant {name} is listed twice: merge the two entries")));
            }
            if !tokens.iter().all(|token| digests.insert(*token)) {
                return Err(A::Error::custom(format_args!(
                    "a token of tenant {name} is listed twice: a token belongs to one tenant only"
                )));
            }
            tenants.push(TenantEntry { name, tokens, limits, ack_max });
        }
        if tenants.is_empty() {
            return Err(A::Error::custom(
                "no tenant is listed, so every request would be rejected: add a tenant, or unset TOKENS_FILE to disable \
                 authentication",
            ));
        }
        Ok(TenantList(tenants))
    }
}

/// The name of a tenant in a file.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct TenantName(pub(crate) String);

impl TryFrom<String> for TenantName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(is_valid) {
            Ok(Self(name))
        } else {
            Err(format!("expected a tenant name of 1 to {NAME_MAX_BYTES} letters, digits and ._-"))
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Tokens(Vec<Digest>);

impl TryFrom<Vec<String>> for Tokens {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        if !(1..=TOKENS_PER_TENANT_MAX).contains(&texts.len()) {
            return Err(format!("expected 1 to {TOKENS_PER_TENANT_MAX} tokens for each tenant"));
        }
        let digest = |text: String| {
            let digest: Digest = text.parse().map_err(|()| {
                "expected the SHA-256 of a token, which has 64 hexadecimal digits: create it with printf %s TOKEN | sha256sum"
            })?;
            if digest == Digest::of(b"") {
                return Err("this is the SHA-256 of an empty token: create it with printf %s TOKEN | sha256sum");
            }
            if digest == Digest::of(EXAMPLE_TOKEN) {
                return Err(
                    "this is the SHA-256 of the documentation's example token, which is public: create your own with printf %s TOKEN | sha256sum",
                );
            }
            Ok(digest)
        };
        texts.into_iter().map(digest).collect::<Result<_, _>>().map(Self).map_err(str::to_owned)
    }
}

fn ack<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Ack>, D::Error> {
    let error = |()| de::Error::custom("ack_max must be memory, disk or stored: omit it to use ACK_MAX");
    String::deserialize(json)?.parse().map(Some).map_err(error)
}

fn bounded<'de, D: Deserializer<'de>, const MAX: u64>(json: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(json)?;
    let error = || de::Error::custom(format!("expected a whole number from 1 to {MAX}"));
    (1..=MAX).contains(&number).then_some(number).ok_or_else(error)
}

fn limit<'de, D: Deserializer<'de>, const MAX: u64>(json: D) -> Result<Option<u64>, D::Error> {
    bounded::<D, MAX>(json).map(Some)
}

#[cfg(test)]
mod tests;
