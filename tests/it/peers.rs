//! Addresses of clients: PROXY headers, forwarded addresses, and the limit on connections per address.

use std::net::{Ipv4Addr, SocketAddr};

use millpond::rollout::OUTBOUND_FILES_MAX;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Connection, Server, post, run, until};
use crate::two_versions::RolloutFile;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xdc\x04\x01\xbb";
/// The header of a health check of the proxy itself.
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const DEBUG: (&str, &str) = ("RUST_LOG", "millpond=debug");

fn behind_a_proxy<'a>(proxies: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("TRUSTED_PROXIES", proxies), ("PROXY_PROTOCOL", "on"), DEBUG][..], more].concat()
}

/// A connection from 127.0.0.`last`.
async fn connect_from(last: u8, server: &Server) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
    Connection(socket.connect(server.public).await.unwrap())
}

/// Sends `first` and then a batch. Returns the status.
async fn post_after(server: &Server, connection: &mut Connection, first: &[u8]) -> u16 {
    assert_eq!(connection.0.peer_addr().unwrap(), server.public);
    connection.write(&[first, &post("", b"{}")].concat()).await;
    connection.answer().await.expect("an answer").status
}

/// The client in the log line for the rejection of this request.
async fn logged_client(server: &mut Server, id: &str) -> String {
    server.logged(&format!("request_id=\"{id}\"")).await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains(&format!("request_id=\"{id}\""))).unwrap();
    let client = line.split_once(" client=").unwrap_or_else(|| panic!("no client in {line}")).1;
    client.split(' ').next().unwrap().to_owned()
}

/// Sends an invalid request and returns the client that is logged for it.
async fn client_of(server: &mut Server, id: &str, first: &[u8], headers: &str) -> String {
    let mut connection = server.connect().await;
    let request = post(&format!("X-Request-Id: {id}\r\n{headers}"), b"{");
    connection.write(&[first, &request].concat()).await;
    assert_eq!(connection.answer().await.expect("an answer").status, 400);
    logged_client(server, id).await
}

#[tokio::test]
async fn both_versions_of_the_proxy_header_give_the_address_of_the_client() {
    let mut server = Server::start(&behind_a_proxy("127.0.0.0/8, ::1", &[])).await;
    assert_eq!(client_of(&mut server, "v1", V1, "").await, "192.0.2.7");
    assert_eq!(client_of(&mut server, "v2", V2, "").await, "192.0.2.7");
    assert_eq!(client_of(&mut server, "own", V2_LOCAL, "").await, "127.0.0.1");
    // The address in the header is not a trusted proxy.
    assert_eq!(client_of(&mut server, "says", V1, "X-Forwarded-For: 203.0.113.9\r\n").await, "192.0.2.7");
    // Byte by byte, each in a TCP segment of its own.
    for header in [V1, V2] {
        let mut connection = server.connect().await;
        connection.0.set_nodelay(true).unwrap();
        for byte in header {
            connection.write(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(post_after(&server, &mut connection, b"").await, 202);
    }
}

#[tokio::test]
async fn connections_of_a_trusted_proxy_without_a_proxy_header_are_closed() {
    let server = Server::start(&behind_a_proxy("127.0.0.1", &[("HEADER_TIMEOUT", "100ms")])).await;
    let plain = post("", b"{}");
    let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    let too_long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff";
    let stalls: [&[u8]; 3] = [b"", b"PROXY TCP4 192.0", &V2[..20]];
    for bad in [&plain, &long, too_long.as_slice(), b"PROXY TCP4 a b c d\r\n"].into_iter().chain(stalls) {
        let mut connection = server.connect().await;
        connection.write(bad).await;
        assert!(connection.closed().await, "{}", bad.escape_ascii());
    }
    server.metric_is("millpond_connections_failed_total", |failed| failed == 7.0).await;
    server.metric_is("millpond_connections", |open| open == 0.0).await;
}

#[tokio::test]
async fn a_proxy_header_of_an_untrusted_address_is_rejected() {
    let server = Server::start(&behind_a_proxy("10.0.0.0/8", &[])).await;
    for header in [V1, V2] {
        let mut connection = server.connect().await;
        assert_eq!(post_after(&server, &mut connection, header).await, 400, "it is not HTTP");
    }
    assert_eq!(post_after(&server, &mut server.connect().await, b"").await, 202);
    assert!(!server.log().contains("192.0.2.7"), "{}", server.log());

    let off = Server::start(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    assert_eq!(post_after(&off, &mut off.connect().await, V1).await, 400);
}

#[tokio::test]
async fn forwarded_addresses_are_only_accepted_from_trusted_proxies() {
    let forwarded = "X-Forwarded-For: 1.1.1.1, 203.0.113.9, 127.0.0.9\r\n";
    let mut open = Server::start(&[DEBUG]).await;
    assert_eq!(client_of(&mut open, "open", b"", forwarded).await, "127.0.0.1");
    let mut behind = Server::start(&[DEBUG, ("TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    assert_eq!(client_of(&mut behind, "behind", b"", forwarded).await, "203.0.113.9");
    assert_eq!(client_of(&mut behind, "none", b"", "").await, "127.0.0.1");
    assert_eq!(client_of(&mut behind, "odd", b"", "X-Forwarded-For: 203.0.113.9, \u{e9}[31m\r\n").await, "127.0.0.1");
}

#[tokio::test]
async fn the_limit_on_connections_applies_per_address() {
    let mut server = Server::start(&[("MAX_CONNECTIONS_PER_ADDRESS", "2")]).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for connection in [&mut first, &mut second] {
        assert_eq!(post_after(&server, connection, b"").await, 202);
    }
    let mut third = server.connect().await;
    let refused = third.answer().await.expect("an answer");
    assert!(refused.refusal(429).contains("from this address"));
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(refused.header("connection"), "close");
    assert!(third.closed().await);
    assert_eq!(server.metric("millpond_requests_total{outcome=\"too_many_from_address\",route=\"other\"}").await, 1.0);
    server.logged("MAX_CONNECTIONS_PER_ADDRESS").await;
    assert_eq!(post_after(&server, &mut connect_from(2, &server).await, b"").await, 202);
    assert_eq!(post_after(&server, &mut first, b"").await, 202);
    drop(second);
    until("a free place", async || {
        let mut connection = server.connect().await;
        connection.0.write_all(&post("", b"{}")).await.is_ok()
            && connection.answer().await.is_some_and(|answer| answer.status == 202)
    })
    .await;
}

#[tokio::test]
async fn connections_count_for_the_client_and_not_for_the_proxy() {
    let limit = ("MAX_CONNECTIONS_PER_ADDRESS", "1");
    let plain = Server::start(&[("TRUSTED_PROXIES", "127.0.0.1"), limit]).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut connection = plain.connect().await;
        assert_eq!(post_after(&plain, &mut connection, b"").await, 202);
        open.push(connection);
    }
    assert_eq!(plain.metric("millpond_connections").await, 4.0);

    let server = Server::start(&behind_a_proxy("127.0.0.1", &[limit])).await;
    let mut sender = server.connect().await;
    assert_eq!(post_after(&server, &mut sender, V1).await, 202);
    assert_eq!(post_after(&server, &mut server.connect().await, V2).await, 429);
    let other = [&V2[..19], &[8], &V2[20..]].concat();
    assert_eq!(post_after(&server, &mut server.connect().await, &other).await, 202);
    assert_eq!(post_after(&server, &mut sender, b"").await, 202);
}

#[tokio::test]
async fn connections_to_other_versions_have_file_descriptors_of_their_own() {
    let connections = async |env: &[(&str, &str)]| {
        let server = Server::start_with_files(4096, env).await;
        let log = server.log();
        let (_, count) = log.split_once("files=4096 connections=").expect("the limit lowers MAX_CONNECTIONS");
        count.split_whitespace().next().unwrap().parse::<usize>().unwrap()
    };
    let rollout = RolloutFile::new("{}");
    let with_rollout = connections(&[("ROLLOUT_FILE", rollout.path().to_str().unwrap())]).await;
    assert_eq!(connections(&[]).await - with_rollout, OUTBOUND_FILES_MAX);
}

#[tokio::test]
async fn the_server_recovers_when_it_has_run_out_of_file_descriptors() {
    let mut server = Server::start_with_files(64, &[("MAX_CONNECTIONS_PER_ADDRESS", "off")]).await;
    assert!(server.log().contains("files=64 connections=1"), "{}", server.log());
    // One connection is served and some are rejected, as long as there are file descriptors.
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(TcpStream::connect(server.public).await.unwrap());
    }
    server.logged("cannot accept connections").await;
    let mut first = Connection(flood.remove(0));
    first.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(first.answer().await.expect("an answer").status, 200, "the first connection is served");
    drop((first, flood));
    until("service", async || {
        let mut connection = server.connect().await;
        connection.0.write_all(&post("", b"{}")).await.is_ok()
            && connection.answer().await.is_some_and(|answer| answer.status == 202)
    })
    .await;
    let said = server.log().matches("cannot accept connections").count();
    assert!(said < 5, "said {said} times");
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn invalid_settings_for_proxies_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let env = [("PROXY_PROTOCOL", "on"), ("MAX_CONNECTIONS_PER_ADDRESS", "many")];
    let output = run(folder.path(), &env, &[]).await;
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("TRUSTED_PROXIES is not set") && said.contains("or off"), "{said}");
    let output = run(folder.path(), &[("TRUSTED_PROXIES", "10.0.0.0/8 proxy.example")], &[]).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("such as 10.0.0.0/8,192.0.2.1"));
}
