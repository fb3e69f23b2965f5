//! Ghost mode: copies of accepted batches go to another version, and real traffic never notices.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::Server;
use crate::tokens::TokensFile;
use crate::two_versions::{Mode, Proxy, RolloutFile, mirror, unused};

const SENT: &str = "millpond_mirror_total{result=\"sent\"}";
const DROPPED: &str = "millpond_mirror_total{result=\"dropped\"}";
const FAILED: &str = "millpond_mirror_total{result=\"failed\"}";
/// As in the server.
const SENDERS: usize = 64;

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[tokio::test]
async fn accepted_batches_reach_the_other_version_as_they_were_received_and_rejected_ones_do_not() {
    let mut other = Server::start(&[("RECORD", "payload")]).await;
    let proxy = Proxy::to(other.public, Mode::Pass).await;
    let file = RolloutFile::new(&mirror(proxy.addr));
    let mut server = file.start(&[]).await;
    for n in 0..20 {
        assert_eq!(server.post("X-Request-Id: plain\r\n", format!("{{\"n\":{n}}}").as_bytes()).await.status, 202);
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(b"{\"n\":20}\n{\"n\":21}\n").unwrap();
    let headers = "Content-Type: application/x-ndjson\r\nContent-Encoding: gzip\r\n";
    assert_eq!(server.post(headers, &gzip.finish().unwrap()).await.status, 202);
    let body = b"{\"n\":22}";
    let request = format!("POST /?ack=disk HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    assert_eq!(server.send(&[request.as_bytes(), body].concat()).await.status, 202);
    assert_eq!(server.post_json("nonsense").await.status, 400);
    server.metric_is(SENT, |sent| sent == 22.0).await;
    assert_eq!(server.metric("millpond_mirror_responses_total{code=\"2xx\"}").await, 22.0);
    assert_eq!(server.metric("millpond_mirror_seconds_count").await, 22.0);
    assert_eq!((server.metric(DROPPED).await, server.metric(FAILED).await), (0.0, 0.0));
    assert_eq!(server.metric("millpond_mirror_bytes").await, 0.0, "nothing is held when all copies are sent");
    assert_eq!((server.stop().await, other.stop().await), (Some(0), Some(0)));
    assert_eq!(server.lines().len(), 23);
    assert_eq!(sorted(other.lines()), sorted(server.lines()));
    let seen = proxy.seen();
    assert_eq!(seen.matches("millpond-mirror: 1").count(), 22);
    assert_eq!(seen.matches("x-request-id: plain").count(), 20);
    assert_eq!(seen.matches("POST /?ack=disk HTTP/1.1").count(), 1);
}

#[tokio::test]
async fn a_version_that_does_not_respond_costs_a_bounded_memory_and_no_response() {
    let other = Server::start(&[]).await;
    let proxy = Proxy::to(other.public, Mode::Hang).await;
    let file = RolloutFile::new(&mirror(proxy.addr));
    let max = 64 * 1024;
    let mut server = file.start(&[("MIRROR_MAX_BYTES", "64KiB"), ("SHUTDOWN_GRACE", "1h")]).await;
    let payload = format!("{{\"pad\":\"{}\"}}", "x".repeat(1000));
    let mut connection = server.connect().await;
    for _ in 0..200 {
        connection.write(&crate::support::post("", payload.as_bytes())).await;
        assert_eq!(connection.answer().await.unwrap().status, 202);
        let bytes = server.metric("millpond_mirror_bytes").await;
        assert!(bytes <= f64::from(max), "{bytes}");
    }
    let dropped = server.metric(DROPPED).await;
    assert!((100.0..200.0).contains(&dropped), "{dropped}");
    assert!(proxy.most() <= SENDERS);
    assert_eq!(server.stop().await, Some(0), "copies do not delay the shutdown");
    assert_eq!(server.lines().len(), 200);
}

#[tokio::test]
async fn a_slow_version_gets_copies_at_its_own_pace() {
    let other = Server::start(&[]).await;
    let proxy = Proxy::to(other.public, Mode::Delay(Duration::from_millis(50))).await;
    let file = RolloutFile::new(&mirror(proxy.addr));
    let mut server = file.start(&[("MIRROR_MAX_BYTES", "20KiB")]).await;
    let mut connection = server.connect().await;
    for n in 0..300 {
        connection.write(&crate::support::post("", format!("{{\"n\":{n}}}").as_bytes())).await;
        assert_eq!(connection.answer().await.unwrap().status, 202);
    }
    server.metric_is(SENT, |sent| sent > 10.0).await;
    server.metric_is("millpond_mirror_bytes", |bytes| bytes == 0.0).await;
    let results = [SENT, DROPPED, FAILED];
    let mut sum = 0.0;
    for result in results {
        sum += server.metric(result).await;
    }
    assert_eq!(sum, 300.0, "each copy is counted once");
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 300);
}

#[tokio::test]
async fn a_version_that_is_away_is_tried_once_in_a_while_and_found_again() {
    let addr = unused().await;
    let file = RolloutFile::new(&mirror(addr));
    let mut server = file.start(&[]).await;
    let mut connection = server.connect().await;
    for n in 0..200 {
        connection.write(&crate::support::post("", format!("{{\"n\":{n}}}").as_bytes())).await;
        assert_eq!(connection.answer().await.unwrap().status, 202);
    }
    server.metric_is("millpond_mirror_bytes", |bytes| bytes == 0.0).await;
    let (failed, dropped) = (server.metric(FAILED).await, server.metric(DROPPED).await);
    assert!(failed >= 1.0 && dropped >= 1.0 && failed + dropped == 200.0, "{failed} failed, {dropped} dropped");
    server.logged("a copy could not be sent").await;
    let other = Server::start(&[("LISTEN_ADDR", &addr.to_string())]).await;
    crate::support::until("copies are sent again", async || {
        assert_eq!(server.post_json("{}").await.status, 202);
        server.metric(SENT).await > 0.0
    })
    .await;
    drop(other);
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn tokens_are_copied_only_if_the_plan_says_so_and_appear_in_no_log() {
    let other = Server::start(&[]).await;
    let proxy = Proxy::to(other.public, Mode::Pass).await;
    let tokens = TokensFile::new(&[("acme", &["s3cret-known"], "{}")]);
    let tokens = tokens.path();
    let file = RolloutFile::new(&mirror(proxy.addr));
    let env = [("TOKENS_FILE", tokens.to_str().unwrap()), ("RUST_LOG", "trace,h2=trace,rustls=trace")];
    let mut server = file.start(&env).await;
    let both = ["Authorization: Bearer s3cret-known\r\n", "X-Api-Key: s3cret-known\r\n"];
    for header in both {
        assert_eq!(server.post(header, b"{}").await.status, 202);
    }
    let envelope = r#"{"token":"s3cret-known","data":[{}]}"#;
    assert_eq!(server.post_json(envelope).await.status, 202);
    server.metric_is(SENT, |sent| sent == 2.0).await;
    assert!(proxy.seen().contains("millpond-mirror: 1") && !proxy.seen().contains("cret"), "{}", proxy.seen());
    file.put(&server, &mirror(proxy.addr).replace("100}", "100,\"tokens\":true}")).await;
    for header in both {
        assert_eq!(server.post(header, b"{}").await.status, 202);
    }
    assert_eq!(server.post_json(envelope).await.status, 202);
    server.metric_is(SENT, |sent| sent == 5.0).await;
    let seen = proxy.seen().to_ascii_lowercase();
    assert!(seen.contains(envelope), "{seen}");
    assert!(seen.contains("authorization: bearer s3cret-known") && seen.contains("x-api-key: s3cret-known"), "{seen}");
    assert_eq!(server.stop().await, Some(0));
    assert!(!server.log().contains("cret"));
}

#[tokio::test]
async fn a_copy_is_neither_copied_nor_forwarded_again() {
    let (file, other_file) = (RolloutFile::new("{}"), RolloutFile::new("{}"));
    let (mut server, mut other) = (file.start(&[]).await, other_file.start(&[]).await);
    file.put(&server, &mirror(other.public)).await;
    other_file.put(&other, &mirror(server.public)).await;
    for n in 0..10 {
        assert_eq!(server.post_json(&format!("{{\"n\":{n}}}")).await.status, 202);
    }
    server.metric_is(SENT, |sent| sent == 10.0).await;
    other_file.put(&other, &crate::two_versions::forward(server.public, 100, "request")).await;
    for n in 10..20 {
        assert_eq!(server.post_json(&format!("{{\"n\":{n}}}")).await.status, 202);
    }
    server.metric_is(SENT, |sent| sent == 20.0).await;
    for result in [SENT, DROPPED, FAILED, "millpond_forward_total{result=\"passed\"}"] {
        assert_eq!(other.metric(result).await, 0.0, "{result}");
    }
    assert_eq!((server.stop().await, other.stop().await), (Some(0), Some(0)));
    assert_eq!((server.lines().len(), other.lines().len()), (20, 20));
}

#[tokio::test]
async fn copies_for_a_former_server_do_not_delay_those_for_the_new_one() {
    let (former, other) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::to(former.public, Mode::Hang).await;
    let file = RolloutFile::new(&mirror(proxy.addr));
    // Copies that hang would hang for longer than this test waits.
    let server = file.start(&[("ACK_TIMEOUT", "10m"), ("STORED_INTERVAL", "1s")]).await;
    for _ in 0..2 * SENDERS {
        assert_eq!(server.post_json("{}").await.status, 202);
    }
    crate::support::until("all senders are in use", async || proxy.most() == SENDERS).await;
    file.put(&server, &mirror(other.public)).await;
    assert_eq!(server.post_json("{}").await.status, 202);
    server.metric_is(SENT, |sent| sent == 1.0).await;
    assert_eq!(server.metric(DROPPED).await, 2.0 * SENDERS as f64);
}
