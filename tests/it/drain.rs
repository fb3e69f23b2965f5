//! A shutdown resets no connection: every request that a client sends on a connection gets its response.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{Connection, PATIENCE, Server, get, post, until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// POST /v1/payloads of http://x, by the static table of HPACK (RFC 7541, A).
const POST_HEADERS: &[u8] = b"\x83\x86\x04\x0c/v1/payloads\x01\x01x";
/// The last stream in the first of two GOAWAY frames (RFC 9113, 6.8).
const STREAM_MAX: u32 = (1 << 31) - 1;

pub(crate) async fn draining(server: &Server) {
    until("draining", async || server.ready().await.1.contains("draining")).await;
}

/// Sends payloads at an interval until the server says that it closes the connection. Returns the number of payloads.
async fn send_until_closed(mut connection: Connection, interval: Duration) -> usize {
    for n in 1.. {
        connection.0.write_all(&post("", b"{}")).await.expect("the connection is open");
        let answer = connection.answer().await.expect("a response to every request");
        assert_eq!(answer.status, 202);
        if answer.header("connection") == "close" {
            assert_eq!(connection.0.read(&mut [0]).await.expect("no reset"), 0);
            return n;
        }
        sleep(interval).await;
    }
    0
}

#[tokio::test]
async fn clients_that_keep_connections_get_a_response_to_every_request() {
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    let mut clients = JoinSet::new();
    for _ in 0..32 {
        clients.spawn(send_until_closed(server.connect().await, Duration::from_millis(5)));
    }
    // A client that sends once a second is idle when the shutdown begins.
    clients.spawn(send_until_closed(server.connect().await, Duration::from_secs(1)));
    server.metric_is("millpond_jobs_accepted_total", |jobs| jobs > 200.0).await;
    server.signal(Signal::TERM);
    let sent: usize = clients.join_all().await.iter().sum();
    assert_eq!(server.ended().await, Some(0));
    assert_eq!(server.lines().len(), sent);
}

#[tokio::test]
async fn connections_without_a_whole_request_are_served_while_draining() {
    let mut server = Server::start(&[]).await;
    let request = post("", b"{}");
    let mut connections = Vec::new();
    for sent in [0, 1, 10, request.len() - 1] {
        let mut connection = server.connect().await;
        connection.write(&request[..sent]).await;
        connections.push((connection, sent));
    }
    server.metric_is("millpond_connections", |open| open == 4.0).await;
    server.signal(Signal::TERM);
    draining(&server).await;
    for (mut connection, sent) in connections {
        connection.write(&request[sent..]).await;
        let answer = connection.answer().await.expect("a response");
        assert_eq!((answer.status, answer.header("connection")), (202, "close"), "{sent} bytes sent before");
    }
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test]
async fn of_pipelined_requests_the_first_gets_the_last_response_and_no_reset() {
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    let mut connection = server.connect().await;
    server.metric_is("millpond_connections", |open| open == 1.0).await;
    server.signal(Signal::TERM);
    draining(&server).await;
    connection.write(&post("", b"{}").repeat(50)).await;
    let mut text = String::new();
    connection.0.read_to_string(&mut text).await.expect("no reset");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert!(text.contains("connection: close"), "{text}");
    assert_eq!(server.ended().await, Some(0));
    assert_eq!(server.lines().len(), 1, "what has no response is not stored");
}

#[tokio::test]
async fn connections_in_the_listen_queue_are_served() {
    let mut server = Server::start(&[]).await;
    server.signal(Signal::STOP);
    let mut connections = Vec::new();
    for _ in 0..50 {
        let mut connection = server.connect().await;
        connection.write(&post("", b"{}")).await;
        connections.push(connection);
    }
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for mut connection in connections {
        assert_eq!(connection.answer().await.expect("a response").status, 202);
    }
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test]
async fn for_drain_delay_health_checks_fail_and_requests_are_accepted() {
    let mut server = Server::start(&[("DRAIN_DELAY", "1h")]).await;
    server.signal(Signal::TERM);
    draining(&server).await;
    assert!(get(server.public, "/health").await.refusal(503).contains("is shutting down"));
    let mut connection = server.connect().await;
    for _ in 0..3 {
        connection.write(&post("", b"{}")).await;
        let answer = connection.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (202, ""));
    }
    assert_eq!(server.metric("millpond_draining").await, 0.0);
    // A second signal skips the rest of the delay, and is no abort.
    server.signal(Signal::TERM);
    connection.write(&post("", b"{}")).await;
    assert_eq!(connection.answer().await.unwrap().status, 202);
    drop(connection);
    assert_eq!(server.ended().await, Some(0));
    server.logged("all accepted jobs are stored").await;
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

async fn frame(connection: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    match timeout(PATIENCE, connection.read_exact(&mut head)).await.expect("a frame or the end") {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
        Err(error) => panic!("{error}"),
    }
    let [x, y, z, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, x, y, z]) as usize];
    connection.read_exact(&mut payload).await.unwrap();
    Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
}

/// The next frame of a kind.
async fn next(connection: &mut TcpStream, kind: u8) -> Frame {
    while let Some(frame) = frame(connection).await {
        if frame.kind == kind {
            return frame;
        }
    }
    panic!("the connection ended before a frame of type {kind}");
}

fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn last_stream(goaway: &Frame) -> u32 {
    assert_eq!(goaway.payload[4..8], [0; 4], "no error");
    u32::from_be_bytes(goaway.payload[..4].try_into().unwrap())
}

/// The responses to the streams, in any order, and then the end of the connection.
async fn responses(connection: &mut TcpStream) -> Vec<u32> {
    let mut streams = Vec::new();
    while let Some(frame) = frame(connection).await {
        if frame.kind == DATA && frame.flags & 1 == 1 {
            streams.push(frame.stream);
        }
    }
    streams.sort_unstable();
    streams
}

#[tokio::test]
async fn http_2_gets_goaway_in_two_steps_and_its_streams_finish() {
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    let mut connection = server.connect().await.0;
    let stream = |id| encode(HEADERS, 4, id, POST_HEADERS);
    connection.write_all(&[PREFACE, SETTINGS, &stream(1)].concat()).await.unwrap();
    server.metric_is("millpond_requests_in_flight", |requests| requests == 1.0).await;
    server.signal(Signal::TERM);
    assert_eq!(last_stream(&next(&mut connection, GOAWAY).await), STREAM_MAX);
    let ping = next(&mut connection, PING).await;
    // A request that was on its way when the client got the first GOAWAY.
    let body = |id| encode(DATA, 1, id, b"{}");
    connection.write_all(&[stream(3), body(3)].concat()).await.unwrap();
    connection.write_all(&encode(PING, 1, 0, &ping.payload)).await.unwrap();
    assert_eq!(last_stream(&next(&mut connection, GOAWAY).await), 3);
    connection.write_all(&body(1)).await.unwrap();
    let finished = responses(&mut connection).await;
    assert!(finished.contains(&1), "{finished:?}");
    drop(connection);
    assert_eq!(server.ended().await, Some(0));
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn http_2_whose_preface_arrives_while_draining_is_served() {
    for sent in [0, 1, 10, PREFACE.len() - 1] {
        let mut server = Server::start(&[("RECORD", "payload")]).await;
        let mut connection = server.connect().await.0;
        let request = [PREFACE, SETTINGS, &encode(HEADERS, 4, 1, POST_HEADERS), &encode(DATA, 1, 1, b"{}")].concat();
        connection.write_all(&request[..sent]).await.unwrap();
        server.metric_is("millpond_connections", |open| open == 1.0).await;
        server.signal(Signal::TERM);
        draining(&server).await;
        connection.write_all(&request[sent..]).await.unwrap();
        let ping = next(&mut connection, PING).await;
        connection.write_all(&encode(PING, 1, 0, &ping.payload)).await.unwrap();
        assert_eq!(responses(&mut connection).await, [1], "{sent} bytes sent before");
        drop(connection);
        assert_eq!(server.ended().await, Some(0));
        assert_eq!(server.lines().len(), 1);
    }
}
