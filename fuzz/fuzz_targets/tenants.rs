//! Arbitrary files of tenants: a file is accepted with valid names, tokens and limits, or rejected with a line number and
//! without repeating its content.

#![no_main]

use std::collections::HashSet;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use millpond::queue::queue;
use millpond::tenants::{FileError, RateLimit, RateLimitExceeded, Tenants, parse};

/// A token in the wrong place. Names of tenants cannot contain these characters.
const SECRET: &[u8] = b"!s3cr3t!";
const MAX_BODY_BYTES: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((at, text)) = input.split_first_chunk::<2>() else { return };
    checked(text);
    let (before, behind) = text.split_at(usize::from(u16::from_le_bytes(*at)) % (text.len() + 1));
    checked(&[before, SECRET, behind].concat());
});

fn checked(text: &[u8]) {
    let entries = match parse(text) {
        Ok(entries) => entries,
        Err(FileError::Invalid { line, reason }) => {
            assert!((1..=1 + text.iter().filter(|byte| **byte == b'\n').count()).contains(&line), "line {line}");
            assert!(!reason.is_empty() && !reason.contains("!s3cr3t!"), "{reason}");
            return;
        }
        Err(error) => panic!("an I/O error without I/O: {error}"),
    };
    assert!(!entries.is_empty());
    let names: HashSet<&str> = entries.iter().map(|entry| &*entry.name).collect();
    assert_eq!(names.len(), entries.len());
    assert!(names.iter().all(|name| (1..=64).contains(&name.len())));
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))));
    let tokens: HashSet<_> = entries.iter().flat_map(|entry| entry.tokens.iter().copied()).collect();
    assert_eq!(tokens.len(), entries.iter().map(|entry| entry.tokens.len()).sum::<usize>());
    assert!(entries.iter().all(|entry| (1..=16).contains(&entry.tokens.len())));

    let (queue, _receiver) = queue(10, 1 << 20, Arc::default());
    let tenants = Tenants::from_entries(entries, queue.share_limits(50), MAX_BODY_BYTES, Arc::default());
    assert!(tenants.find(b"").is_none());
    // The seeds contain the digest of this token.
    let Some(tenant) = tenants.find(b"t") else { return };
    assert!(tenant.share().is_some_and(|share| !share.is_full()));
    for limit in [RateLimit::Requests, RateLimit::Bytes, RateLimit::Payloads] {
        // Every limit allows one request with a body of the largest size and 10,000 payloads.
        let amount = match limit {
            RateLimit::Requests => 1,
            RateLimit::Bytes => MAX_BODY_BYTES,
            RateLimit::Payloads => 10_000,
        };
        assert_eq!(tenant.rate_limiters().take(limit, amount), Ok(()));
        match tenant.rate_limiters().take(limit, usize::MAX) {
            Ok(()) => {}
            Err(RateLimitExceeded::AboveBurst { burst: most }) => assert!(most >= amount as u64),
            Err(RateLimitExceeded::RetryAfter(_)) => panic!("an amount above the burst can never pass"),
        }
    }
}
