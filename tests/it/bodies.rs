//! Compressed bodies, including decompression bombs.

use std::io::Write;

use flate2::{Compression, GzBuilder};

use crate::encode::{deflate, gzip, zlib, zstd};
use crate::support::Server;

/// The decompressed size: ten times the limit.
const BOMB: usize = 100 << 20;
/// The maximum memory for a bomb, in KiB: the bytes up to the limit, and the memory of the decoder.
const COST: u64 = 64 << 10;

/// A zstd frame with a window of 2 to the power of `log` bytes.
fn zstd_with_window(log: u32, data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.window_log(log).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_decompression_bomb_is_rejected_and_its_memory_is_bounded() {
    let server = Server::start(&[]).await;
    assert_eq!(server.post("Content-Encoding: gzip\r\n", &gzip(b"{}")).await.status, 202);
    let spaces = vec![b' '; BOMB];
    let many_members = gzip(&vec![b' '; 1 << 20]).repeat(100);
    let bombs = [
        ("gzip", gzip(&spaces)),
        ("gzip", many_members),
        ("deflate", zlib(&spaces)),
        ("deflate", deflate(&spaces)),
        ("zstd", zstd(&spaces)),
        ("zstd", zstd_with_window(23, &spaces)),
        ("zstd", zstd(&vec![b' '; 1 << 20]).repeat(100)),
    ];
    for (encoding, bomb) in bombs {
        assert!(bomb.len() < BOMB / 400, "{encoding}: {}", bomb.len());
        server.forget_peak();
        let before = server.peak();
        let answer = server.post(&format!("Content-Encoding: {encoding}\r\n"), &bomb).await;
        assert!(answer.refusal(413).contains("MAX_DECODED_BYTES"), "{encoding}");
        assert!(server.peak() < before + COST, "{encoding}: {before} KiB grew to {}", server.peak());
    }
    assert_eq!(server.metric("millpond_queue_bytes").await, 0.0);
}

#[tokio::test]
async fn concatenated_members_and_frames_are_accepted_and_names_in_headers_are_ignored() {
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    let named = || {
        let header = GzBuilder::new().filename("../../etc/passwd").comment("\x1b[31m").extra(vec![0; 60_000]);
        let mut encoder = header.write(Vec::new(), Compression::default());
        encoder.write_all(b"{\"a\":1}").unwrap();
        encoder.finish().unwrap()
    };
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any", &zstd(b"{\"a\":1}")].concat();
    let taken = [
        // RFC 1952, 2.2.
        ("gzip", [gzip(b"{\"a\""), gzip(b":1}")].concat()),
        ("gzip", [gzip(b""), gzip(b"{\"a\":1}"), gzip(b"")].concat()),
        ("gzip", named()),
        // RFC 8878, 3.
        ("zstd", [zstd(b"{\"a\""), zstd(b":1}")].concat()),
        ("zstd", skippable),
        ("zstd", zstd_with_window(23, b"{\"a\":1}")),
    ];
    let count = taken.len();
    for (at, (encoding, body)) in taken.into_iter().enumerate() {
        let answer = server.post(&format!("Content-Encoding: {encoding}\r\n"), &body).await;
        assert_eq!(answer.status, 202, "{at}: {}", answer.text());
    }
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines(), vec!["{\"a\":1}"; count]);
}

#[tokio::test]
async fn bodies_that_do_not_match_their_encoding_are_rejected_as_a_whole() {
    let mut server = Server::start(&[]).await;
    let body = b"{\"a\":\"0123456789012345678901234567890123456789\"}";
    let changed = |mut bytes: Vec<u8>, from_end: usize| {
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        bytes
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 1].to_vec();
    let and = |bytes: Vec<u8>, more: &[u8]| [&bytes, more].concat();
    let cases = [
        ("gzip", changed(gzip(body), 8), "a checksum that is another"),
        ("gzip", changed(gzip(body), 4), "a length that is another"),
        ("gzip", cut(gzip(body)), "the last byte missing"),
        ("gzip", gzip(body)[..12].to_vec(), "a header alone"),
        ("gzip", and(gzip(body), b"\0"), "a byte behind"),
        ("gzip", and(gzip(body), &gzip(b"")[..5]), "half a member behind"),
        ("gzip", zlib(body), "another encoding"),
        ("gzip", Vec::new(), "nothing"),
        ("deflate", changed(zlib(body), 1), "a checksum that is another"),
        ("deflate", cut(zlib(body)), "the last byte missing"),
        ("deflate", cut(deflate(body)), "the last byte missing, bare"),
        ("deflate", and(zlib(body), b"\0"), "a byte behind"),
        ("deflate", and(deflate(body), b"\0"), "a byte behind, bare"),
        ("deflate", and(zlib(body), &zlib(body)), "another behind"),
        ("deflate", gzip(body), "another encoding"),
        ("deflate", Vec::new(), "nothing"),
        ("zstd", cut(zstd(body)), "the last byte missing"),
        ("zstd", and(zstd(body), b"junk"), "junk behind"),
        ("zstd", and(zstd(body), &zstd(body)[..6]), "half a frame behind"),
        ("zstd", zstd_with_window(24, body), "a window over 8 MiB"),
        ("zstd", zstd_with_window(27, body), "one of 128 MiB"),
        ("zstd", gzip(body), "another encoding"),
        ("zstd", Vec::new(), "nothing"),
    ];
    for (encoding, body, what) in cases {
        let answer = server.post(&format!("Content-Encoding: {encoding}\r\n"), &body).await;
        assert_eq!(answer.status, 400, "{encoding}, {what}: {}", answer.text());
        answer.refusal(400);
    }
    for encodings in ["deflate, gzip", "identity, gzip", "gzip,", "gzip;q=1", "", "aws-chunked", "\"gzip\""] {
        let answer = server.post(&format!("Content-Encoding: {encodings}\r\n"), &gzip(body)).await;
        assert!(answer.refusal(415).contains("gzip, deflate and zstd"), "{encodings:?}");
        assert_eq!(answer.header("accept-encoding"), "gzip, deflate, zstd");
    }
    assert_eq!(server.stop().await, Some(0));
    assert!(server.lines().is_empty());
}
