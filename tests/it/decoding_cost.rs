//! The memory and time for decoding a small body are bounded.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

use crate::encode::{gzip, zstd};
use crate::support::{Answer, Connection, Server, post};

/// The decompressed size: the default of `MAX_DECODED_BYTES`.
const DECODED: usize = 10 << 20;
/// The maximum size of the bodies as sent.
const SENT_MAX: usize = 64 << 10;
/// The maximum memory for one body, in KiB.
const COST: u64 = 24 << 10;

/// The first digits of the largest double.
const LARGEST: &str = "1.7976931348623157";

/// A body of [`DECODED`] bytes that repeats `unit` between `head` and `tail`.
fn filled(head: &str, unit: &str, tail: &str) -> Vec<u8> {
    let units = (DECODED - head.len() - tail.len()) / unit.len();
    [head, &unit.repeat(units), tail].concat().into_bytes()
}

/// Objects with `members` unique names each.
fn objects(members: usize) -> Vec<u8> {
    let names: Vec<String> = (0..members).map(|number| format!("\"{number:x}\":0")).collect();
    filled("[", &format!("{{{}}},", names.join(",")), "{}]")
}

fn bodies() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let json = "application/json";
    vec![
        ("empty payloads", json, filled("[", "{},", "{}]")),
        ("empty lines", "application/x-ndjson", filled("", "{}\n", "")),
        ("members of an envelope", json, filled("{\"data\":[{}],\"a\":0", ",\"\":0", "}")),
        ("numbers", json, filled("[{\"a\":[0", ",0", "]}]")),
        ("large numbers", json, filled("[{\"a\":[0", ",1e100", "]}]")),
        ("small numbers halfway between two", json, filled("[{\"a\":[0", ",2.4703282292062327208e-324", "]}]")),
        ("large numbers halfway between two", json, filled("[{\"a\":[0", ",1.7976931348623158079e308", "]}]")),
        (
            "long numbers near the largest",
            json,
            filled("[{\"a\":[0", &format!(",{LARGEST}{}e308", "0".repeat(900)), "]}]"),
        ),
        ("long small numbers", json, filled("[{\"a\":[0", &format!(",0.{}1e-324", "0".repeat(900)), "]}]")),
        ("escapes", json, filled("[{\"a\":\"", "\\n", "\"}]")),
        ("nesting", json, filled("[", &format!("{{\"a\":{}{}}},", "[".repeat(120), "]".repeat(120)), "{}]")),
        ("one member each", json, filled("[", "{\"a\":0},", "{}]")),
        ("names with escapes", json, filled("[", "{\"\\u00e9\":0},", "{}]")),
        ("long names", json, filled("[", &format!("{{\"{}\":0}},", "Σ".repeat(25_000)), "{}]")),
        ("long names with escapes", json, filled("[", &format!("{{\"{}\":0}},", "\\u03a3".repeat(8_000)), "{}]")),
        ("lines without payloads", "application/x-ndjson", filled("{}", "\n", "")),
        ("lines of white space", "application/x-ndjson", filled("{}", "\r\n", "")),
        ("a long text", json, filled("[{\"a\":\"", "x", "\"}]")),
        ("long payloads", json, filled("[", &format!("{{\"a\":\"{}\"}},", "x".repeat(500)), "{}]")),
        ("thousands of members", json, objects(10_000)),
    ]
}

/// A memory field of the process, in KiB: the current value, or the peak since [`forget_peak`].
fn memory(server: &Server, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

fn forget_peak(server: &Server) {
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
}

#[tokio::test]
async fn the_memory_for_every_small_body_is_bounded() {
    for (what, form, body) in bodies() {
        for (encoding, sent) in [("gzip", gzip(&body)), ("zstd", zstd(&body))] {
            if encoding == "gzip" && sent.len() > SENT_MAX {
                // The window of deflate is too small to compress this one well.
                continue;
            }
            assert!(sent.len() <= SENT_MAX, "{what}, {encoding}: {} bytes", sent.len());
            for record in ["envelope", "payload"] {
                let server = Server::start(&[("RECORD", record)]).await;
                assert_eq!(server.post_json("{}").await.status, 202);
                let before = memory(&server, "VmRSS");
                forget_peak(&server);
                let headers = format!("Content-Type: {form}\r\nContent-Encoding: {encoding}\r\n");
                let answer = server.post(&headers, &sent).await;
                let cost = memory(&server, "VmHWM").saturating_sub(before);
                assert!(matches!(answer.status, 202 | 400 | 413), "{what}: {}", answer.text());
                assert!(cost <= COST, "{what}, {encoding}, {record}: {cost} KiB ({} bytes sent)", sent.len());
            }
        }
    }
}

#[tokio::test]
async fn a_batch_that_never_fits_is_rejected_with_a_remedy() {
    let server = Server::start(&[]).await;
    let send = async |body: &[u8]| server.post("Content-Encoding: zstd\r\n", &zstd(body)).await;
    let told = async |body: &[u8], what: &str| {
        let said = send(body).await.refusal(413);
        assert!(said.contains(what) && said.contains("split the batch"), "{said}");
    };
    told(&filled("[", "{},", "{}]"), "payloads").await;
    told(&filled("[{\"a\":[0", ",0", "]}]"), "values, members, escapes and lines").await;
    let names: String = (0..2000).map(|number| format!(",\"n{number}\":0")).collect();
    told(format!("{{\"data\":[{{}}]{names}}}").as_bytes(), "members").await;
    assert_eq!(server.metric("millpond_queue_bytes").await, 0.0);
    // Usual payloads stay far below the limits, even if they compress well.
    let payload = |n: usize| {
        let text = "request done ".repeat(15);
        format!("{{\"at\":{},\"host\":\"web-1\",\"message\":\"{text}\",\"ms\":{}}}", 1_795_000_000 + n, n * 7919 % 1000)
    };
    let usual: Vec<String> = (0..36_000).map(payload).collect();
    let usual = format!("[{}]", usual.join(","));
    let sent = gzip(usual.as_bytes());
    assert!(usual.len() > 8_000_000 && usual.len() / sent.len() > 30, "{} to {}", usual.len(), sent.len());
    assert_eq!(server.post("Content-Encoding: gzip\r\n", &sent).await.status, 202);
}

/// A connection from 127.0.0.`last`.
async fn connect_from(last: u8, server: &Server) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
    Connection(socket.connect(server.public).await.unwrap())
}

#[tokio::test]
async fn large_bodies_of_one_address_do_not_delay_those_of_another() {
    let server = Server::start(&[("RECORD", "payload")]).await;
    let large = gzip(&filled("[{\"a\":\"", "x", "\"}]"));
    let request = post("Content-Encoding: gzip\r\n", &large);
    const BODIES: usize = 30;
    let mut flood = Vec::new();
    for _ in 0..BODIES {
        let mut connection = connect_from(2, &server).await;
        connection.write(&request).await;
        flood.push(connection);
    }
    let mut other = connect_from(3, &server).await;
    let small = format!("[{{\"b\":\"{}\"}}]", "y".repeat(120_000));
    other.write(&post("", small.as_bytes())).await;
    assert_eq!(other.answer().await.expect("an answer").status, 202);
    // Only some bodies of the flood were decoded before it.
    let accepted = server.metric("millpond_jobs_accepted_total").await;
    assert!(accepted < (BODIES / 2) as f64, "it was served after all {accepted} others");
    for mut connection in flood {
        assert!(matches!(connection.answer().await.expect("an answer").status, 202 | 503));
    }
}

fn assert_invalid_payload(answer: &Answer, payload: usize, byte: usize, what: &str) {
    assert!(answer.refusal(400).contains(what), "{}", answer.text());
    let problem = answer.json();
    assert_eq!((&problem["payload"], &problem["byte"]), (&payload.into(), &byte.into()));
}

#[tokio::test]
async fn payloads_on_which_readers_fail_are_rejected_unless_readers_is_any() {
    let long = format!("[{{}},{{\"a\":{}}}]", "1".repeat(4301));
    let strict = Server::start(&[]).await;
    assert_invalid_payload(&strict.post_json(r#"[{},{"a":1,"A":2}]"#).await, 1, 11, "duplicate member \"A\"");
    assert_invalid_payload(&strict.post_json(r#"[{},{"a":1,"a":2}]"#).await, 1, 11, "duplicate member \"a\"");
    assert_invalid_payload(&strict.post_json(&long).await, 1, 9, "1000 characters");
    assert_eq!(strict.metric("millpond_jobs_accepted_total").await, 0.0);
    let mut any = Server::start(&[("READERS", "any"), ("RECORD", "payload")]).await;
    for body in [r#"[{},{"a":1,"A":2}]"#, r#"[{},{"a":1,"a":2}]"#, &long] {
        assert_eq!(any.post_json(body).await.status, 202);
    }
    assert_eq!(any.stop().await, Some(0));
    assert_eq!(any.lines()[1], r#"{"a":1,"A":2}"#);
}
