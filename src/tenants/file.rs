//! The file of tenants. It is JSON:
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
//! A name is 1 to 64 letters, digits and `._-`. A tenant has 1 to 16 digests, each the SHA-256 of a token in hexadecimal, so
//! that a token can be replaced while the one before it still holds. RateLimits may be left out, each or all: what is left out is
//! not limited. `burst_seconds` (1 if left out) says how long a limit may be saved up: so many times the limit may come at
//! once, a body of `MAX_BODY_BYTES` and a batch of 10,000 payloads in any case. `ack_max` (`memory`, `disk` or `stored`) is the
//! most that the tenant may ask for with `?ack=`; left out, it is `ACK_MAX`, than which it may be more or less.
//!
//! Errors name the line and never repeat what stands there: it may be a token in the wrong place.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use crate::config::Ack;
use crate::digest::Digest;

/// The token whose digest stands in the examples of the documentation.
const EXAMPLE_TOKEN: &[u8] = b"test";
/// A larger file is not read.
const FILE_MAX_BYTES: u64 = 64 << 20;
/// Each takes about half a kilobyte of memory.
const TENANTS_MAX: usize = 100_000;
const TOKENS_PER_TENANT_MAX: usize = 16;
const NAME_MAX_BYTES: usize = 64;
/// More than a machine takes is no limit.
const REQUESTS_PER_SECOND_MAX: u64 = 1_000_000;
const PAYLOADS_PER_SECOND_MAX: u64 = 1_000_000_000;
const BYTES_PER_SECOND_MAX: u64 = 1_000_000_000_000;
const BURST_SECONDS_MAX: u64 = 3600;

/// A tenant as the file lists it.
#[derive(Debug)]
pub struct TenantEntry {
    /// Its name: nobody else's.
    pub name: String,
    /// Of its tokens: nobody else's.
    pub tokens: Vec<Digest>,
    /// What it may send.
    pub limits: RateLimits,
    /// The most that it may ask for; none if that is what everybody may.
    pub ack_max: Option<Ack>,
}

/// What a tenant may send in a second; `None` is as much as it likes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// Requests of any kind.
    #[serde(default, deserialize_with = "count::<_, REQUESTS_PER_SECOND_MAX>")]
    pub requests_per_second: Option<u64>,
    /// Payloads. However low it is, 10,000 of them may come at once.
    #[serde(default, deserialize_with = "count::<_, PAYLOADS_PER_SECOND_MAX>")]
    pub payloads_per_second: Option<u64>,
    /// Bytes of bodies, as they are sent. However low it is, one body of `MAX_BODY_BYTES` may come at once: it could never pass
    /// otherwise.
    #[serde(default, deserialize_with = "count::<_, BYTES_PER_SECOND_MAX>")]
    pub bytes_per_second: Option<u64>,
    /// How long a limit may be saved up.
    #[serde(default = "one", deserialize_with = "burst")]
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

/// Why there are no tenants in a file, or not these.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system's reason.
    #[error("it cannot be read: {0}")]
    Unread(#[from] io::Error),
    /// RateLimitExceeded 64 MiB.
    #[error("it is over {FILE_MAX_BYTES} bytes: split the tenants between servers")]
    TooLarge,
    /// What is wrong, and where.
    #[error("line {line}: {reason}")]
    Invalid {
        /// From 1.
        line: usize,
        /// What is wrong and what is expected instead, without what stands there.
        reason: String,
    },
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<Vec<TenantEntry>, FileError> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_MAX_BYTES {
        return Err(FileError::TooLarge);
    }
    parse(&text)
}

/// The tenants that `text`, the content of a file, lists.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(text: &[u8]) -> Result<Vec<TenantEntry>, FileError> {
    let file: File = serde_json::from_slice(text)
        .map_err(|error| FileError::Invalid { line: error.line().max(1), reason: without_values(&error) })?;
    Ok(file.tenants.0)
}

/// What serde_json says, without what it has found: it repeats strings and names.
fn without_values(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let said = said.rfind(" at line ").and_then(|end| said.get(..end)).unwrap_or(&said);
    let repeats = ["invalid type: ", "invalid value: ", "invalid length ", "unknown field "];
    if !repeats.iter().any(|beginning| said.starts_with(beginning)) {
        return said.to_owned();
    }
    let expected = said.rfind(", expected ").and_then(|at| said.get(at + 2..)).unwrap_or("something else is expected");
    if said.starts_with("unknown field ") {
        format!("there is no such member: {expected}")
    } else {
        expected.to_owned()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `tenants`")]
struct File {
    tenants: List,
}

/// A tenant before it is known whether the others leave its name and its tokens to it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `name` and `tokens_sha256`")]
struct Raw {
    name: Name,
    tokens_sha256: Tokens,
    #[serde(default)]
    limits: RateLimits,
    #[serde(default, deserialize_with = "ack")]
    ack_max: Option<Ack>,
}

struct List(Vec<TenantEntry>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_seq(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of tenants")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List, A::Error> {
        let mut entries = Vec::new();
        let (mut names, mut digests) = (HashSet::new(), HashSet::new());
        while let Some(Raw { name: Name(name), tokens_sha256: Tokens(tokens), limits, ack_max }) =
            items.next_element()?
        {
            if entries.len() == TENANTS_MAX {
                return Err(de::Error::custom(format!("there may be {TENANTS_MAX} tenants and no more")));
            }
            if !names.insert(name.clone()) {
                return Err(de::Error::custom(format!("tenant {name} is there twice: put its tokens into one entry")));
            }
            if !tokens.iter().all(|token| digests.insert(*token)) {
                return Err(de::Error::custom(format!(
                    "a token of tenant {name} is there twice: a token belongs to one tenant, once"
                )));
            }
            entries.push(TenantEntry { name, tokens, limits, ack_max });
        }
        if entries.is_empty() {
            return Err(de::Error::custom("there is no tenant, so nobody could send: list one, or unset TOKENS_FILE"));
        }
        Ok(List(entries))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(good) {
            Ok(Self(name))
        } else {
            Err(format!("a tenant's name is 1 to {NAME_MAX_BYTES} letters, digits and ._-"))
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
            return Err(format!("a tenant has 1 to {TOKENS_PER_TENANT_MAX} tokens"));
        }
        let digest = |text: String| {
            let digest: Digest = text.parse().map_err(|()| {
                "not the SHA-256 of a token, which is 64 hexadecimal digits: make it with printf %s TOKEN | sha256sum"
            })?;
            if digest == Digest::of(b"") {
                return Err("this is the SHA-256 of an empty token: make it with printf %s TOKEN | sha256sum");
            }
            if digest == Digest::of(EXAMPLE_TOKEN) {
                return Err(
                    "this is the SHA-256 of the documentation's example, a token that everyone knows: make your own with printf %s TOKEN | sha256sum",
                );
            }
            Ok(digest)
        };
        texts.into_iter().map(digest).collect::<Result<_, _>>().map(Self).map_err(str::to_owned)
    }
}

/// A level of acknowledgement.
fn ack<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Ack>, D::Error> {
    let name = String::deserialize(json)?;
    name.parse()
        .map(Some)
        .map_err(|()| de::Error::custom("ack_max is one of memory, disk and stored: leave it out for ACK_MAX"))
}

/// A whole number from 1 to `MOST`.
fn count<'de, D: Deserializer<'de>, const MOST: u64>(json: D) -> Result<Option<u64>, D::Error> {
    let count = u64::deserialize(json)?;
    let wrong = || de::Error::custom(format!("a limit is from 1 to {MOST}: leave it out for none"));
    if (1..=MOST).contains(&count) { Ok(Some(count)) } else { Err(wrong()) }
}

fn burst<'de, D: Deserializer<'de>>(json: D) -> Result<u64, D::Error> {
    let seconds = u64::deserialize(json)?;
    let wrong = || de::Error::custom(format!("burst_seconds is from 1 to {BURST_SECONDS_MAX}"));
    if (1..=BURST_SECONDS_MAX).contains(&seconds) { Ok(seconds) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014";
    const EXAMPLE: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    const TWO: &str = "60303AE22B998861BCE3B28F33EEC1BE758A213C86C93C076DBE9F558C11C752";
    const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn wrong(text: &str) -> (usize, String) {
        match parse(text.as_bytes()) {
            Err(FileError::Invalid { line, reason }) => (line, reason),
            other => panic!("expected an error in {text}, got {other:?}"),
        }
    }

    #[test]
    fn names_digests_and_limits_are_read_and_what_is_left_out_is_not_limited() {
        let text = format!(
            r#"{{"tenants":[{{"name":"a.B_c-1","tokens_sha256":["{ONE}","{TWO}"],"limits":{{"bytes_per_second":5}}}},
            {{"name":"b","tokens_sha256":["{}"],"ack_max":"disk"}}]}}"#,
            "0".repeat(64)
        );
        let entries = parse(text.as_bytes()).unwrap();
        assert_eq!(entries.iter().map(|entry| &*entry.name).collect::<Vec<_>>(), ["a.B_c-1", "b"]);
        assert_eq!(entries[0].tokens, [Digest::of(b"test1"), Digest::of(b"test2")]);
        assert_eq!(entries[0].limits, RateLimits { bytes_per_second: Some(5), ..RateLimits::default() });
        assert_eq!(entries[1].limits, RateLimits::default());
        assert_eq!([entries[0].ack_max, entries[1].ack_max], [None, Some(Ack::Disk)]);
        let wrong = wrong(&text.replace("disk", "s3cret")).1;
        assert!(wrong.starts_with("ack_max is one of") && !wrong.contains("s3cret"), "{wrong}");
    }

    #[test]
    fn an_error_names_its_line_and_what_to_do_and_never_what_stands_there() {
        let entry = |name: &str, token: &str| format!("{{\"name\":\"{name}\",\n\"tokens_sha256\":[\"{token}\"]}}");
        let list = |entries: &[String]| format!("{{\"tenants\":[\n{}\n]}}", entries.join(",\n"));
        let limits = |limits: &str| {
            format!("{{\"tenants\":[{{\"name\":\"a\",\"tokens_sha256\":[\"{ONE}\"],\n\"limits\":{limits}}}]}}")
        };
        let cases = [
            (String::new(), 1, "EOF"),
            ("{\"tenants\":[]}".to_owned(), 1, "no tenant"),
            ("[\"s3cret\"]".to_owned(), 1, "expected"),
            ("{\"tenants\":\n\"s3cret\"}".to_owned(), 2, "expected an array of tenants"),
            ("{\"tenants\":[\n\"s3cret\"]}".to_owned(), 2, "expected an object with `name`"),
            ("{\"tenants\":[\n{\"s3cret\":\"a\"}]}".to_owned(), 2, "no such member: expected one of `name`"),
            ("{\"tenants\":[{\"name\":\"a\",\n\"tokens_sha256\":\"s3cret\"}]}".to_owned(), 2, "expected a sequence"),
            (list(&[entry("a", "s3cret")]), 3, "printf %s TOKEN | sha256sum"),
            (list(&[entry("a", &ONE.replace('9', "é"))]), 3, "64 hexadecimal digits"),
            (list(&[entry("a", NOTHING)]), 3, "an empty token"),
            (list(&[entry("a", EXAMPLE)]), 3, "the documentation's example"),
            (list(&[entry("a", &EXAMPLE.to_ascii_uppercase())]), 3, "the documentation's example"),
            (list(&[entry("s3cret s3cret", ONE)]), 2, "1 to 64 letters"),
            (list(&[entry("", ONE)]), 2, "1 to 64 letters"),
            (list(&[entry(&"a".repeat(65), ONE)]), 2, "1 to 64 letters"),
            (list(&[entry("a\\n", ONE)]), 2, "1 to 64 letters"),
            (list(&[entry("a", ONE), entry("a", TWO)]), 6, "tenant a is there twice"),
            (list(&[entry("a", ONE), entry("b", &ONE.to_ascii_uppercase())]), 6, "a token of tenant b is there twice"),
            ("{\"tenants\":[{\"name\":\"a\",\"tokens_sha256\":[]}]}".to_owned(), 1, "1 to 16 tokens"),
            ("{\"tenants\":[{\"name\":\"a\"}]}".to_owned(), 1, "missing field `tokens_sha256`"),
            (limits("{\"requests_per_second\":0}"), 2, "from 1 to 1000000"),
            (limits("{\"requests_per_second\":-1}"), 2, "expected u64"),
            (limits("{\"requests_per_second\":null}"), 2, "expected u64"),
            (limits("{\"burst_seconds\":3601}"), 2, "from 1 to 3600"),
            (limits("{\"s3cret\":1}"), 2, "no such member"),
        ];
        for (text, line, what) in cases {
            let (at, reason) = wrong(&text);
            assert!(reason.contains(what), "{text}: {reason}");
            assert_eq!(at, line, "{text}: {reason}");
            assert!(!reason.contains("s3cret"), "{reason}");
        }
    }

    #[test]
    fn there_may_be_as_many_tenants_as_the_bound_says_and_no_more() {
        let entry = |n: usize| format!("{{\"name\":\"t{n}\",\"tokens_sha256\":[\"{n:064x}\"]}}");
        let file = |count| format!("{{\"tenants\":[{}]}}", (0..count).map(entry).collect::<Vec<_>>().join(","));
        assert_eq!(parse(file(TENANTS_MAX).as_bytes()).unwrap().len(), TENANTS_MAX);
        assert!(wrong(&file(TENANTS_MAX + 1)).1.contains("100000 tenants"));
    }

    proptest! {
        #[test]
        fn whatever_is_written_by_the_rules_is_read_as_it_was_written(
            tenants in prop::collection::btree_map(
                "[A-Za-z0-9._-]{1,64}",
                (prop::collection::vec(any::<[u8; 32]>(), 1..=3), prop::option::of(1..=REQUESTS_PER_SECOND_MAX)),
                1..8,
            ),
        ) {
            let hex = |bytes: &[u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let list: Vec<_> = tenants
                .iter()
                .map(|(name, (tokens, rate))| {
                    let limits = rate.map(|rate| serde_json::json!({ "requests_per_second": rate }));
                    let limits = limits.unwrap_or_else(|| serde_json::json!({}));
                    let tokens: Vec<_> = tokens.iter().map(hex).collect();
                    serde_json::json!({ "name": name, "tokens_sha256": tokens, "limits": limits })
                })
                .collect();
            let entries = parse(&serde_json::to_vec(&serde_json::json!({ "tenants": list })).unwrap()).unwrap();
            prop_assert_eq!(entries.len(), tenants.len());
            for (entry, (name, (tokens, rate))) in entries.iter().zip(&tenants) {
                prop_assert_eq!(&entry.name, name);
                let digests: Vec<Digest> = tokens.iter().map(|token| hex(token).parse().unwrap()).collect();
                prop_assert_eq!(&entry.tokens, &digests);
                prop_assert_eq!(entry.limits.requests_per_second, *rate);
            }
        }

        #[test]
        fn no_error_repeats_what_stands_in_the_file(
            before in 0..7_usize,
            secret in "[G-Z]{12}",
        ) {
            let places = [
                "\"@\"", "{\"@\":1}", "{\"tenants\":\"@\"}", "{\"tenants\":[\"@\"]}", "{\"tenants\":[{\"name\":[\"@\"]}]}",
                "{\"tenants\":[{\"name\":\"a\",\"tokens_sha256\":[\"@, expected @\"]}]}",
                "{\"tenants\":[{\"name\":\"a\",\"limits\":\"@, expected 1\"}]}",
            ];
            let error = parse(places[before].replace('@', &secret).as_bytes()).unwrap_err();
            prop_assert!(!error.to_string().contains(&secret), "{error}");
        }
    }
}
