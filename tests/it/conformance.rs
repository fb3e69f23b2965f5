//! Conformance to RFC 9112 (HTTP/1.1), as a table of requests and expected responses.

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::support::{PATIENCE, Server};

/// The expected state of the connection after the response.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// The connection serves another request.
    Open,
    /// The server closes the connection.
    Closed,
}
use Then::{Closed, Open};

async fn http1(cases: &[(&str, &[u8], u16, Then)]) {
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    for (what, bytes, status, then) in cases {
        let mut connection = server.connect().await;
        connection.write(bytes).await;
        let answer = connection.answer().await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(answer.status, *status, "{what}");
        match then {
            Closed => assert!(connection.closed().await, "{what}: more came"),
            Open => {
                connection.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
                assert_eq!(connection.answer().await.unwrap_or_else(|| panic!("{what}: closed")).status, 200, "{what}");
            }
        }
    }
    assert_eq!(server.stop().await, Some(0));
    let accepted = cases.iter().filter(|(_, _, status, _)| *status == 202).count();
    assert_eq!(server.lines(), vec!["{\"a\":1}"; accepted], "only accepted batches are stored, and no smuggled one");
}

fn lines(count: usize) -> Vec<u8> {
    let headers: String = (1..count).map(|n| format!("X-{n}: y\r\n")).collect();
    format!("GET /health HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()
}

#[tokio::test]
async fn http_1_heads_are_accepted_or_rejected_as_rfc_9112_requires() {
    let long_target = [b"GET /", &b"x".repeat(70_000)[..], b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
    let long_header = [b"GET / HTTP/1.1\r\nHost: x\r\nX: ", &b"x".repeat(70_000)[..], b"\r\n\r\n"].concat();
    let (most, more) = (lines(100), lines(101));
    http1(&[
        ("origin form", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200, Open),
        ("absolute form", b"GET http://elsewhere/health HTTP/1.1\r\nHost: x\r\n\r\n", 200, Open),
        ("an empty Host", b"GET /health HTTP/1.1\r\nHost:\r\n\r\n", 200, Open),
        ("an address as the Host", b"GET /health HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", 200, Open),
        ("line breaks before the request", b"\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200, Open),
        ("space around a value", b"GET /health HTTP/1.1\r\nHost: \t x \t\r\n\r\n", 200, Open),
        ("names in any case", b"GET /health HTTP/1.1\r\nhOST: x\r\n\r\n", 200, Open),
        ("lines that end in LF alone, as 2.2 allows", b"GET /health HTTP/1.1\nHost: x\n\n", 200, Open),
        (
            "an upgrade that is not wanted",
            b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            200,
            Open,
        ),
        ("Connection: close", b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200, Closed),
        ("HTTP/1.0", b"GET /health HTTP/1.0\r\n\r\n", 200, Closed),
        ("HTTP/1.0 with keep-alive", b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, Open),
        ("as many headers as may be", &most, 200, Open),
        ("one more", &more, 431, Closed),
        ("a long header", &long_header, 431, Closed),
        ("a long target", &long_target, 431, Closed),
        ("no Host", b"GET /health HTTP/1.1\r\n\r\n", 400, Closed),
        ("two of them", b"GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400, Closed),
        ("a Host that is none", b"GET /health HTTP/1.1\r\nHost: x/y@z\r\n\r\n", 400, Closed),
        ("a space before the colon", b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n", 400, Closed),
        ("a line that goes on in the next", b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n", 400, Closed),
        ("a first line that begins with a space", b"GET /health HTTP/1.1\r\n Host: x\r\n\r\n", 400, Closed),
        ("no colon", b"GET /health HTTP/1.1\r\nHost: x\r\nX\r\n\r\n", 400, Closed),
        ("an empty name", b"GET /health HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", 400, Closed),
        ("NUL in a value", b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400, Closed),
        ("NUL in a name", b"GET /health HTTP/1.1\r\nHost: x\r\nX\0: a\r\n\r\n", 400, Closed),
        ("a lone CR in a value", b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", 400, Closed),
        ("ESC in a value", b"GET /health HTTP/1.1\r\nHost: x\r\nX: \x1b[31m\r\n\r\n", 400, Closed),
        ("two spaces in the first line", b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n", 400, Closed),
        ("a space in the target", b"GET /he alth HTTP/1.1\r\nHost: x\r\n\r\n", 400, Closed),
        ("ESC in the target", b"GET /\x1b[31m HTTP/1.1\r\nHost: x\r\n\r\n", 400, Closed),
        ("no version", b"GET /health\r\n\r\n", 400, Closed),
        ("another version", b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", 400, Closed),
        ("a version in lower case", b"GET /health http/1.1\r\nHost: x\r\n\r\n", 400, Closed),
        ("a method that is no token", b"G(T /health HTTP/1.1\r\nHost: x\r\n\r\n", 400, Closed),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, Closed),
    ])
    .await;
}

#[tokio::test]
async fn unknown_methods_and_targets_are_rejected() {
    http1(&[
        ("a method that is unknown", b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", 405, Open),
        ("methods are told apart by case", b"get /health HTTP/1.1\r\nHost: x\r\n\r\n", 405, Open),
        ("TRACE", b"TRACE /health HTTP/1.1\r\nHost: x\r\n\r\n", 405, Open),
        ("OPTIONS", b"OPTIONS /v1/payloads HTTP/1.1\r\nHost: x\r\n\r\n", 405, Open),
        ("asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404, Open),
        ("authority form", b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 404, Open),
        ("an expectation that is unknown", b"GET /health HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n", 200, Open),
    ])
    .await;
}

#[tokio::test]
async fn a_response_to_head_has_no_body() {
    let server = Server::start(&[]).await;
    for path in ["/health", "/elsewhere", "/v1/payloads"] {
        let mut connection = server.connect().await;
        connection.write(format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await;
        let mut answer = String::new();
        timeout(PATIENCE, connection.0.read_to_string(&mut answer)).await.expect("the end").unwrap();
        assert!(answer.starts_with("HTTP/1.1 ") && answer.find("\r\n\r\n") == Some(answer.len() - 4), "{answer}");
    }
}

#[tokio::test]
async fn a_request_with_an_ambiguous_length_is_rejected() {
    // A request that is hidden in the body of another one (request smuggling).
    macro_rules! post {
        ($headers:literal, $body:literal) => {
            concat!("POST / HTTP/1.1\r\nHost: x\r\n", $headers, "\r\n", $body).as_bytes()
        };
    }
    const SMUGGLED: &str = "0\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{\"b\":1}";
    let both = |first: &str, second: &str| {
        let whole = "7\r\n{\"a\":1}\r\n";
        let headers = format!("POST / HTTP/1.1\r\nHost: x\r\n{first}{second}\r\n");
        [headers, whole.to_owned(), SMUGGLED.to_owned()].concat().into_bytes()
    };
    let (length, chunked) = ("Content-Length: 12\r\n", "Transfer-Encoding: chunked\r\n");
    let long_extension =
        [b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7;", &b"x".repeat(20_000)[..]].concat();
    let trailers = |count: usize| {
        let trailers: String = (0..count).map(|n| format!("X-{n}: y\r\n")).collect();
        format!("POST / HTTP/1.1\r\nHost: x\r\n{chunked}\r\n7\r\n{{\"a\":1}}\r\n0\r\n{trailers}\r\n").into_bytes()
    };
    http1(&[
        ("a length", post!("Content-Length: 7\r\n", "{\"a\":1}"), 202, Open),
        ("the same length twice", post!("Content-Length: 7\r\nContent-Length: 7\r\n", "{\"a\":1}"), 202, Open),
        ("leading zeros", post!("Content-Length: 007\r\n", "{\"a\":1}"), 202, Open),
        ("chunks", post!("Transfer-Encoding: chunked\r\n", "3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n"), 202, Open),
        ("in any case", post!("Transfer-Encoding: CHUNKED\r\n", "0007\r\n{\"a\":1}\r\n0\r\n\r\n"), 202, Open),
        ("extensions", post!("Transfer-Encoding: chunked\r\n", "7;a=b;c=\"d\"\r\n{\"a\":1}\r\n0;e\r\n\r\n"), 202, Open),
        ("trailers", &trailers(3), 202, Open),
        // The chunks count and not the length. The connection is closed, because a proxy may have used the length (6.1).
        ("a length and chunks", &both(length, chunked), 202, Closed),
        ("chunks and a length", &both(chunked, length), 202, Closed),
        (
            "HTTP/1.0 and chunks",
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n0\r\n\r\n",
            400,
            Closed,
        ),
        ("two lengths", post!("Content-Length: 7\r\nContent-Length: 8\r\n", "{\"a\":1}"), 400, Closed),
        ("lengths in a list", post!("Content-Length: 7, 7\r\n", "{\"a\":1}"), 400, Closed),
        ("+7", post!("Content-Length: +7\r\n", "{\"a\":1}"), 400, Closed),
        ("-7", post!("Content-Length: -7\r\n", "{\"a\":1}"), 400, Closed),
        ("0x7", post!("Content-Length: 0x7\r\n", "{\"a\":1}"), 400, Closed),
        ("7 7", post!("Content-Length: 7 7\r\n", "{\"a\":1}"), 400, Closed),
        ("no digits", post!("Content-Length: \r\n", "{\"a\":1}"), 400, Closed),
        ("more than 64 bits", post!("Content-Length: 18446744073709551623\r\n", "{\"a\":1}"), 400, Closed),
        ("identity", post!("Transfer-Encoding: identity\r\n", "{\"a\":1}"), 400, Closed),
        (
            "chunked, identity",
            post!("Transfer-Encoding: chunked, identity\r\n", "7\r\n{\"a\":1}\r\n0\r\n\r\n"),
            400,
            Closed,
        ),
        ("xchunked", post!("Transfer-Encoding: xchunked\r\n", "7\r\n{\"a\":1}\r\n0\r\n\r\n"), 400, Closed),
        ("gzip, chunked", post!("Transfer-Encoding: gzip, chunked\r\n", "7\r\n{\"a\":1}\r\n0\r\n\r\n"), 501, Closed),
        (
            "chunked twice",
            post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "7\r\n{\"a\":1}\r\n0\r\n\r\n"),
            501,
            Closed,
        ),
        ("a size of no digits", post!("Transfer-Encoding: chunked\r\n", "\r\n{\"a\":1}\r\n0\r\n\r\n"), 400, Closed),
        ("a size with a sign", post!("Transfer-Encoding: chunked\r\n", "+7\r\n{\"a\":1}\r\n0\r\n\r\n"), 400, Closed),
        ("0x7 as a size", post!("Transfer-Encoding: chunked\r\n", "0x7\r\n{\"a\":1}\r\n0\r\n\r\n"), 400, Closed),
        (
            "a size over 64 bits",
            post!("Transfer-Encoding: chunked\r\n", "10000000000000007\r\n{\"a\":1}\r\n0\r\n\r\n"),
            400,
            Closed,
        ),
        (
            "a size's line that ends in LF",
            post!("Transfer-Encoding: chunked\r\n", "7\n{\"a\":1}\r\n0\r\n\r\n"),
            400,
            Closed,
        ),
        (
            "an extension's that does",
            post!("Transfer-Encoding: chunked\r\n", "7;a\n{\"a\":1}\r\n0\r\n\r\n"),
            400,
            Closed,
        ),
        (
            "a chunk longer than its size",
            post!("Transfer-Encoding: chunked\r\n", "6\r\n{\"a\":1}\r\n0\r\n\r\n"),
            400,
            Closed,
        ),
        ("a long extension", &long_extension, 400, Closed),
        ("a hundred trailers and one", &trailers(101), 400, Closed),
    ])
    .await;
}
