//! Requests in flight: the memory that they may use, its limit for each address, and the limits of their heads.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use loadtest::attack::frames::{self, ACK, END_STREAM, Frame, GET, INITIAL_WINDOW_SIZE, POST, kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{Connection, PATIENCE, Server, get, post, until};

/// Streams that a connection may have open.
pub(crate) const STREAMS: u32 = 128;
/// How often the requests in flight are read while they become more.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// The bound of the server's memory under attack, in KiB.
const MEMORY: u64 = 128 << 10;
/// What the requests of one address may be charged beside those of a few others, and the reserve for its refusals.
const ADDRESS_BYTES: f64 = (14 << 20) as f64;

/// A connection of HTTP/2 from another address of loopback, on which no answer's body has room.
async fn http2_from(last: u8, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
    let mut stream = socket.connect(server).await.unwrap();
    stream.write_all(&frames::opening(&[(INITIAL_WINDOW_SIZE, 0)])).await.unwrap();
    stream
}

/// A header block with as many bytes as a request may have.
fn long_block() -> Vec<u8> {
    let fields = (0..98).map(|n| frames::field(format!("x-{n:02}").as_bytes(), &[b'v'; 126]));
    [POST.to_vec(), fields.flatten().collect()].concat()
}

/// A block of `lines` header lines that are an octet each, since they are in HPACK's table (RFC 7541, 6.1, 6.2.1).
fn indexed_block(start: &[u8], lines: usize) -> Vec<u8> {
    [start, &[0x40, 1, b'x', 1, b'y'], &vec![0xbe; lines - 1]].concat()
}

/// Waits until everything that was sent on the connection was read by the server, or the connection was ended.
async fn sent_or_ended(stream: &mut TcpStream) {
    if stream.write_all(&frames::frame(kind::PING, 0, 0, b"01234567")).await.is_err() {
        return;
    }
    let mut input = Vec::new();
    loop {
        while let Some(frame) = Frame::take(&mut input) {
            if frame.kind == kind::PING && frame.flags & ACK != 0 {
                return;
            }
        }
        match timeout(PATIENCE, stream.read_buf(&mut input)).await.expect("an answer or the end") {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Opens as many streams as it may on each of `connections`, whose bodies never end; senders at another address are served
/// meanwhile, and the server's memory stays bounded.
async fn held_open(block: Vec<u8>, connections: usize) {
    // A machine that is busy with the streams takes its time for a commit: these time limits have tests of their own.
    let env = [("RECORD", "payload"), ("ACK_TIMEOUT", "60s"), ("BODY_TIMEOUT", "60s")];
    let mut server = Server::start(&env).await;
    let over = CancellationToken::new();
    let mut senders = JoinSet::new();
    for sender in 0..4 {
        let (over, mut connection) = (over.clone(), server.connect().await);
        senders.spawn(async move {
            let mut sent = 0;
            while !over.is_cancelled() {
                connection.write(&post("", format!("{{\"sender\":{sender},\"n\":{sent}}}").as_bytes())).await;
                let answer = connection.answer().await.expect("an answer");
                assert_eq!(answer.status, 202, "{}", answer.text());
                sent += 1;
            }
            sent
        });
    }
    let block = Arc::new(block);
    let mut attack = JoinSet::new();
    for _ in 0..connections {
        let (block, target) = (Arc::clone(&block), server.public);
        attack.spawn(async move {
            let mut stream = http2_from(2, target).await;
            for n in 0..STREAMS {
                if stream.write_all(&frames::headers(2 * n + 1, 0, &block)).await.is_err() {
                    break;
                }
            }
            sent_or_ended(&mut stream).await;
            stream
        });
    }
    let (mut attackers, mut in_flight, mut bytes) = (Vec::new(), 0.0_f64, 0.0_f64);
    loop {
        let metrics = server.metrics().await;
        in_flight = in_flight.max(metrics["millpond_requests_in_flight"]);
        bytes = bytes.max(metrics["millpond_requests_in_flight_bytes"]);
        match timeout(SAMPLE_INTERVAL, attack.join_next()).await {
            Ok(Some(attacker)) => attackers.push(attacker.unwrap()),
            Ok(None) => break,
            Err(_) => {}
        }
    }
    assert!(in_flight > 0.0);
    assert!(bytes <= ADDRESS_BYTES, "{bytes}");
    over.cancel();
    let sent: usize = senders.join_all().await.iter().sum();
    let peak = server.peak();
    assert!(peak < MEMORY, "{peak} KiB at the most");
    drop(attackers);
    server.metric_is("millpond_requests_in_flight_bytes", |bytes| bytes == 0.0).await;
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), sent);
}

#[tokio::test]
async fn long_headers_held_open_cost_bounded_memory_and_refuse_nobody_else() {
    held_open(long_block(), 60).await;
}

#[tokio::test]
async fn many_header_lines_held_open_cost_bounded_memory_and_refuse_nobody_else() {
    held_open(indexed_block(POST, 400), 40).await;
}

#[tokio::test]
async fn plain_requests_held_open_cost_bounded_memory_and_refuse_nobody_else() {
    held_open(POST.to_vec(), 400).await;
}

#[tokio::test]
async fn an_address_over_its_share_is_told_so() {
    let mut server = Server::start(&[]).await;
    let held: Vec<_> = {
        let mut held = Vec::new();
        // 4 KiB each: some more than the 12 MiB that one address may have, and fewer than its refusals may be.
        for _ in 0..26 {
            let mut stream = http2_from(1, server.public).await;
            let streams: Vec<_> = (0..STREAMS).map(|n| frames::headers(2 * n + 1, 0, POST)).collect();
            stream.write_all(&streams.concat()).await.unwrap();
            held.push(stream);
        }
        held
    };
    until("a full share", async || {
        let text = get(server.admin, "/metrics").await.text();
        text.lines().any(|line| {
            line.strip_prefix("millpond_requests_total{outcome=\"too_many_requests_from_address\",route=\"payloads\"} ")
                .is_some_and(|count| count != "0")
        })
    })
    .await;
    let refused = server.post_json("{}").await;
    assert!(refused.refusal(429).contains("from this address"));
    assert!((1..=2).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(get(server.public, "/health").await.status, 200, "a health check has a reserve of its own");
    server.logged("add it to TRUSTED_PROXIES").await;
    assert!(server.log().contains("address=127.0.0.1"), "{}", server.log());
    drop(held);
    until("a share of its own again", async || server.post_json("{}").await.status == 202).await;
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn addresses_that_take_all_they_may_leave_room_for_a_new_one() {
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    let streams: Vec<_> = (0..STREAMS).map(|n| frames::headers(2 * n + 1, 0, POST)).collect();
    let streams = streams.concat();
    let mut held = Vec::new();
    // Each of them asks for 16 MiB, of the 64 MiB that there are.
    for address in 2..7 {
        for _ in 0..33 {
            let mut stream = http2_from(address, server.public).await;
            stream.write_all(&streams).await.unwrap();
            sent_or_ended(&mut stream).await;
            held.push(stream);
        }
    }
    assert!(server.metric("millpond_requests_in_flight_bytes").await > (32 << 20) as f64);
    assert_eq!(get(server.public, "/health").await.status, 200);
    assert_eq!(server.post_json("{}").await.status, 202);
    drop(held);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn heads_of_http_2_have_the_limits_of_http_1() {
    let server = Server::start(&[]).await;
    let host = |name: &[u8]| frames::field(b"host", name);
    // The authority of `GET` is `x`.
    let good = [
        indexed_block(GET, 100),
        [GET, &host(b"x")].concat(),
        [GET, &host(b"X")].concat(),
        [&GET[..3], &host(b"elsewhere")].concat(),
    ];
    let bad = [
        indexed_block(GET, 101),
        [GET, &host(b"x"), &host(b"x")].concat(),
        [GET, &host(b"elsewhere")].concat(),
        [&GET[..3], &host(b"x"), &host(b"x")].concat(),
        [&GET[..3], &host(b"x/y")].concat(),
    ];
    let (expected_good, expected_bad) = (good.len() as f64, bad.len() as f64);
    // Open until all are counted: a request whose connection is gone may never be.
    let mut open = Vec::new();
    for block in good.into_iter().chain(bad) {
        let mut stream = http2_from(1, server.public).await;
        stream.write_all(&frames::headers(1, END_STREAM, &block)).await.unwrap();
        open.push(stream);
    }
    let counted = |outcome| format!("millpond_requests_total{{outcome=\"{outcome}\",route=\"health\"}}");
    let other = |outcome| format!("millpond_requests_total{{outcome=\"{outcome}\",route=\"payloads\"}}");
    // `GET` has no path but `/`, which takes another method: it is understood that far, or it is not.
    assert!(server.metrics().await.contains_key(&counted("invalid")));
    server.metric_is(&other("invalid"), |count| count == expected_bad).await;
    server.metric_is(&other("not_understood"), |count| count == expected_good).await;
}

#[tokio::test]
async fn a_second_host_is_refused_in_http_1_0_too() {
    let server = Server::start(&[]).await;
    let ask = async |head: &str| server.send(format!("GET /health {head}\r\n\r\n").as_bytes()).await;
    for head in ["HTTP/1.0", "HTTP/1.0\r\nHost: a", "HTTP/1.1\r\nHost: a"] {
        assert_eq!(ask(head).await.status, 200, "{head}");
    }
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        assert!(ask(&format!("{version}\r\nHost: a\r\nHost: b")).await.refusal(400).contains("Host"), "{version}");
    }
}

#[tokio::test]
async fn a_chunk_size_of_zeros_without_end_is_refused() {
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    let chunked = |zeros: usize| {
        let head = "POST /v1/payloads HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{}2\r\n{{}}\r\n0\r\n\r\n", "0".repeat(zeros)).into_bytes()
    };
    assert_eq!(server.send(&chunked(8)).await.status, 202);
    let mut connection = server.connect().await;
    // It may be told so before it has sent them all.
    let _: Result<_, _> = connection.0.write_all(&chunked(1_000_000)).await;
    assert!(connection.answer().await.expect("an answer").refusal(400).contains("chunk framing"));
    let small_chunks = b"1\r\n \r\n".repeat(50_000);
    let head = b"POST /v1/payloads HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let smallest = [&head[..], &small_chunks, b"2\r\n{}\r\n0\r\n\r\n"].concat();
    assert_eq!(server.send(&smallest).await.status, 202);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_request_in_flight_is_charged_until_its_answer_is_written() {
    let server = Server::start(&[]).await;
    let mut connection: Connection = server.connect().await;
    connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nX: y\r\n\r\n{").await;
    server.metric_is("millpond_requests_in_flight", |requests| requests == 1.0).await;
    // The headers are given back when the body is waited for.
    server.metric_is("millpond_requests_in_flight_bytes", |bytes| bytes == 4096.0).await;
    connection.write(b"}").await;
    assert_eq!(connection.answer().await.expect("an answer").status, 202);
    server.metric_is("millpond_requests_in_flight_bytes", |bytes| bytes == 0.0).await;
}
