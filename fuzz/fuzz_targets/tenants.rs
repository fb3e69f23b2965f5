//! Whatever stands in the file of tenants: it is taken whole, with names, tokens and limits that are what the file's
//! description says, or refused with a line and without a word of what stands there.

#![no_main]

use std::collections::HashSet;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use millpond::queue::queue;
use millpond::tenants::{FileError, Limit, Over, Tenants, parse};

/// A token in the wrong place. No name of a tenant has such signs.
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
        Err(FileError::Wrong { line, reason }) => {
            assert!((1..=1 + text.iter().filter(|byte| **byte == b'\n').count()).contains(&line), "line {line}");
            assert!(!reason.is_empty() && !reason.contains("!s3cr3t!"), "{reason}");
            return;
        }
        Err(error) => panic!("nothing was read: {error}"),
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
    let tenants = Tenants::of(entries, queue.share_limits(50), MAX_BODY_BYTES);
    assert!(tenants.find(b"").is_none());
    // The seeds list the digest of this one.
    let Some(tenant) = tenants.find(b"t") else { return };
    assert!(tenant.share().is_some_and(|share| !share.is_full()));
    for limit in [Limit::Requests, Limit::Bytes, Limit::Payloads] {
        // Whatever the limits are, one request with a body of the largest size and a usual batch is not over them at once.
        let amount = match limit {
            Limit::Requests => 1,
            Limit::Bytes => MAX_BODY_BYTES,
            Limit::Payloads => 10_000,
        };
        assert_eq!(tenant.quota().take(limit, amount), Ok(()));
        match tenant.quota().take(limit, usize::MAX) {
            Ok(()) => {}
            Err(Over::Ever { most }) => assert!(most >= amount as u64),
            Err(Over::For(_)) => panic!("more than all is not for later"),
        }
    }
}
