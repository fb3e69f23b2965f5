//! Backpressure from a store that hangs, fails or throttles. Accepted jobs are kept; others are rejected.

use std::collections::HashSet;

use loadtest::s3::{Fault, FaultPlan, S3Server};
use tokio::task::JoinSet;

use crate::support::{Server, get, lines, post, until};

/// Sends jobs `{"n":from}`, `{"n":from + 1}` … until one is rejected. Returns the numbers that got 202.
async fn post_until_rejected(server: &Server, from: usize) -> HashSet<usize> {
    let mut accepted = HashSet::new();
    for n in from.. {
        let answer = server.post_json(&format!("{{\"n\":{n}}}")).await;
        if answer.status != 202 {
            assert!(answer.refusal(503).contains("queue is full"));
            assert!((1..=45).contains(&answer.header("retry-after").parse::<u64>().unwrap()));
            break;
        }
        accepted.insert(n);
    }
    accepted
}

/// The number of connections of a flood.
const FLOOD_CONNECTIONS: usize = 16;

/// Sends a request `requests` times on each connection. Returns the number of 503s.
async fn flood(server: &Server, request: &[u8], requests: usize) -> usize {
    let mut senders = JoinSet::new();
    for _ in 0..FLOOD_CONNECTIONS {
        let (mut connection, request) = (server.connect().await, request.to_vec());
        senders.spawn(async move {
            let mut refused = 0;
            for _ in 0..requests {
                connection.write(&request).await;
                refused += usize::from(connection.answer().await.expect("an answer").status == 503);
            }
            refused
        });
    }
    senders.join_all().await.iter().sum()
}

fn stored(root: &std::path::Path) -> Vec<usize> {
    lines(root)
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap() as usize)
        .collect()
}

#[tokio::test]
async fn while_the_store_hangs_requests_are_rejected_and_afterwards_everything_is_stored() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [
        ("ACK", "memory"),
        ("MAX_WORKERS", "2"),
        ("MAX_QUEUE", "10"),
        ("OBJECT_MAX_BYTES", "1"),
        ("RECORD", "payload"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;

    let mut accepted = HashSet::new();
    // A rejection may only mean that the dispatcher is behind, so repeat until the queue is full.
    until("everything is full", async || {
        accepted.extend(post_until_rejected(&server, accepted.len()).await);
        let metrics = server.metrics().await;
        let full = [("queue_jobs", 10.0), ("busy_workers", 2.0), ("segments_waiting", 1.0)];
        // A worker is busy before its request has reached the store.
        let is_hanging = s3.stats().in_flight_peak == 2;
        is_hanging && full.iter().all(|(name, value)| metrics[&format!("millpond_{name}")] == *value)
    })
    .await;
    // Ten jobs in the queue, and at least one in each of two uploads and one sealed segment.
    assert!((13..=40).contains(&accepted.len()), "{}", accepted.len());
    assert_eq!(server.metric("millpond_jobs_waiting").await, accepted.len() as f64);
    let (status, text) = server.ready().await;
    assert!(status == 503 && text.contains("queue full"), "{text}");
    assert_eq!(get(server.public, "/health").await.status, 503);
    assert_eq!(server.post_json("{\"n\":0}").await.status, 503, "the queue stays full");

    s3.faults().set(FaultPlan::none());
    until("room", async || {
        let answer = server.post_json("{\"n\":1000000}").await.status;
        if answer == 202 {
            accepted.insert(1_000_000);
        }
        answer == 202
    })
    .await;
    assert_eq!(server.stop().await, Some(0));
    let stored = stored(&root.path().join("telemetry"));
    assert_eq!(stored.len(), accepted.len(), "no payload is stored twice");
    assert_eq!(stored.into_iter().collect::<HashSet<_>>(), accepted);
    assert_eq!(s3.stats().in_flight_peak, 2, "MAX_WORKERS uploads at once and never more");
}

#[tokio::test]
async fn memory_is_bounded_during_a_flood_while_the_store_hangs() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [
        ("ACK", "memory"),
        ("MAX_WORKERS", "2"),
        ("MAX_QUEUE_BYTES", "4MiB"),
        ("OBJECT_MAX_BYTES", "256KiB"),
        ("COMPRESSION", "none"),
    ];
    let server = Server::start_with_s3(&s3, &env).await;
    let request =
        post("Content-Type: application/json\r\n", format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024)).as_bytes());

    // Three times the capacity of the queue and the segments, so that every limit is reached.
    assert!(flood(&server, &request, 100).await > 0);
    let (full, waiting) = (server.peak(), server.metric("millpond_jobs_waiting").await);
    assert!(waiting * 16.0 * 1024.0 <= (4 << 20) as f64 + 3.0 * (1 << 20) as f64, "{waiting} jobs");
    // A hundred times more has no effect on the memory.
    assert_eq!(flood(&server, &request, 2000).await, FLOOD_CONNECTIONS * 2000);
    assert_eq!(server.metric("millpond_jobs_waiting").await, waiting);
    let after = server.peak();
    assert!(after < full + 8 * 1024, "{full} KiB grew to {after} KiB");
}

#[tokio::test]
async fn memory_is_bounded_during_a_flood_that_fills_the_spool() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [
        ("ACK", "disk"),
        ("MAX_WORKERS", "2"),
        ("MAX_QUEUE_BYTES", "4MiB"),
        ("SPOOL_MAX_BYTES", "32MiB"),
        ("OBJECT_MAX_BYTES", "1MiB"),
        ("COMPRESSION", "none"),
    ];
    let server = Server::start_with_s3(&s3, &env).await;
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024));
    let request = post("Content-Type: application/json\r\n", body.as_bytes());
    let before = server.peak();
    // More than the capacity of the spool.
    assert!(flood(&server, &request, 150).await > 0);
    let (full, spooled) = (server.peak(), server.metric("millpond_spool_bytes").await);
    assert!((f64::from(28 << 20)..=f64::from(32 << 20)).contains(&spooled), "{spooled} bytes are spooled");
    assert!(full < before + 20 * 1024, "{before} KiB grew to {full} KiB with {spooled} bytes in the spool");
    // Three times more has no effect on the memory.
    assert_eq!(flood(&server, &request, 500).await, FLOOD_CONNECTIONS * 500);
    let after = server.peak();
    assert!(after < full + 8 * 1024, "{full} KiB grew to {after} KiB");
}

#[tokio::test]
async fn a_full_queue_is_503_and_a_batch_larger_than_the_queue_is_413() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [
        ("ACK", "memory"),
        ("MAX_WORKERS", "1"),
        ("MAX_QUEUE_BYTES", "3100"),
        ("OBJECT_MAX_BYTES", "1"),
        ("RECORD", "payload"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;
    let body = format!("{{\"n\":1,\"a\":\"{}\"}}", "x".repeat(1000));
    let mut accepted = 0;
    while server.post_json(&body).await.status == 202 {
        accepted += 1;
    }
    assert!((3..=8).contains(&accepted), "{accepted}");
    assert!(server.metric("millpond_queue_bytes").await <= 3100.0);
    s3.faults().set(FaultPlan::none());
    server.metric_is("millpond_jobs_waiting", |jobs| jobs == 0.0).await;
    let many = format!("[{}{{}}]", "{},".repeat(2000));
    assert!(server.post_json(&many).await.refusal(413).contains("MAX_QUEUE_BYTES"));
    assert_eq!(server.metric("millpond_queue_bytes").await, 0.0);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(stored(&root.path().join("telemetry")).len(), accepted);
}

#[tokio::test]
async fn with_a_store_that_fails_every_other_call_everything_is_stored_once() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let kinds = [Fault::SlowDown, Fault::InternalError, Fault::DropBefore, Fault::DropAfter, Fault::Hang];
    s3.faults().set(FaultPlan::share(0.5, kinds).unwrap());
    let env = [
        ("ACK", "memory"),
        ("OBJECT_MAX_BYTES", "1"),
        ("RECORD", "payload"),
        ("S3_TIMEOUT", "300ms"),
        ("MAX_WORKERS", "4"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;
    let mut sent = 0;
    until("every fault", async || {
        assert_eq!(server.post_json(&format!("{{\"n\":{sent}}}")).await.status, 202);
        sent += 1;
        s3.stats().faults.len() == 5
    })
    .await;
    server.metric_is("millpond_jobs_stored_total", |stored| stored == sent as f64).await;
    assert!(server.metric("millpond_upload_retries_total{class=\"transient\"}").await > 0.0);
    assert!(server.metric("millpond_upload_retries_total{class=\"timed_out\"}").await > 0.0);
    assert!(server.metric("millpond_upload_retries_total{class=\"throttled\"}").await > 0.0);
    s3.faults().set(FaultPlan::none());
    assert_eq!(server.stop().await, Some(0));
    let mut stored = stored(&root.path().join("telemetry"));
    stored.sort_unstable();
    assert_eq!(stored, (0..sent).collect::<Vec<_>>());
}

#[tokio::test]
async fn throttling_lowers_the_upload_limit_and_success_raises_it() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::SlowDown));
    let env = [("ACK", "memory"), ("MAX_WORKERS", "8"), ("OBJECT_MAX_BYTES", "1"), ("RECORD", "payload")];
    let server = Server::start_with_s3(&s3, &env).await;
    for _ in 0..8 {
        assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
    }
    server.metric_is("millpond_upload_limit", |limit| limit == 1.0).await;
    until("trouble that lasts", async || server.ready().await.0 == 503).await;
    assert!(server.ready().await.1.contains("SlowDown"), "{}", server.ready().await.1);
    s3.faults().set(FaultPlan::none());
    until("the limit's rise", async || {
        assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
        server.metric("millpond_upload_limit").await == 8.0
    })
    .await;
    assert_eq!(server.ready().await.0, 200);
}
