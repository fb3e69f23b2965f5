//! Arbitrary bodies: the lines of an accepted body are valid JSON, and each payload is in them byte for byte. A decompressed
//! body never exceeds its limit, and a truncated one or one with trailing bytes is rejected.

#![no_main]

use std::io::Write;
use std::time::UNIX_EPOCH;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use libfuzzer_sys::fuzz_target;
use millpond::decode::{Batch, BatchFormat, BatchMetadata, DecodeError, Limits, LinesPlan, MAX_DEPTH, Readers, Record};
use millpond::inflate::{Encoding, InflateError, inflate};
use serde_json::value::RawValue;

const DECODED_MAX_BYTES: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((mode, body)) = input.split_first() else { return };
    let form = if mode & 1 == 0 { BatchFormat::Json } else { BatchFormat::Ndjson };
    let encoding =
        [None, Some(Encoding::Gzip), Some(Encoding::Deflate), Some(Encoding::Zstd)][usize::from(mode >> 1 & 3)];
    match encoding {
        None => decoded(body, form),
        // The fuzzer does not find compressed text by itself.
        Some(encoding) if mode & 8 != 0 => compressed(encoding, mode & 16 != 0, body, form),
        Some(encoding) => match inflate(encoding, body, DECODED_MAX_BYTES) {
            Ok(inflated) => {
                assert!(inflated.len() <= DECODED_MAX_BYTES);
                decoded(&inflated, form);
            }
            Err(InflateError::TooLarge(max)) => assert_eq!(max, DECODED_MAX_BYTES),
            Err(InflateError::Corrupt(_)) => {}
            Err(InflateError::OutOfBudget) => panic!("memory is not limited here"),
        },
    }
});

fn compressed(encoding: Encoding, is_bare: bool, body: &[u8], form: BatchFormat) {
    let sent = match encoding {
        Encoding::Gzip => written(GzEncoder::new(Vec::new(), Compression::fast()), body, GzEncoder::finish),
        Encoding::Deflate if is_bare => {
            written(DeflateEncoder::new(Vec::new(), Compression::fast()), body, DeflateEncoder::finish)
        }
        Encoding::Deflate => written(ZlibEncoder::new(Vec::new(), Compression::fast()), body, ZlibEncoder::finish),
        Encoding::Zstd => zstd::encode_all(body, 1).expect("a vector takes it"),
    };
    match inflate(encoding, &sent, DECODED_MAX_BYTES) {
        Ok(inflated) => assert_eq!(inflated, body),
        Err(error) => panic!("a compressed body is rejected: {error}"),
    }
    let (_, short) = sent.split_last().expect("no format is empty");
    inflate(encoding, short, DECODED_MAX_BYTES).expect_err("truncated");
    inflate(encoding, &[&sent[..], b"x"].concat(), DECODED_MAX_BYTES).expect_err("trailing bytes");
    decoded(body, form);
}

fn written<W: Write>(mut encoder: W, body: &[u8], finish: impl Fn(W) -> std::io::Result<Vec<u8>>) -> Vec<u8> {
    encoder.write_all(body).and_then(|()| finish(encoder)).expect("a vector takes it")
}

fn decoded(body: &[u8], form: BatchFormat) {
    let read = |readers| Batch::parse(body, form, &Limits::new(body.len(), Record::Payload, readers), &mut |_| true);
    if let Ok(strict) = read(Readers::Strict) {
        let all = read(Readers::Any).expect("strict readers accept a subset");
        assert_eq!(strict.payloads, all.payloads);
    }
    let batch = match read(Readers::Any) {
        Ok(batch) => batch,
        Err(DecodeError::Invalid(invalid)) => {
            assert!(invalid.byte <= body.len());
            return;
        }
        Err(DecodeError::LimitExceeded(_)) => return,
        Err(DecodeError::OutOfBudget) => panic!("memory is not limited here"),
    };
    if let Some(token) = batch.token {
        // Must not panic.
        let _: bool = token.text().is_some();
    }
    let meta = |record| BatchMetadata {
        received_at: UNIX_EPOCH,
        request_id: "fuzz",
        tenant: None,
        variant: None,
        sqsd: None,
        record,
    };
    let write = |record| LinesPlan::new(batch.clone(), &meta(record)).write();
    let (bare, envelope) = (write(Record::Payload), write(Record::Envelope));
    assert_eq!(batch.payloads.len(), bare.payloads as usize);
    assert_eq!(bare.payloads, envelope.payloads);
    let (bare_lines, envelope_lines) = (lines(&bare.bytes), lines(&envelope.bytes));
    assert_eq!(bare_lines.len(), batch.payloads.len());
    assert_eq!(envelope_lines.len(), batch.payloads.len());
    for ((payload, bare), envelope) in batch.payloads.iter().zip(bare_lines).zip(envelope_lines) {
        // A line break between tokens becomes a space. Strings cannot contain one.
        let expected = payload.replace(['\n', '\r'], " ");
        assert_eq!(bare, expected);
        let object: &RawValue = serde_json::from_str(bare).expect("a line is JSON");
        assert!(object.get().starts_with('{') && depth(bare) <= MAX_DEPTH);
        let record: std::collections::BTreeMap<String, &RawValue> =
            serde_json::from_str(envelope).expect("a line is JSON");
        assert_eq!(record["payload"].get(), expected);
        assert!(record.keys().all(|key| {
            ["received_at", "request_id", "token", "version", "context", "payload"].contains(&key.as_str())
        }));
    }
    // The plan knows the size of the lines.
    assert_eq!(LinesPlan::new(batch.clone(), &meta(Record::Envelope)).bytes(), envelope.bytes.len());
}

/// The lines. Each of them ends with a line feed.
fn lines(bytes: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    assert!(text.ends_with('\n') && !text.contains('\r'));
    text.lines().collect()
}

/// The nesting depth of a JSON text.
fn depth(json: &str) -> usize {
    let (mut now, mut max, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                max = max.max(now);
            }
            b'}' | b']' if !in_string => now -= 1,
            _ => {}
        }
    }
    max
}
