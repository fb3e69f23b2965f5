//! Rate limits and shares: one tenant cannot use up what others need.

use loadtest::s3::{Fault, FaultPlan, S3Server};

use crate::support::{Answer, Connection, Server, post, until};
use crate::tokens::TokensFile;

async fn send(server: &Server, token: &str, body: &str) -> Answer {
    server.post(&format!("Content-Type: application/json\r\nX-Api-Key: {token}\r\n"), body.as_bytes()).await
}

/// Repeats a request until the status is not 202. Returns the number of 202s and the last response.
async fn until_rejected(server: &Server, token: &str, body: &str) -> (usize, Answer) {
    for accepted in 0.. {
        let answer = send(server, token, body).await;
        if answer.status != 202 {
            return (accepted, answer);
        }
    }
    unreachable!("somewhere it ends")
}

fn assert_429(answer: &Answer, limit: &str) {
    assert!(answer.refusal(429).contains(limit), "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn each_rate_limit_rejects_with_429_and_does_not_affect_other_tenants() {
    // At these rates the limits do not recover during the test.
    let file = TokensFile::new(&[
        ("requests", &["r"], r#"{"requests_per_second":1,"burst_seconds":5}"#),
        ("payloads", &["p"], r#"{"payloads_per_second":1}"#),
        ("bytes", &["b"], r#"{"bytes_per_second":1}"#),
        ("free", &["f"], "{}"),
    ]);
    let mut server = file.start(&[("MAX_BODY_BYTES", "1000")]).await;
    let (accepted, answer) = until_rejected(&server, "r", "{}").await;
    // The limit may recover by one or two requests meanwhile.
    assert!((5..10).contains(&accepted), "{accepted}");
    assert_429(&answer, "requests_per_second");
    let body = format!("[{}{{}}]", "{},".repeat(99));
    let batch = format!("[{}{{}}]", "{},".repeat(249));
    let hundred = async |token| until_rejected(&server, token, &body).await;
    let (accepted, answer) = hundred("b").await;
    assert_eq!(accepted, 1000 / body.len(), "{}", answer.text());
    assert_429(&answer, "bytes_per_second");
    let (accepted, answer) = until_rejected(&server, "p", &batch).await;
    assert_eq!(accepted, 10_000 / 250);
    assert_429(&answer, "payloads_per_second");
    // A smaller body still fits. Bytes of a body without a length count as well.
    let mut connection = server.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: b\r\nTransfer-Encoding: chunked\r\n\r\n";
    let size = body.len();
    connection.write(format!("{head}{size:x}\r\n{body}\r\n0\r\n\r\n").as_bytes()).await;
    assert_429(&connection.answer().await.unwrap(), "bytes_per_second");
    assert_eq!(send(&server, "f", &batch).await.status, 202);
    assert_eq!(server.metric("millpond_requests_total{outcome=\"over_rate\",route=\"payloads\"}").await, 4.0);
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn the_same_limits_apply_if_the_token_is_in_the_envelope() {
    let limits = r#"{"requests_per_second":1,"burst_seconds":1}"#;
    let file = TokensFile::new(&[("a", &["t"], limits)]);
    let server = file.start(&[]).await;
    let body = r#"{"token":"t","data":[{}]}"#;
    let mut answer = server.post_json(body).await;
    assert_eq!(answer.status, 202);
    until("a refusal", async || {
        answer = server.post_json(body).await;
        answer.status != 202
    })
    .await;
    assert_429(&answer, "requests_per_second");
}

#[tokio::test]
async fn a_request_above_a_rate_limit_is_rejected_before_its_body_is_read() {
    let file = TokensFile::new(&[("a", &["t"], r#"{"bytes_per_second":1}"#)]);
    let server = file.start(&[("MAX_BODY_BYTES", "100")]).await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: t\r\nContent-Length: 100\r\n\r\n";
    let mut connection = server.connect().await;
    connection.write(head.as_bytes()).await;
    connection.write(&[b' '; 100]).await;
    assert_eq!(connection.answer().await.unwrap().status, 400);
    // The body is never sent.
    assert_429(&server.send(head.as_bytes()).await, "bytes_per_second");
}

#[tokio::test]
async fn a_batch_above_the_burst_is_413_and_not_429() {
    let file = TokensFile::new(&[("a", &["t"], r#"{"payloads_per_second":1}"#)]);
    let server = file.start(&[]).await;
    let large = format!("[{}{{}}]", "{},".repeat(10_000));
    assert!(
        send(&server, "t", &large).await.refusal(413).contains("10001 payloads exceed the tenant's burst of 10000")
    );
    assert_eq!(send(&server, "t", "[{}]").await.status, 202, "the rejected batch has not used the limit");
}

#[tokio::test]
async fn a_tenant_with_a_full_share_of_the_queue_does_not_affect_others() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let file = TokensFile::new(&[("flood", &["f"], "{}"), ("quiet", &["q"], "{}")]);
    let path = file.path();
    let env = [
        ("TOKENS_FILE", path.to_str().unwrap()),
        ("TENANT_QUEUE_SHARE", "40%"),
        ("ACK", "memory"),
        ("MAX_WORKERS", "1"),
        ("MAX_QUEUE", "10"),
        ("OBJECT_MAX_BYTES", "1"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;
    // A rejection may only mean that the dispatcher is behind, so repeat until the queue stays full.
    let mut answer = send(&server, "f", "{}").await;
    until("the share is full", async || {
        answer = until_rejected(&server, "f", "{}").await.1;
        let metrics = server.metrics().await;
        metrics["millpond_queue_jobs"] == 4.0 && metrics["millpond_segments_waiting"] == 1.0
    })
    .await;
    assert!(answer.refusal(503).contains("share of the queue"));
    assert!((1..=45).contains(&answer.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(answer.header("millpond-rejection"), "share_full");
    for _ in 0..4 {
        assert_eq!(send(&server, "q", "{}").await.status, 202);
    }
    assert!(send(&server, "q", "{}").await.refusal(503).contains("share of the queue"));
    assert_eq!(server.metric("millpond_queue_jobs").await, 8.0);
    assert_eq!(server.metric("millpond_requests_total{outcome=\"queue_full\",route=\"payloads\"}").await, 0.0);
    assert!(server.metric("millpond_requests_total{outcome=\"share_full\",route=\"payloads\"}").await >= 2.0);
    s3.faults().set(FaultPlan::none());
    until("room", async || send(&server, "f", "{}").await.status == 202).await;
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_full_share_of_the_spool_does_not_affect_others_and_is_released_completely() {
    const SPOOL: usize = 512 * 1024;
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let file = TokensFile::new(&[("flood", &["f"], "{}"), ("quiet", &["q"], "{}")]);
    let path = file.path();
    let env = [
        ("TOKENS_FILE", path.to_str().unwrap()),
        ("TENANT_QUEUE_SHARE", "100%"),
        ("TENANT_SPOOL_SHARE", "50%"),
        ("SPOOL_MAX_BYTES", "512KiB"),
        ("OBJECT_MAX_BYTES", "32KiB"),
        ("OBJECT_MAX_AGE", "1s"),
        ("COMPRESSION", "none"),
        ("RECORD", "payload"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;
    let kib = format!("{{\"a\":\"{}\"}}", "x".repeat(1024));
    let mut accepted = 0;
    for round in 0..2 {
        s3.faults().set(FaultPlan::always(Fault::InternalError));
        let (flood, refused) = until_rejected(&server, "f", &kib).await;
        assert!(refused.refusal(503).contains("share of the spool"), "{}", refused.text());
        assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
        // Lines, frame headers and the last blocks of files: slightly less than half.
        assert!((200..=256).contains(&flood), "round {round}: {flood}");
        let in_envelope = format!("{{\"token\":\"f\",\"data\":[{kib}]}}");
        assert!(server.post_json(&in_envelope).await.refusal(503).contains("share of the spool"));
        for n in 0..100 {
            let answer = send(&server, "q", &kib).await;
            assert_eq!(answer.status, 202, "round {round}, {n}: {}", answer.text());
        }
        accepted += flood + 100;
        assert!(server.metric("millpond_spool_bytes").await <= SPOOL as f64);
        assert_eq!(server.metric("millpond_requests_total{outcome=\"no_spool\",route=\"payloads\"}").await, 0.0);
        s3.faults().set(FaultPlan::none());
        // Everything was released: the second round has as much space as the first.
        server.metric_is("millpond_jobs_waiting", |jobs| jobs == 0.0).await;
        server.metric_is("millpond_spool_bytes", |bytes| bytes == 0.0).await;
    }
    assert_eq!(server.metric("millpond_requests_total{outcome=\"spool_share_full\",route=\"payloads\"}").await, 4.0);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(crate::support::lines(&root.path().join("telemetry")).len(), accepted);
}

#[tokio::test]
async fn bodies_count_against_the_share_while_they_are_received_even_before_authentication() {
    let file = TokensFile::new(&[("flood", &["f"], "{}"), ("quiet", &["q"], "{}")]);
    let server = file.start(&[("MAX_QUEUE_BYTES", "100KiB"), ("TENANT_QUEUE_SHARE", "50%")]).await;
    let half = b"{".repeat(40 * 1024);
    let mut slow: Vec<Connection> = Vec::new();
    for headers in ["X-Api-Key: f\r\n", ""] {
        let mut connection = server.connect().await;
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n", half.len() + 1);
        connection.write(head.as_bytes()).await;
        connection.write(&half).await;
        slow.push(connection);
    }
    server.metric_is("millpond_queue_bytes", |bytes| bytes == 2.0 * half.len() as f64).await;
    let twelve = format!("[{{\"a\":\"{}\"}}]", "x".repeat(12 * 1024));
    assert!(send(&server, "f", &twelve).await.refusal(503).contains("share of the queue"));
    let unnamed = format!("{{\"token\":\"q\",\"data\":{twelve}}}");
    assert!(server.post_json(&unnamed).await.refusal(503).contains("share of the queue"));
    assert_eq!(send(&server, "q", &twelve).await.status, 202);
    let too_long = "x".repeat(51 * 1024);
    assert!(send(&server, "q", &too_long).await.refusal(413).contains("share"), "it never fits");
}

#[tokio::test]
async fn with_a_share_of_100_percent_one_tenant_can_fill_the_queue() {
    let file = TokensFile::new(&[("a", &["t"], "{}")]);
    let server = file.start(&[("MAX_QUEUE_BYTES", "4KiB"), ("TENANT_QUEUE_SHARE", "100%")]).await;
    let mut slow = server.connect().await;
    slow.write(&post("X-Api-Key: t\r\n", &[b'{'; 4096])[..4096]).await;
    server.metric_is("millpond_queue_bytes", |bytes| bytes > 3000.0).await;
    let kib = format!("[{{\"a\":\"{}\"}}]", "x".repeat(1024));
    assert!(send(&server, "t", &kib).await.refusal(503).contains("the queue is full"));
}
