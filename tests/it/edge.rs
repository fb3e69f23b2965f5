//! The public edge: what is taken, what is refused and with what words; a refused batch leaves nothing behind.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::encode::{deflate, gzip, zlib, zstd};
use crate::support::{Connection, Server, get, post};

const JSON: &str = "Content-Type: application/json\r\n";
const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";

/// Stops the server and looks at what it stored.
async fn stored(mut server: Server) -> Vec<String> {
    assert_eq!(server.stop().await, Some(0));
    let mut lines = server.lines();
    lines.sort();
    lines
}

#[tokio::test]
async fn every_form_in_every_encoding_is_taken() {
    let server = Server::start(&[("RECORD", "payload")]).await;
    let bodies: [(&str, &str); 7] = [
        ("application/json", r#"{"token":"t","data":[{"n":1},{"n":2}]}"#),
        ("application/json; charset=UTF-8", r#"[{"n":1},{"n":2}]"#),
        ("application/json", r#"{"n":1}"#),
        ("application/cloudevents+json", r#"{"n":1}"#),
        ("application/x-ndjson", "{\"n\":1}\n{\"n\":2}\n"),
        ("application/jsonl", "{\"n\":1}\r\n\r\n{\"n\":2}"),
        ("application/x-ndjson", "{\"n\":1}"),
    ];
    type Encode = fn(&[u8]) -> Vec<u8>;
    let encodings: [(&str, Encode); 7] = [
        ("", <[u8]>::to_vec),
        ("Content-Encoding: identity\r\n", <[u8]>::to_vec),
        ("Content-Encoding: gzip\r\n", gzip),
        ("Content-Encoding: X-GZIP\r\n", gzip),
        ("Content-Encoding: deflate\r\n", zlib),
        ("Content-Encoding: deflate\r\n", deflate),
        ("Content-Encoding: zstd\r\n", zstd),
    ];
    let mut payloads = 0;
    for (kind, body) in bodies {
        for (encoding, encode) in encodings {
            let headers = format!("Content-Type: {kind}\r\n{encoding}");
            let answer = server.post(&headers, &encode(body.as_bytes())).await;
            assert_eq!(answer.status, 202, "{headers} {}", answer.text());
            payloads += usize::try_from(answer.json()["payloads"].as_u64().unwrap()).unwrap();
        }
    }
    assert_eq!(server.post("", b"{\"n\":1}").await.status, 202, "no content type is JSON");
    let to_root = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{\"n\":1}";
    assert_eq!(server.send(to_root).await.status, 202);
    let chunked = b"POST /v1/payloads HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"n\r\n4\r\n\":1}\r\n0\r\n\r\n";
    assert_eq!(server.send(chunked).await.status, 202);
    assert_eq!(stored(server).await.len(), payloads + 3);
}

#[tokio::test]
async fn a_body_too_large_to_decode_inline_is_taken_all_the_same() {
    let server = Server::start(&[("RECORD", "payload")]).await;
    let payload = format!("{{\"a\":\"{}\"}}", "x".repeat(200_000));
    let body = format!("[{payload},{payload}]");
    assert_eq!(server.post(JSON, body.as_bytes()).await.status, 202);
    for (encoding, encoded) in [("gzip", gzip(body.as_bytes())), ("zstd", zstd(body.as_bytes()))] {
        assert!(encoded.len() < 10_000);
        let headers = format!("{JSON}Content-Encoding: {encoding}\r\n");
        assert_eq!(server.post(&headers, &encoded).await.status, 202);
    }
    assert_eq!(stored(server).await, vec![payload; 6]);
}

#[tokio::test]
async fn bad_input_is_refused_with_its_status_and_leaves_nothing_behind() {
    let server = Server::start(&[]).await;
    let many = |bad: &str| {
        let mut lines = vec!["{\"n\":1}"; 100];
        lines[57] = bad;
        lines.join("\n").into_bytes()
    };
    let nested = format!("[{{\"a\":{}{}}}]", "[".repeat(100_000), "]".repeat(100_000));
    let gz = format!("{JSON}Content-Encoding: gzip\r\n");
    let whole = gzip(&b"[{\"a\":1}]".repeat(20));
    let cases: Vec<(u16, &str, Vec<u8>, &str)> = vec![
        (400, JSON, b"".to_vec(), "empty"),
        (400, JSON, b"hello".to_vec(), "expected a JSON object"),
        (400, JSON, b"[]".to_vec(), "empty"),
        (400, JSON, b"{\"data\":[]}".to_vec(), "empty"),
        (400, JSON, b"{\"data\":{\"a\":1}}".to_vec(), "`data` is not an array"),
        (400, JSON, b"{\"data\":[{},17]}".to_vec(), "payload 1: expected an object, found a number"),
        (400, JSON, b"[{},{\"a\":tru}]".to_vec(), "payload 1: not JSON"),
        (400, JSON, b"[{}".to_vec(), "not JSON: the text ends inside"),
        (400, JSON, b"[{\"a\":1}]]".to_vec(), "trailing"),
        (400, JSON, b"\xef\xbb\xbf[{}]".to_vec(), "byte order mark"),
        (400, JSON, b"[{\"a\":\"\xc3\x28\"}]".to_vec(), "not UTF-8 (byte 7)"),
        (400, JSON, b"[{\"a\":\"\0\"}]".to_vec(), "control character"),
        (400, JSON, b"\0".to_vec(), "expected a JSON object"),
        (400, JSON, br#"[{"a":"\ud800"}]"#.to_vec(), "surrogate"),
        (400, JSON, nested.into_bytes(), "nested deeper than 127"),
        (400, NDJSON, many("{\"n\":"), "payload 57: not JSON"),
        (400, NDJSON, many("7"), "payload 57: expected an object, found a number"),
        (400, NDJSON, many("{} {}"), "payload 57: not JSON: trailing"),
        (400, &gz, whole[..whole.len() / 2].to_vec(), "does not match its Content-Encoding"),
        (400, &gz, b"[{}]".to_vec(), "does not match its Content-Encoding"),
        (400, &gz, [whole.as_slice(), b"junk"].concat(), "does not match its Content-Encoding"),
        (413, &gz, gzip(&vec![b' '; 20 << 20]), "MAX_DECODED_BYTES"),
        (413, JSON, vec![b' '; (1 << 20) + 1], "MAX_BODY_BYTES"),
        (415, "Content-Type: text/plain\r\n", b"[{}]".to_vec(), "application/x-ndjson"),
        (415, "Content-Type: application/json; charset=latin1\r\n", b"[{}]".to_vec(), "UTF-8"),
        (415, "Content-Encoding: br\r\n", b"[{}]".to_vec(), "gzip, deflate and zstd"),
        (415, "Content-Encoding: gzip, gzip\r\n", gzip(&gzip(b"[{}]")), "gzip, deflate and zstd"),
        (415, "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n", gzip(&gzip(b"[{}]")), "gzip"),
    ];
    let mut refused = 0.0;
    for (status, headers, body, detail) in cases {
        let answer = server.post(headers, &body).await;
        let said = answer.refusal(status);
        assert!(said.contains(detail), "{said:?} has no {detail:?}");
        refused += 1.0;
    }
    let problem = server.post_json("[{},{\"a\":tru}]").await.json();
    assert_eq!((&problem["payload"], &problem["byte"]), (&1.into(), &12.into()));
    let metrics = server.metrics().await;
    let counted: f64 = ["invalid", "too_large", "not_understood"]
        .map(|outcome| metrics[&format!("millpond_requests_total{{outcome=\"{outcome}\",route=\"payloads\"}}")])
        .iter()
        .sum();
    assert_eq!(counted, refused + 1.0);
    assert_eq!(metrics["millpond_jobs_accepted_total"], 0.0);
    assert_eq!((metrics["millpond_queue_jobs"], metrics["millpond_queue_bytes"]), (0.0, 0.0));
    assert_eq!(server.post_json("[{}]").await.status, 202, "it still works");
    assert_eq!(stored(server).await.len(), 1);
}

#[tokio::test]
async fn a_request_that_is_not_one_of_ours_is_refused_as_http_says() {
    let server = Server::start(&[]).await;
    assert!(get(server.public, "/elsewhere").await.refusal(404).contains("/v1/payloads"));
    let wrong = get(server.public, "/v1/payloads").await;
    wrong.refusal(405);
    assert_eq!(wrong.header("allow"), "POST");
    let wrong = server.send(b"DELETE /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    wrong.refusal(405);
    assert_eq!(wrong.header("allow"), "GET,HEAD");
    assert!(server.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").await.refusal(411).contains("Content-Length"));
    let unsupported = server.post("Content-Encoding: br\r\n", b"{}").await;
    assert_eq!(unsupported.header("accept-encoding"), "gzip, deflate, zstd");
    assert_eq!(server.send(b"nonsense\r\n\r\n").await.status, 400);
    assert_eq!(server.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n").await.status, 400);
    let both = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(server.send(both).await.status, 400);
    assert!(stored(server).await.is_empty());
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_refused() {
    let server = Server::start(&[]).await;
    let mut connection = server.connect().await;
    connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"a\":1}").await;
    connection.0.shutdown().await.unwrap();
    assert!(connection.answer().await.expect("an answer").refusal(400).contains("ended early"));
    // What is over is the next request, and none at all.
    let mut connection = server.connect().await;
    connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{\"a\":1}{\"b\":2}\r\n\r\n").await;
    assert_eq!(connection.answer().await.unwrap().status, 202);
    assert_eq!(connection.answer().await.expect("an answer").status, 400);
    assert_eq!(stored(server).await.len(), 1);
}

#[tokio::test]
async fn a_body_over_the_limit_is_stopped_at_it_and_the_sender_still_reads_the_answer() {
    let server = Server::start(&[("MAX_BODY_BYTES", "64KiB")]).await;
    // By its length, before a byte of it is read; the sender sends it all the same and must not be reset.
    for kind in ["Content-Length: 8388608\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n800000\r\n"] {
        let mut connection = server.connect().await;
        connection.write(format!("POST / HTTP/1.1\r\nHost: x\r\n{kind}").as_bytes()).await;
        connection.write(&vec![b'x'; 8 << 20]).await;
        assert!(connection.answer().await.expect("an answer").refusal(413).contains("65536 bytes"));
    }
    // A sender that asks first is not invited.
    let mut connection = server.connect().await;
    connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n").await;
    assert_eq!(connection.answer().await.unwrap().status, 413);
    let mut connection = server.connect().await;
    connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n").await;
    assert_eq!(connection.answer().await.unwrap().status, 100);
    connection.write(b"{\"a\":1}").await;
    assert_eq!(connection.answer().await.unwrap().status, 202);
}

#[tokio::test]
async fn requests_may_share_a_connection_and_come_before_the_answers() {
    let server = Server::start(&[("RECORD", "payload")]).await;
    let mut connection = server.connect().await;
    let requests: Vec<u8> = (0..50).flat_map(|n| post(&format!("X-Request-Id: r{n}\r\n"), b"{\"a\":1}")).collect();
    for _ in 0..2 {
        connection.write(&requests).await;
        for n in 0..50 {
            let answer = connection.answer().await.unwrap();
            assert_eq!((answer.status, answer.header("x-request-id")), (202, format!("r{n}").as_str()));
        }
    }
    assert_eq!(server.metric("millpond_connections").await, 1.0);
    drop(connection);
    server.metric_is("millpond_connections", |open| open == 0.0).await;
    assert_eq!(stored(server).await.len(), 100);
}

#[tokio::test]
async fn many_large_compressed_bodies_at_once_are_all_taken() {
    // Each may decompress to ten times what the queue takes.
    let server = Server::start(&[("RECORD", "payload"), ("MAX_QUEUE_BYTES", "16MiB")]).await;
    let noise: String = (0..6000).map(|n| format!("{{\"n\":{}}},", n * 7919 % 100_003)).collect();
    let body = gzip(format!("[{noise}{{}}]").as_bytes());
    let request = post(&format!("{JSON}Content-Encoding: gzip\r\n"), &body);
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (mut connection, request) = (server.connect().await, request.clone());
        senders.spawn(async move {
            connection.write(&request).await;
            connection.answer().await.expect("an answer").status
        });
    }
    assert_eq!(senders.join_all().await, [202; 64]);
    assert_eq!(stored(server).await.len(), 64 * 6001);
}

#[tokio::test]
async fn a_small_body_with_long_lines_is_refused_before_they_are_written() {
    let server = Server::start(&[]).await;
    let before = server.resident();
    let body = format!("{{\"ctx\":\"{}\",\"data\":[{}{{}}]}}", "x".repeat(30_000), "{},".repeat(8000));
    assert!(server.post_json(&body).await.refusal(413).contains("MAX_QUEUE_BYTES"));
    assert!(server.resident() < before + 16 * 1024, "{} KiB", server.resident());
    // Not quite so long, but too long for the thread that reads requests.
    let body = format!("{{\"ctx\":\"{}\",\"data\":[{}{{}}]}}", "x".repeat(30_000), "{},".repeat(99));
    assert_eq!(server.post_json(&body).await.status, 202);
    assert_eq!(stored(server).await.len(), 100);
}

#[tokio::test]
async fn a_refused_head_request_has_no_body_in_http_2_either() {
    let server = Server::start(&[]).await;
    let stream = TokioIo::new(TcpStream::connect(server.public).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    let request = hyper::Request::head("http://x/v1/payloads").body(Full::<Bytes>::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 405);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn http_2_by_prior_knowledge_is_served() {
    let server = Server::start(&[("RECORD", "payload")]).await;
    let stream = TokioIo::new(TcpStream::connect(server.public).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { connection.await.unwrap() });
    let answers = (0..100).map(|n| {
        let body = Full::new(Bytes::from(format!("{{\"n\":{n}}}")));
        let request = hyper::Request::post("http://x/v1/payloads").body(body).unwrap();
        sender.send_request(request)
    });
    let mut accepted = 0;
    for answer in answers.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 202);
        assert!(answer.headers().contains_key("x-request-id"));
        assert!(!answer.into_body().collect().await.unwrap().to_bytes().is_empty());
        accepted += 1;
    }
    drop(sender);
    assert_eq!(stored(server).await.len(), accepted);
}

#[tokio::test]
async fn a_request_id_is_taken_or_made_and_goes_everywhere() {
    let server = Server::start(&[("RUST_LOG", "millpond=debug")]).await;
    let answer = server.post("X-Request-Id: from-the-sender\r\n", b"{\"a\":1}").await;
    assert_eq!(answer.header("x-request-id"), "from-the-sender");
    assert_eq!(answer.json()["request_id"], "from-the-sender");
    let answer = server.post("X-Request-Id: \"quoted\"\r\n", b"{\"a\":1}").await;
    assert!(!answer.header("x-request-id").contains('"'));
    let refused = server.post("X-Request-Id: of-a-refusal\r\n", b"{").await;
    assert_eq!(refused.json()["request_id"], "of-a-refusal");
    assert!(server.log().contains("of-a-refusal"));
    assert!(stored(server).await.iter().any(|line| line.contains("\"request_id\":\"from-the-sender\"")));
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so_and_those_within_it_go_on() {
    let server = Server::start(&[("MAX_CONNECTIONS", "2")]).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for connection in [&mut first, &mut second] {
        connection.write(&post("", b"{}")).await;
        assert_eq!(connection.answer().await.unwrap().status, 202);
    }
    let mut third = Connection(TcpStream::connect(server.public).await.unwrap());
    third.write(&post("", b"{}")).await;
    let refused = third.answer().await.expect("an answer");
    assert!(refused.refusal(503).contains("too many connections"));
    assert!(!refused.header("retry-after").is_empty());
    assert!(third.closed().await);
    assert_eq!(server.metric("millpond_requests_total{outcome=\"too_many_connections\",route=\"other\"}").await, 1.0);
    first.write(&post("", b"{}")).await;
    assert_eq!(first.answer().await.unwrap().status, 202);
    drop(second);
    server.metric_is("millpond_connections", |open| open < 2.0).await;
    assert_eq!(server.post_json("{}").await.status, 202);
}
